"""What tests of checkpoints start from: a small model in its folder; a language model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_mllm import FAMILIES, make_mllm
from torch import Tensor

from ufo.checkpoints.load import save
from ufo.model import UFO


@pytest.fixture
def model(make_model) -> UFO:
    return make_model()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A model folder with its weights."""
    return save(model, tmp_path / "model")


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


class Pretrained(NamedTuple):
    """A pretrained model of transformers in a folder: it knows none of UFO's tokens."""

    path: Path
    weights: dict[str, Tensor]
    known: int  # tokens


@pytest.fixture
def start(family, tmp_path) -> Pretrained:
    model = make_mllm(family)
    net, known = model.backbone.net, len(model.tokenizer) - model.tokenizer.appended
    net.resize_token_embeddings(known, mean_resizing=False)
    net.save_pretrained(tmp_path / "base")
    return Pretrained(tmp_path / "base", {k: v.clone() for k, v in net.state_dict().items()}, known)
