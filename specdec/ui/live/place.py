"""Where the models run, as the sidebar offers it: backend, device, and how the target verifies."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from specdec.errors import SpecdecError
from specdec.models import backends
from specdec.models.fetch import hub
from specdec.models.torch_devices import device_choices
from specdec.settings import AUTO, RunConfig, is_endpoint
from specdec.view import words

_FIXED = "Fixed while a run goes on; the next run takes it."


@dataclass(frozen=True, slots=True)
class ChosenPlace:
    """What was chosen; names as in `RunConfig`."""

    backend: str
    device: str
    one_row: bool


def choose_place(target: str, defaults: RunConfig, *, running: bool) -> ChosenPlace:
    """Draw the choices, with what each can do here and the memory it takes."""
    names = backends.installed_backends()
    backend = st.selectbox(
        "Backend",
        names,
        names.index(defaults.backend) if defaults.backend in names else 0,
        key="backend",
        bind="query-params",
        disabled=running,
        help="What runs the models. Only what is installed is offered: pip install torch adds "
        f"models that are no Llamas, and GPUs. {_FIXED}",
    )
    device = AUTO
    if backend == "torch":
        devices = device_choices()
        device = st.selectbox(
            "Device",
            devices,
            devices.index(defaults.device) if defaults.device in devices else 0,
            key="device",
            persist_state="session",
            disabled=running,
            help="Where PyTorch computes. auto is the first GPU, or the CPU where there is none. "
            f"{_FIXED}",
        )
    place = RunConfig(backend=backend, device=device).place
    st.caption(words.plain(_facts(target, place)))
    one_row = st.toggle(
        "Verify one row at a time",
        defaults.one_row,
        key="one_row",
        bind="query-params",
        disabled=running or is_endpoint(target),
        help="The target reads each drafted token by itself, as in plain decoding: the output is "
        "then that of plain decoding to the last bit on every backend, but nothing gets faster. "
        f"Portable needs it for nothing: its rows are the same in every batch. {_FIXED}",
    )
    return ChosenPlace(backend, device, one_row and not is_endpoint(target))


@st.cache_data(ttl=30, show_spinner="Looking at what there is …")
def _facts(target: str, place: str) -> str:
    """Say what would run, why, what it can do, and what memory the target needs there."""
    try:
        here = not is_endpoint(target) and hub.is_present(target)
        folder = hub.resolve(target) if here else None
        chosen = backends.choose(place, folder)
        said = f"{chosen.backend}, {chosen.why}: {backends.FACTS[chosen.backend]}."
        if folder is not None:
            said += f" {target} takes {backends.memory_words(chosen, folder)}."
    except SpecdecError as error:
        return str(error)
    return said
