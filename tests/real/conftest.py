"""The real weights: fetched once, absent only where nothing can be fetched, and then said so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specdec.errors import SpecdecError
from specdec.models.eagle3 import HeadWeights
from specdec.models.feature_head import FeatureHead
from specdec.models.fetch import hub
from specdec.models.portable import PortableModel
from specdec.models.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    try:
        return hub.resolve("smollm2-135m")
    except SpecdecError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the weights of smollm2-135m cannot be had: {error}")


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> PortableModel:
    return PortableModel.load(smollm2_folder, "smollm2-135m")


@pytest.fixture(scope="session")
def smollm2_draft(smollm2_folder: Path) -> PortableModel:
    return PortableModel.load(hub.resolve("smollm2-draft"), "smollm2-draft")


@pytest.fixture(scope="session")
def smollm2_head(smollm2: PortableModel) -> FeatureHead:
    weights = HeadWeights.load(hub.resolve("smollm2-eagle"))
    return FeatureHead("smollm2-eagle", weights, smollm2.llama.weights.embedding)


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_folder: Path) -> Tokenizer:
    return Tokenizer.load(smollm2_folder)
