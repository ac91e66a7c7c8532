"""Speculative decoding, for real and in slow motion: the engine behind SpeculatoViz."""

from specdec.acceptance import Draft, verify
from specdec.baseline import decode_plainly, measure_block, value_of
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.engine import RoundSettings, generate
from specdec.errors import ModelError, SettingsError, SpecdecError, TargetError
from specdec.metrics import Baseline, RollingWindow, Totals
from specdec.records import (
    Drafted,
    Event,
    FinishReason,
    Prefilled,
    RoundResult,
    RunSummary,
    TokenRecord,
    TokenStatus,
    TopToken,
)
from specdec.sampling import Distribution, Sampler
from specdec.settings import RunConfig, Settings
from specdec.targets.base import Exactness, Scores
from specdec.targets.link import EmulatedLink
from specdec.targets.local import LocalTarget

__all__ = [
    "Baseline",
    "Distribution",
    "Draft",
    "Drafted",
    "EmulatedLink",
    "Event",
    "Exactness",
    "FinishReason",
    "LocalTarget",
    "ModelDrafter",
    "ModelError",
    "NgramDrafter",
    "NoDrafter",
    "Prefilled",
    "RollingWindow",
    "RoundResult",
    "RoundSettings",
    "RunConfig",
    "RunSummary",
    "Sampler",
    "Scores",
    "Settings",
    "SettingsError",
    "SpecdecError",
    "TargetError",
    "TokenRecord",
    "TokenStatus",
    "TopToken",
    "Totals",
    "decode_plainly",
    "generate",
    "measure_block",
    "value_of",
    "verify",
]
