"""Questions for the teacher, of many kinds, and the questions that are never to be trained on."""

from __future__ import annotations

import json
import random
from pathlib import Path

EVALUATION: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("evaluation_prompts.json").read_text(encoding="utf-8")
)

TOPICS = (
    """
the water cycle|a broken bicycle chain|the history of bread|sea turtles|city trams|black holes
learning the piano|a rainy Sunday|renewable energy|the Roman army|sourdough starters|volcanoes
first aid at home|a lighthouse keeper|the stock market|urban beekeeping|chess openings|glaciers
public libraries|coral reefs|job interviews|the printing press|mountain hiking|sleep|photography
a talking cat|electric cars|the human eye|vegetable gardens|moving to a new city|poetry|rainbows
time management|the Silk Road|a haunted library|recycling|friendship|whales|small talk|tea
learning a language|the moon landing|honesty|a village market|board games|vaccines|bridges|owls
saving money|the Great Wall|football|an old photograph|climate change|cooking rice|satellites
meditation|night trains|the periodic table|a lost dog|running a marathon|dreams|folk music|salt
a school play|the internet|forests|inventions|knitting|the ocean floor|good manners|robots|rivers
a job in a bakery|ancient Egypt|wind turbines|painting a room|teamwork|desert animals|clocks
""".strip()
    .replace("\n", "|")
    .split("|")
)

PROSE = (
    "Tell me about {}.",
    "Explain {} to a ten-year-old.",
    "Write a short story about {}.",
    "Write a poem about {}.",
    "What should I know about {}?",
    "Write an email to a friend about {}.",
    "Why do people care about {}?",
    "Describe {} in three sentences.",
    "Write the opening paragraph of an essay on {}.",
    "Compare {} with {}.",
    "I have to give a talk about {}. How should I begin?",
    "What would a historian say about {}?",
    "Write a conversation between two neighbours about {}.",
    "Give me your opinion on {}.",
    "Summarise the main ideas behind {}.",
    "Write a newspaper report about {}.",
    "How has {} changed over the last hundred years?",
)
LISTS = (
    "List five facts about {}.",
    "Give me ten ideas to do with {}.",
    "What are the pros and cons of {}? Use bullet points.",
    "Make a step-by-step plan for someone new to {}.",
    "Write a quiz with four questions about {}.",
    "Name three books or films that deal with {}, with one line on each.",
    "Make a table of keywords about {} with their meanings.",
    "Write a checklist for {}.",
)
FUNCTIONS = (
    """
reverses a string|checks whether a number is prime|counts the vowels in a sentence
returns the n-th Fibonacci number|sorts a list of tuples by the second item|merges two dictionaries
finds the largest number in a list|converts Celsius to Fahrenheit|removes duplicates from a list
checks whether a word is a palindrome|computes the factorial of a number|flattens a nested list
reads a CSV file and sums a column|counts how often each word occurs|does a binary search
computes the average of a list|generates a random password|transposes a matrix|validates an email
finds common elements of two lists|computes the greatest common divisor|rotates a list
splits a list into chunks|prints a multiplication table|parses a date|swaps keys and values
writes lines to a file|finds the longest word|converts a number to binary|implements a stack
implements a queue|implements bubble sort|groups names by first letter|retries a failing call
""".strip()
    .replace("\n", "|")
    .split("|")
)
CODE = (
    "Write a Python function that {}.",
    "Write a JavaScript function that {}.",
    "Show me, with an example, code that {}.",
    "Write a Python function that {}, with a docstring and a test.",
    "How would you write a C function that {}?",
    "Explain line by line a Python program that {}.",
)
SENTENCES = """
The train was late again, so we walked along the river until it was dark.
Our shop will be closed on Monday because the roof has to be repaired.
Although the experiment failed twice, the students learned more than they had expected.
She opened the letter slowly, read it once, and put it into the fire.
The committee agreed that the new park needs more trees and fewer benches.
Heavy rain is expected in the north, while the south stays dry and warm.
He has worked as a nurse for thirty years and still enjoys the night shift.
The company sold fewer phones this year but earned more from repairs.
""".strip().split("\n")
REWRITE = (
    "Rewrite this more formally: {}",
    "Summarise in a few words: {}",
    "Translate into French: {}",
    "Continue this text: {}",
    "Turn this into a dialogue: {}",
    "Correct any mistakes and say what you changed: {}",
)
KINDS = ((PROSE, TOPICS), (LISTS, TOPICS), (CODE, FUNCTIONS), (REWRITE, SENTENCES))
WEIGHTS = (5, 3, 4, 1)


def template_question(rng: random.Random) -> str:
    """Draw one question."""
    templates, subjects = rng.choices(KINDS, WEIGHTS)[0]
    template = rng.choice(templates)
    return template.format(*rng.sample(subjects, template.count("{}")))
