"""A recommended arm as the line that a server wants: only what that server really has.

The names are those of the versions given, as their own documentation or `--help` spells them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from specdec.drafters.ngram import NgramDrafter
from specdec.lab.plan import OWN_SERVER, Arm, Plan
from specdec.models.fetch.known import KNOWN_MODELS, KnownModel
from specdec.pair import DRAFT_STRATEGIES
from specdec.records import FIXED_POLICY
from specdec.settings import TRAINED_DRAFTS, TRAINED_HEADS, is_endpoint

_NGRAM = NgramDrafter()


@dataclass(frozen=True, slots=True)
class Configuration:
    """What to paste for one server; `text` is empty where it has no such thing, and `note` why."""

    server: str
    version: str
    text: str
    note: str = ""
    language: str = "bash"


def configurations(plan: Plan, arm: Arm) -> list[Configuration]:
    """Return an arm as every server says it, and ours last."""
    return [make(plan, arm) for make in _SERVERS]


def _hub_name(name: str) -> str:
    """Return the name under which others find a model."""
    known = KNOWN_MODELS.get(name)
    return known.repo_id if isinstance(known, KnownModel) else name


def _is_model(arm: Arm) -> bool:
    """Say whether a model of its own drafts, one that others can open."""
    is_several = any(mark in arm.draft for mark in "+|")
    return not (arm.draft in DRAFT_STRATEGIES or arm.draft in _SHIPPED or is_several)


_SHIPPED = frozenset({*TRAINED_DRAFTS.values(), *TRAINED_HEADS.values()})


def _refusal(arm: Arm, kinds: str) -> str:
    """Say why a server cannot be told an arm; nothing where it can.

    Args:
        arm: what is recommended.
        kinds: what the server can do of "model" and "ngram".
    """
    if arm.is_plain:
        return "Plain decoding needs no configuration: leave speculation out."
    if arm.draft == OWN_SERVER:
        return "The server is fastest as it is: leave its own settings alone."
    if arm.draft in _SHIPPED:
        return (
            "The shipped draft writes a part of the vocabulary only, which no other server reads; "
            "measure a draft model or prompt lookup to have a line here."
        )
    if arm.tree or not (_is_model(arm) or arm.draft == "ngram"):
        return "It has no such way of drafting."
    if (arm.draft == "ngram") and "ngram" not in kinds:
        return "It has no prompt lookup."
    return ""


def _policy_note(arm: Arm) -> str:
    if arm.policy == FIXED_POLICY:
        return ""
    return f"K stands still there; here the {arm.policy} policy moved it."


def _vllm(plan: Plan, arm: Arm) -> Configuration:
    version = "vLLM V1, --speculative-config; draft models are refused by 0.10"
    refused = _refusal(arm, "model ngram")
    if refused:
        return Configuration("vLLM", version, "", refused)
    config: dict[str, object] = {"num_speculative_tokens": arm.num_draft_tokens}
    if arm.draft == "ngram":
        config |= {
            "method": "ngram",
            "prompt_lookup_max": _NGRAM.max_ngram,
            "prompt_lookup_min": _NGRAM.min_ngram,
        }
    else:
        config |= {"method": "draft_model", "model": _hub_name(arm.draft)}
    value = shlex.quote(json.dumps(config, ensure_ascii=False))
    note = (
        "num_speculative_tokens_per_batch_size is left out: how K should shrink as the batch "
        "grows is seen on a loaded server only, and here one request ran at a time."
    )
    target = shlex.quote(_hub_name(plan.target))
    text = f"vllm serve {target} --speculative-config {value}"
    return Configuration("vLLM", version, text, f"{note} {_policy_note(arm)}".strip())


def _sglang(plan: Plan, arm: Arm) -> Configuration:
    version = "SGLang 0.5"
    refused = _refusal(arm, "model ngram")
    if refused:
        return Configuration("SGLang", version, "", refused)
    k = arm.num_draft_tokens
    parts = [
        "python -m sglang.launch_server",
        f"--model-path {shlex.quote(_hub_name(plan.target))}",
    ]
    if arm.draft == "ngram":
        parts += ["--speculative-algorithm NGRAM", f"--speculative-num-draft-tokens {k}"]
        note = "Its prompt lookup drafts a tree, on CUDA only."
    else:
        parts += [
            "--speculative-algorithm STANDALONE",
            f"--speculative-draft-model-path {shlex.quote(_hub_name(arm.draft))}",
            f"--speculative-num-steps {k}",
            "--speculative-eagle-topk 1",
            f"--speculative-num-draft-tokens {k + 1}",
        ]
        note = "It counts the token that begins a chain, so there is one more than K."
    return Configuration("SGLang", version, _lines(parts), f"{note} {_policy_note(arm)}".strip())


def _llama_cpp(plan: Plan, arm: Arm) -> Configuration:
    version = "llama.cpp, llama-server; later builds call them --spec-draft-n-max and so on"
    refused = _refusal(arm, "model ngram")
    if refused:
        return Configuration("llama.cpp", version, "", refused)
    parts = ["llama-server -m TARGET.gguf"]
    if arm.draft == "ngram":
        parts += [
            "--spec-type ngram-simple",
            f"--spec-ngram-size-n {_NGRAM.max_ngram}",
            f"--spec-ngram-size-m {arm.num_draft_tokens}",
        ]
        note = f"It looks up {_NGRAM.max_ngram} tokens only, where ours goes on to fewer."
    else:
        parts += ["-md DRAFT.gguf"]
        note = "It drafts its likeliest tokens, and goes on drafting whatever their probability."
    parts += [f"--draft-max {arm.num_draft_tokens}", "--draft-min 0"]
    parts += ["--draft-p-min 0"] if arm.draft != "ngram" else []
    return Configuration("llama.cpp", version, _lines(parts), f"{note} {_policy_note(arm)}".strip())


def _mlx_lm(plan: Plan, arm: Arm) -> Configuration:
    version = "mlx-lm 0.32"
    refused = _refusal(arm, "model")
    if refused:
        return Configuration("mlx-lm", version, "", refused)
    parts = [
        "python -m mlx_lm server",
        f"--model {shlex.quote(_hub_name(plan.target))}",
        f"--draft-model {shlex.quote(_hub_name(arm.draft))}",
        f"--num-draft-tokens {arm.num_draft_tokens}",
    ]
    note = (
        "It accepts a draft where the target draws the same token, so above temperature 0 it "
        "accepts less than was measured here."
    )
    return Configuration("mlx-lm", version, _lines(parts), f"{note} {_policy_note(arm)}".strip())


def _lm_studio(plan: Plan, arm: Arm) -> Configuration:
    version = "lmstudio-python 1.2 and later"
    refused = _refusal(arm, "model")
    if refused:
        return Configuration("LM Studio", version, "", refused)
    config = {
        "draftModel": _hub_name(arm.draft),
        "speculativeDecodingNumDraftTokensExact": arm.num_draft_tokens,
    }
    text = (
        f"model = lmstudio.llm({_hub_name(plan.target)!r})\n"
        f"model.respond(prompt, config={json.dumps(config, ensure_ascii=False)})"
    )
    note = "Its makers call the second of the two experimental."
    return Configuration("LM Studio", version, text, note, "python")


def _transformers(plan: Plan, arm: Arm) -> Configuration:
    version = "transformers 4.46 and later"
    refused = _refusal(arm, "model ngram")
    if refused:
        return Configuration("Hugging Face generate", version, "", refused)
    if arm.draft == "ngram":
        arguments = [
            f"prompt_lookup_num_tokens={arm.num_draft_tokens}",
            f"max_matching_ngram_size={_NGRAM.max_ngram}",
        ]
        before = ""
    else:
        before = (
            f"draft = AutoModelForCausalLM.from_pretrained({_hub_name(arm.draft)!r})\n"
            f"draft.generation_config.num_assistant_tokens = {arm.num_draft_tokens}\n"
            'draft.generation_config.num_assistant_tokens_schedule = "constant"\n'
            "draft.generation_config.assistant_confidence_threshold = 0\n"
        )
        arguments = ["assistant_model=draft"]
    text = f"{before}model.generate(**inputs, {', '.join(arguments)})"
    note = _policy_note(arm)
    return Configuration("Hugging Face generate", version, text, note, "python")


def _own(plan: Plan, arm: Arm) -> Configuration:
    if arm.draft == OWN_SERVER:
        return Configuration("SpeculatoViz", ".env of this version", "", _refusal(arm, ""))
    values = {
        "TARGET_MODEL": plan.target,
        "DRAFT_MODEL": arm.draft,
        "SPECULATION_K": arm.num_draft_tokens,
        "SPECULATION_TREE": arm.tree,
        "SPECULATION_POLICY": arm.policy,
        "SPECULATION_RULE": arm.rule,
        "SPECDEC_BACKEND": plan.backend,
    }
    lines = [f"{name}={_env_value(str(value))}" for name, value in values.items() if value != ""]
    note = "The server is one of this .env." if is_endpoint(plan.target) else ""
    return Configuration("SpeculatoViz", ".env of this version", "\n".join(lines), note)


def _env_value(text: str) -> str:
    """Return a value as `.env` takes it."""
    if all(one.isalnum() or one in "-_./:@" for one in text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _lines(parts: list[str]) -> str:
    """Return a command with an option a line."""
    return " \\\n  ".join(parts)


_SERVERS: tuple[Callable[[Plan, Arm], Configuration], ...] = (
    _vllm,
    _sglang,
    _llama_cpp,
    _mlx_lm,
    _lm_studio,
    _transformers,
    _own,
)
