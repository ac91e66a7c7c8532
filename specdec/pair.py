"""From the names in a `RunConfig` to a target, a drafter and their tokenizer.

Weights are loaded once by a `ModelLoader` and shared by every run; a page wraps one in its own
cache. What a run changes lives in the objects that `start` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from specdec.block import find_rule
from specdec.drafters.base import Drafter
from specdec.drafters.branches import BranchesDrafter
from specdec.drafters.ensemble import EnsembleDrafter
from specdec.drafters.feature import make_feature_drafter
from specdec.drafters.lookahead import LookaheadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.recall import Recall, RecallDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.drafters.translated import make_model_drafter
from specdec.drafters.tree import TreeDrafter
from specdec.engine import RoundSettings
from specdec.errors import ModelError, SettingsError
from specdec.models import backends
from specdec.models.base import LanguageModel
from specdec.models.eagle3 import HeadWeights, is_feature_head
from specdec.models.feature_head import FeatureHead
from specdec.models.fetch import hub
from specdec.models.fetch.digest import digest_weights
from specdec.models.fetch.progress import CONNECTING, LOADING, no_progress
from specdec.models.json_values import Values, read_json
from specdec.models.llama import FloatArray, read_embedding
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer
from specdec.offers import Offers
from specdec.policies.named import find_policy
from specdec.settings import MARK, TRAINED_DRAFTS, TRAINED_HEADS, RunConfig
from specdec.targets.base import Target
from specdec.targets.link import EmulatedLink
from specdec.targets.local import LocalTarget
from specdec.targets.server.endpoints import endpoints_from_environment, find_endpoint
from specdec.targets.server.faults import OnWait
from specdec.targets.server.remote import RemoteTarget, open_remote

DRAFT_STRATEGIES = {
    "layer-skip": "the target's own weights with a fifth of the layers left out",
    "ngram": "prompt lookup: what followed the same words before",
    RecallDrafter.name: "prompt lookup that also reads saved runs of the same prompt",
    "suffix": "suffix decoding: what mostly followed the same words, as far as that is likely",
    "lookahead": "lookahead decoding: the target's own guesses of what comes, refined in parallel",
    "none": "nothing: plain decoding",
}


_LOOKUPS: Mapping[str, Callable[[], Drafter]] = {
    "ngram": NgramDrafter,
    "suffix": SuffixDrafter,
    LookaheadDrafter.name: LookaheadDrafter,
    "none": NoDrafter,
}
"""The strategies that need no weights."""


def draft_choices(target: str) -> dict[str, str]:
    """Return what can draft for `target` without naming a model: the trained one first, in words.

    Strategies that need the target's weights are left out where these are behind a server.
    """
    choices = {}
    offers = Offers.from_environment()
    trained = [of[target] for of in (TRAINED_HEADS, TRAINED_DRAFTS) if target in of]
    for name in offers.models_among(trained):
        choices[name] = hub.KNOWN_MODELS[name].description
    name = TRAINED_DRAFTS.get(target, "")
    if name in choices:
        for sign, words in (("+", "one mixture of both"), ("|", "a branch of each")):
            choices[f"{name}{sign}suffix"] = f"the trained draft and suffix decoding: {words}"
    choices |= DRAFT_STRATEGIES
    if find_endpoint(target) is not None:
        del choices["layer-skip"]
    return choices | {name: "offered on this machine" for name in offers.named if name != target}


def target_choices() -> list[str]:
    """Return the targets that can be chosen by name: known models, then the servers of `.env`.

    Where this machine offers only some (`SPECDEC_MODELS`, `SPECDEC_TARGETS`), those.
    """
    offers = Offers.from_environment()
    known = [n for n, model in hub.KNOWN_MODELS.items() if isinstance(model, hub.KnownModel)]
    listed = [name for name in offers.named if name not in hub.KNOWN_MODELS]
    servers = [MARK + name for name in endpoints_from_environment()]
    return offers.targets_among([*known, *listed, *servers])


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A language model with its tokenizer, or a feature head that drafts for one.

    `model` is None where `remote` or `head` holds the weights; `digest` identifies those that are
    here, and `folder` is where they were read. A head speaks its target's tokens and has no
    tokenizer. `runs_on` says which backend runs the weights, and why.
    """

    model: LanguageModel | None
    tokenizer: Tokenizer | None
    remote: RemoteTarget | None = None
    digest: str | None = None
    folder: Path | None = None
    head: HeadWeights | None = None
    runs_on: str = ""

    @property
    def target(self) -> Target:
        if self.remote is not None:
            return self.remote
        if self.model is None:
            raise SettingsError(
                f"{self.folder and self.folder.name} is a feature head: it drafts for a target and "
                "is none itself; choose it as the draft."
            )
        return LocalTarget(self.model)

    @property
    def own_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of a model that has one."""
        assert self.tokenizer is not None
        return self.tokenizer

    @property
    def num_layers(self) -> int:
        """Return how many layers the weights that are here have."""
        if isinstance(self.model, PortableModel):
            return self.model.llama.config.num_layers
        assert self.folder is not None
        file = self.folder / "config.json"
        return Values(file, read_json(file)).whole("num_hidden_layers")

    def embedding(self) -> FloatArray:
        """Return the token embedding [vocab_size, width] of weights that are here."""
        if isinstance(self.model, PortableModel):
            return self.model.llama.weights.embedding
        assert self.folder is not None
        return read_embedding(self.folder)


Load = Callable[[str, str], LoadedModel]
"""(name, place) → weights, `place` as `RunConfig` has it; pass a cached one to share them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a run needs, ready to start.

    `digests` of the weights that are here, by model name; `runs_on` says which backend runs the
    target, and why.
    """

    tokenizer: Tokenizer
    target: Target
    drafter: Drafter
    digests: dict[str, str] = field(default_factory=dict)
    runs_on: str = ""

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the token ids of `prompt` as a user's turn of the target's chat template.

        Raises:
            SettingsError: the prompt is empty.
        """
        check_prompt(prompt)
        return self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}])

    def round_settings(self, config: RunConfig) -> RoundSettings:
        policy, rule = find_policy(config.policy), find_rule(config.rule)
        return RoundSettings(self.drafter, config.num_draft_tokens, config.sampler, policy, rule)


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that asks nothing.

    Raises:
        SettingsError: it is empty.
    """
    if not prompt.strip():
        raise SettingsError("The prompt is empty; write something for the model to answer.")


def load_model(name: str, place: str, progress: hub.Progress | None = None) -> LoadedModel:
    """Fetch a model if need be and open it at a place ("auto", "portable", "torch:cuda:1").

    Connect to an endpoint ("@name").

    Raises:
        SettingsError: it is not offered here, there is no such endpoint, or its key is missing.
        ModelError: it cannot be fetched or opened.
        TargetError: the server cannot be reached, or cannot verify drafts.
    """
    Offers.from_environment().check_model(name)
    report = progress or no_progress
    endpoint = find_endpoint(name)
    if endpoint is not None:
        report(0, None, CONNECTING)
        remote = open_remote(endpoint, on_wait=lambda waiting: report(0, None, str(waiting)))
        return LoadedModel(None, remote.tokenizer, remote)
    folder = hub.resolve(name, progress=progress)
    report(0, None, LOADING)
    digest = digest_weights(folder)
    if is_feature_head(folder):
        return LoadedModel(None, None, digest=digest, folder=folder, head=HeadWeights.load(folder))
    chosen = backends.choose(place, folder)
    tokenizer = Tokenizer.load(folder)  # first: its template's process starts beside the weights
    model = backends.open_model(folder, name, chosen, report)
    if tokenizer.vocab_size > model.vocab_size:
        raise ModelError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} tokens, and the model's "
            f"embedding only {model.vocab_size}; they are not of the same model, so fetch it again."
        )
    runs_on = backends.describe(model, chosen)
    return LoadedModel(model, tokenizer, digest=digest, folder=folder, runs_on=runs_on)


def make_pair(
    config: RunConfig,
    load: Load = load_model,
    on_wait: OnWait | None = None,
    recall: Recall | None = None,
) -> Pair:
    """Build what `config` names.

    `on_wait` is told while a failed call to a server waits for its next attempt; what it raises
    ends the wait. `recall` finds earlier answers, for a draft that reads them.

    Raises:
        SpecdecError: a model cannot be opened or reached, or the draft does not fit the target.
    """
    Offers.from_environment().check_target(config.target)
    digests: dict[str, str] = {}
    load = noting(load, digests)
    loaded = load(config.target, config.place)
    target = loaded.target
    if config.one_row and loaded.model is not None:
        target = LocalTarget(loaded.model, one_row=True)
    if isinstance(target, RemoteTarget) and on_wait is not None:
        target = target.watched_by(on_wait)
    if config.rtt_ms > 0:
        target = EmulatedLink(target, config.rtt_ms / 1e3, config.jitter_ms / 1e3, seed=config.seed)
    drafter = make_drafter(
        config.draft, loaded, config.place, load, tree=config.tree, recall=recall
    )
    return Pair(loaded.own_tokenizer, target, drafter, digests, loaded.runs_on)


def noting(load: Load, digests: dict[str, str]) -> Load:
    """Return `load`, which writes down in `digests` the weights that it opened, by model name."""

    def load_and_note(name: str, place: str) -> LoadedModel:
        loaded = load(name, place)
        if loaded.model is not None and loaded.digest is not None:
            digests[loaded.model.name] = loaded.digest
        if loaded.head is not None and loaded.digest is not None:
            digests[name] = loaded.digest
        return loaded

    return load_and_note


def takes_tree(draft: str) -> bool:
    """Say whether what drafts is a model, which can draft a tree of any shape."""
    return draft not in (*_LOOKUPS, RecallDrafter.name) and not _members(draft)


_GROUPS: Mapping[str, Callable[[Sequence[Drafter]], Drafter]] = {
    BranchesDrafter.sign: BranchesDrafter,
    EnsembleDrafter.sign: EnsembleDrafter,
}
"""What several drafters make together, by the sign between their names; the first binds least."""


def _members(draft: str) -> list[str]:
    """Return the names of the drafters in a group ("a+b", "a|b"); none for a single one.

    A folder or file that bears such a sign in its name is a model.
    """
    if Path(draft).exists():
        return []
    sign = _sign(draft)
    return [name.strip() for name in draft.split(sign)] if sign else []


def _sign(draft: str) -> str | None:
    return next((sign for sign in _GROUPS if sign in draft), None)


def make_drafter(
    draft: str,
    target: LoadedModel,
    place: str,
    load: Load = load_model,
    *,
    tree: str = "",
    recall: Recall | None = None,
) -> Drafter:
    """Build the drafting strategy or open the draft model named `draft`.

    Args:
        draft: one of `DRAFT_STRATEGIES`, a model name, or several of these: "a+b" draw from one
            mixture, "a|b" draft a branch each.
        target: what it drafts for.
        place: where a draft model runs.
        load: how a draft model is opened.
        tree: shape of a model's draft, as `RunConfig.tree` has it.
        recall: finds earlier answers to a prompt.

    Raises:
        SettingsError: the target's weights are not here to be drafted with, or the draft's, or no
            earlier answers; there is no such shape, or none for this strategy; or the drafter needs
            of the target what it cannot give.
        ModelError: the model cannot be opened, or shares too few tokens with the target.
    """
    if tree and not takes_tree(draft):
        raise SettingsError(
            f"{draft} drafts no tree of a given shape; choose a draft model or layer-skip, or "
            "leave the shape out."
        )
    drafter = _make_drafter(draft, target, place, load, tree, recall)
    refusal = target.target.cannot_give(drafter.wants)
    if refusal is not None:
        raise SettingsError(f"{drafter.name} cannot draft for {target.target.name}: {refusal}")
    return drafter


def _make_drafter(
    draft: str, target: LoadedModel, place: str, load: Load, tree: str, recall: Recall | None
) -> Drafter:
    if members := _members(draft):
        if _sign(draft) == EnsembleDrafter.sign and LookaheadDrafter.name in members:
            raise SettingsError(
                "lookahead drafts a tree of its own and cannot be mixed into one chain; give it a "
                f"branch: {draft.replace(EnsembleDrafter.sign, BranchesDrafter.sign)}."
            )
        return _GROUPS[_sign(draft) or ""](
            [_make_drafter(name, target, place, load, "", recall) for name in members]
        )
    if draft in _LOOKUPS:
        return _LOOKUPS[draft]()
    if draft == RecallDrafter.name:
        if recall is None:
            raise SettingsError(
                f"{draft} reads saved runs of the same prompt, and there are none to read here; "
                "choose ngram, which reads the prompt and what it has written so far."
            )
        return RecallDrafter(recall, target.target.vocab_size)
    if draft == "layer-skip":
        if target.model is None:
            raise SettingsError(
                "layer-skip drafts with the target's own weights, and these are behind a server; "
                "choose ngram or a draft model."
            )
        model = target.model.without_middle_layers()
        return TreeDrafter(model, tree, draft) if tree else ModelDrafter(model, draft)
    loaded = load(draft, place)
    if loaded.head is not None:
        return _make_feature_drafter(draft, loaded.head, target, tree)
    if loaded.model is None:
        raise SettingsError(f"{draft} is behind a server, so it cannot draft; choose a model here.")
    return make_model_drafter(
        loaded.model,
        loaded.own_tokenizer,
        target.own_tokenizer,
        target.target.vocab_size,
        shape=tree or None,
    )


def _make_feature_drafter(name: str, head: HeadWeights, target: LoadedModel, tree: str) -> Drafter:
    if target.model is None:
        raise SettingsError(
            f"{name} drafts from the target's hidden states, and a server keeps these to itself; "
            "choose another draft, or a target on this machine."
        )
    feature_head = FeatureHead(name, head, target.embedding())
    return make_feature_drafter(feature_head, target.num_layers, tree or None)
