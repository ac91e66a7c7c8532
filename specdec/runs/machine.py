"""The machine and the versions a run was measured on."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("numpy", "numba", "mlx", "mlx-lm", "torch", "transformers", "tokenizers", "streamlit")


@cache
def describe_environment() -> dict[str, str]:
    """Return the hardware and the versions that matter for a measurement, by name."""
    described = {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "num_cpus": str(num_cpus()),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return described


@cache
def machine_mark() -> str:
    """Return what tells this machine from others, and names neither it nor its owner."""
    return hashlib.sha256(f"specdec {platform.node()} {_processor()}".encode()).hexdigest()[:12]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cpus() -> int:
    """Count the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
