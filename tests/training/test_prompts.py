"""The prompts that the published figures rest on are never trained on."""

from __future__ import annotations

import random
from itertools import permutations

from training.prompts import EVALUATION, KINDS, template_question


def all_template_questions() -> set[str]:
    return {
        template.format(*chosen)
        for templates, subjects in KINDS
        for template in templates
        for chosen in permutations(subjects, template.count("{}"))
    }


def test_there_are_a_hundred_different_ones() -> None:
    assert len({*EVALUATION["code"], *EVALUATION["prose"]}) == 100


def test_no_template_can_produce_one() -> None:
    assert all_template_questions().isdisjoint({*EVALUATION["code"], *EVALUATION["prose"]})


def test_every_drawn_question_is_one_of_the_templates() -> None:
    rng = random.Random(0)
    assert {template_question(rng) for _ in range(300)} <= all_template_questions()
