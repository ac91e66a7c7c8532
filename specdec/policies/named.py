"""The policies that can be chosen, by name; a new one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from specdec.errors import SettingsError
from specdec.policies.adaptive import AdaptivePolicy
from specdec.policies.base import Policy
from specdec.policies.entropy import EntropyPolicy
from specdec.policies.fixed import FixedPolicy
from specdec.policies.hf import HuggingFacePolicy

_ALL: tuple[Policy, ...] = (FixedPolicy(), AdaptivePolicy(), HuggingFacePolicy(), EntropyPolicy())
POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in _ALL}


def find_policy(name: str) -> Policy:
    """Return the policy called `name`.

    Raises:
        SettingsError: there is none.
    """
    if name not in POLICIES:
        raise SettingsError(f"There is no policy {name!r}; choose one of {', '.join(POLICIES)}.")
    return POLICIES[name]
