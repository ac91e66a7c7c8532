"""Where PyTorch can run on this machine, and how much memory is free there.

PyTorch is optional and takes seconds to import: nothing here imports it before it is asked for
a device.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from specdec.errors import ModelError

AUTO = "auto"


def has_torch() -> bool:
    """Say whether the torch backend is installed: PyTorch, and transformers."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def has_cuda() -> bool:
    """Say whether PyTorch finds an NVIDIA GPU here."""
    return bool(cuda_devices())


@cache
def cuda_devices() -> tuple[str, ...]:
    """Return what PyTorch calls the NVIDIA GPUs of this machine, the first one first.

    A wheel that says it is for the CPU is not even imported.
    """
    if not has_torch() or metadata.version("torch").endswith("+cpu"):
        return ()
    torch = import_torch()
    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


@cache
def has_mps() -> bool:
    """Say whether PyTorch finds an Apple GPU here."""
    return (
        platform.system() == "Darwin"
        and has_torch()
        and bool(import_torch().backends.mps.is_available())
    )


def device_choices() -> list[str]:
    """Return the devices that can be asked for here, "auto" first."""
    gpus = [f"cuda:{index}" for index in range(len(cuda_devices()))]
    return [AUTO, *gpus, *(["mps"] if has_mps() else []), "cpu"]


def import_torch() -> Any:
    """Import PyTorch.

    Raises:
        ModelError: it is not installed, or does not load.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a CUDA library that is not there
        raise ModelError(
            f"The torch backend is not installed ({error}); run: pip install torch transformers "
            "(README.md names the smaller wheel for the CPU), or choose another backend."
        ) from error
    return torch


def find_device(asked: str) -> str:
    """Return the device that `asked` stands for here: "cuda:0", "mps" or "cpu", say.

    Raises:
        ModelError: PyTorch is missing, or there is no such device.
    """
    torch = import_torch()
    if asked == AUTO:
        return "cuda:0" if has_cuda() else "mps" if has_mps() else "cpu"
    if asked.startswith("cuda"):
        index = int(asked.partition(":")[2] or 0)
        if index >= len(cuda_devices()):
            raise ModelError(
                f"PyTorch {torch.__version__} finds no {asked} here, but "
                f"{', '.join(device_choices()[1:])}; choose one of these, or install a PyTorch "
                "built for your GPU (https://pytorch.org/get-started)."
            )
        return f"cuda:{index}"
    if asked == "mps" and not has_mps():
        raise ModelError("PyTorch finds no Apple GPU (mps) here; choose --device cpu.")
    return asked


def device_title(device: str) -> str:
    """Return a device's name as people know it: "cuda:0 (NVIDIA …)"."""
    if device.startswith("cuda"):
        return f"{device} ({cuda_devices()[int(device.partition(':')[2] or 0)]})"
    return "mps (Apple GPU)" if device == "mps" else "the CPU"


def free_bytes(device: str) -> int | None:
    """Return how much memory is free on a device, None where the system does not say."""
    if device.startswith("cuda"):
        free, _ = import_torch().cuda.mem_get_info(device)
        return int(free)
    if device == "mps":
        mps = import_torch().mps
        return int(mps.recommended_max_memory() - mps.driver_allocated_memory())
    return free_ram()


def free_ram() -> int | None:
    """Return the main memory that programs can still have, within the container's limit."""
    known = [size for size in (_linux_available(), _cgroup_room()) if size is not None]
    if known:
        return min(known)
    try:  # macOS says how much there is, not how much is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _linux_available() -> int | None:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", path.read_text(encoding="ascii"), re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def _cgroup_room() -> int | None:
    """Return what the container's limit leaves, page cache counted as free; None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        facts = (group / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):  # ValueError: "max", which is no limit
        return None
    cached = re.search(r"^inactive_file (\d+)", facts, re.MULTILINE)
    return limit - used + (int(cached[1]) if cached else 0)


def in_gigabytes(size: int) -> str:
    """Return a number of bytes in words, in GB of 10^9."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
