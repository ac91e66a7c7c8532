"""Chat templates in the styles that models come with, hostile ones, and broken tokenizer files."""

from __future__ import annotations

from typing import Any

LOOP = "{% for message in messages %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
HEAD = "<|im_start|>{{ message['role'] }}\n"

KEPT: dict[str, str] = {
    "turns between markers": LOOP + HEAD + "{{ message['content'] }}<|im_end|>\n{% endfor %}" + ASK,
    "a generation block": LOOP
    + "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
    + "{% else %}{{ message.content }}<|im_end|>{% endif %}{% endfor %}"
    + ASK,
    "a generation block within others": LOOP
    + "{%- generation -%}{% if true %}{{ message.content }}{% endif %}{%- endgeneration -%}"
    + "{% endfor %}",
    "content trimmed": LOOP + "[INST] {{ message.content | trim }} [/INST]{% endfor %}",
    "bos before the first turn": LOOP
    + "{% set text = message['content'] | trim %}"
    + "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}",
    "a system turn split off": "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{{ m.content }}<|im_end|>{% endfor %}",
    "content as parts only": LOOP
    + "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    + "{% endfor %}{% endfor %}",
    "content as text or parts": LOOP
    + "{% if message.content is string %}{{ message.content }}{% else %}"
    + "{% for part in message.content %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}",
    "parts by attribute": LOOP + "{{ message.content | map(attribute='text') | join }}{% endfor %}",
    "the first part by its place": LOOP + "{{ message['content'][0]['text'] }}{% endfor %}",
    "parts where text is refused": LOOP
    + "{% if message.content is string %}{{ raise_exception('parts') }}{% endif %}"
    + "{{ message.content[0].text }}{% endfor %}",
    "JSON of the tools": "{{ tools | tojson if tools else '' }}" + LOOP + "{{ message.content }}"
    "{% endfor %}",
    "JSON with an indent": "{{ {'b': 1, 'a': 'é'} | tojson(indent=4) }}" + LOOP
    + "{{ message.content }}{% endfor %}",
    "JSON with every argument": "{{ [1] | tojson(ensure_ascii=False, separators=(',', ':')) }}"
    "{{ {'b': 1} | tojson(True, 2, None, True) }}" + LOOP + "{{ message.content }}{% endfor %}",
    "a namespace": "{% set ns = namespace(n=0) %}" + LOOP
    + "{% set ns.n = ns.n + 1 %}{{ ns.n }}: {{ message.content }}{% endfor %}",
    "a macro": "{% macro turn(m) %}<|im_start|>{{ m.content }}<|im_end|>{% endmacro %}" + LOOP
    + "{{ turn(message) }}{% endfor %}",
    "roles that must alternate": LOOP
    + "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}"
    + "{% endif %}{{ message.content }}{% endfor %}",
    "the day": "Today: {{ strftime_now('%d %b %Y') }}\n" + LOOP + "{{ message.content }}"
    "{% endfor %}",
    "breaks and continues": LOOP
    + "{% if message.role == 'tool' %}{% continue %}{% endif %}{{ message.content }}{% endfor %}",
    "thoughts split off": LOOP
    + "{% set text = message.content.split('</think>')[-1].lstrip('\\n') %}{{ text }}{% endfor %}",
    "whitespace taken away": "{%- for message in messages -%}\n  {{- message.content -}}\n"
    "{%- endfor -%}",
    "the last turn by its place": "{{ messages[-1]['content'] }}{{ eos_token }}",
    "methods of text": LOOP
    + "{{ message.role.upper() + ': ' + message.content.strip() }}{% endfor %}",
    "filters of lists": "{{ (messages | selectattr('role', 'equalto', 'user') | list)"
    "[-1].content }}",
}  # fmt: skip
"""Each keeps what the user says."""

REFUSED: dict[str, tuple[str, str]] = {
    "no prompt at all": ("Hello!", "leaves the prompt out"),
    "only the roles": (LOOP + "{{ message.role }}{% endfor %}", "leaves the prompt out"),
    "half of the prompt": (LOOP + "{{ message.content[:3] }}{% endfor %}", "leaves the prompt out"),
    "a name that is not there": ("{{ nobody.name }}", "'nobody' is undefined"),
    "its own refusal": ("{{ raise_exception('no such role') }}", "no such role"),
    "cut off": ("{% for message in messages %}", "cannot be read"),
    "no such filter": ("{{ messages | nonsense }}", "cannot be read"),
    "no such tag": ("{% generate %}", "cannot be read"),
    "nested without end": (
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "cannot be read|too much",
    ),
    "a way to Python": ("{{ ''.__class__.__mro__ }}", "unsafe|refuses"),
    "a file": ("{% include '/etc/passwd' %}", "refuses|no loader"),
    "a text of 10¹⁰": ("{{ 'a' * 10000000000 }}", "too much memory"),
    "a number of 5·10⁹ places": ("{{ '%5000000000d' % 1 }}", "too much memory"),
    "a format of 5·10⁹ places": ("{{ '{:5000000000d}'.format(1) }}", "too much memory"),
    "a range of 10¹²": ("{% for i in range(10**12) %}a{% endfor %}", "Range too big|refuses"),
    "ranges in ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "more than [0-9.]+ seconds",
    ),
    "a power": ("{{ 7 ** (10 ** 9) }}", "seconds|memory|too much"),
    "200 MB": (
        "{% for i in range(2000) %}{{ 'a' * 100000 }}{% endfor %}",
        "more than 4194304 characters",
    ),
    "doubling": (
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "memory|too much|seconds",
    ),
    "a list of lists": ("{{ [[0] * 100000] * 100000 }}", "memory|seconds|characters|too much"),
}
"""Each ends in one sentence, within the limits."""

SETTINGS: list[tuple[str, dict[str, Any], str | None]] = [
    ("config.json", {"eos_token_id": None}, None),
    ("config.json", {"eos_token_id": [0, 2]}, None),
    ("config.json", {"eos_token_id": -1}, None),
    ("config.json", {"eos_token_id": "2"}, "eos_token_id as '2', which is no token id"),
    ("config.json", {"eos_token_id": [2, None]}, "eos_token_id as"),
    ("config.json", {"eos_token_id": True}, "eos_token_id as True"),
    ("config.json", {"eos_token_id": 2**40}, "eos_token_id as"),
    ("generation_config.json", {"eos_token_id": {"a": 1}}, "generation_config.*eos_token_id as"),
    ("generation_config.json", {"eos_token_id": 2.0}, "eos_token_id as 2.0"),
    ("tokenizer_config.json", {"chat_template": 5}, "chat_template as 5"),
    ("tokenizer_config.json", {"chat_template": [5, {"name": "tool"}]}, None),
    ("tokenizer_config.json", {"chat_template": ""}, None),
    ("tokenizer_config.json", {"eos_token": {"no": "content"}}, None),
    ("tokenizer_config.json", {"eos_token": ["<|im_end|>"]}, None),
    ("tokenizer_config.json", {"bos_token": 7}, None),
    ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token as 'yes'"),
    ("tokenizer_config.json", {"add_bos_token": None}, None),
    ("tokenizer_config.json", {"pad_token": {"content": 3}}, None),
]
"""(file, changes, refusal)"""
