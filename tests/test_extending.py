"""The code of docs/extending.md, as files of their own modules: a metric beside others, boxes in a csv."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import PIL.Image
import pytest
import torch
import yaml
from commands import ROOT
from hydra.utils import get_class
from test_docs import named_blocks

from ufo.backbones import AnswerCache
from ufo.data.errors import DataError
from ufo.kinds import ImageInfo, Referred, Shown, Usual
from ufo.metrics.base import scoring
from ufo.metrics.box_map import BoxMAP
from ufo.model import UFO
from ufo.modules.base import UFOModule
from ufo.ops.grid import query_grid
from ufo.types import Batch, Prediction, Target

BLOCKS = named_blocks(ROOT / "docs" / "extending.md")
CSV = "image,x1,y1,x2,y2,label\na.png,2,3,12,9,cat\nb.png,0,0,40,30,dog\na.png,20,5,30,25,dog\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A block of the page as a module."""

    def load(name: str) -> ModuleType:
        file = tmp_path / Path(name).name
        file.write_text(BLOCKS[name], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, made)
        spec.loader.exec_module(made)
        return made

    return load


def test_every_file_of_the_page_is_new():
    assert len(BLOCKS) == 9
    assert not [name for name in BLOCKS if (ROOT / name).exists()]


def test_a_metric_stands_beside_those_of_its_kind(module):
    made = module("ufo/metrics/count_error.py")
    metric, box_map = made.CountError(), BoxMAP()
    assert scoring("detection", [metric, box_map]) == [metric, box_map]
    targets = [Target(id=str(i), size=(30, 40), boxes=torch.tensor([[0.0, 0, 9, 9]])) for i in range(2)]
    batch = Batch(
        task="detection",
        source="toys",
        images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        classes=("cat",),
        texts=["", ""],
        targets=targets,
    )
    found = [
        Prediction("detection", boxes=torch.zeros(3, 4), scores=torch.tensor([0.9, 0.6, 0.2])),
        Prediction("detection", boxes=torch.zeros(1, 4), scores=torch.tensor([0.1])),
    ]
    metric.collect(found, batch)
    assert metric.compute() == {"val/toys/count_error": 1.0}  # one too many, one too few
    made.CountError.task = "detection"
    assert scoring("detection", [metric, box_map]) == [metric]


def test_a_point_is_a_kind_of_its_own(module):
    made = module("ufo/kinds/pointed.py")
    kind, target = made.Pointed(), Target(id=0, size=(30, 40), boxes=torch.tensor([[10.0, 5, 20, 15]]))
    usual = Usual(box=torch.tensor([[0.25, 0.2, 0.5, 0.4]]), label=0, text="")
    found = Prediction("point", **kind.trivial(usual, target.size))
    none = Prediction("point", boxes=torch.zeros(0, 4), scores=torch.zeros(0), text="12,")
    assert kind.score(found, target, ()) == 1 and kind.note(found, target) == "hit"
    assert kind.score(none, target, ()) == 0 and "no point" in kind.summary(none, 0.0, "the owl")
    image = ImageInfo(7, "a.png", (60, 80))
    assert kind.records(found, image, target.size, "the owl")[0]["point"] == [30, 18]
    assert kind.records(none, image, target.size)[0]["point"] is None
    for said, scaled in ((found, [[30, 18, 30, 18]]), (none, [])):
        (record,) = kind.records(said, image, target.size)
        assert kind.reread(record)["boxes"].tolist() == scaled
    assert kind.predicted(found, Shown(())).boxes.tolist() == [[12, 6, 18, 12]]
    assert not len(kind.predicted(none, Shown(())).boxes) and kind.row(none, target)[-1] == 0
    assert Referred().is_like(kind) and not kind.is_like(Referred())


@pytest.fixture
def plain_vit(module, tokenizer):
    torch.manual_seed(0)
    made = module("ufo/backbones/plain_vit.py").PlainViT
    return made(
        vocab_size=len(tokenizer), width=16, depth=1, heads=2, image_size=24, patch_size=4, window_size=3
    ).eval()


@pytest.mark.parametrize("dense", [False, True])
def test_answers_of_a_backbone_do_not_depend_on_how_they_are_asked(plain_vit, dense):
    images, prompt = torch.randint(0, 256, (2, 3, 24, 48), dtype=torch.uint8), torch.tensor([[5, 6, 7]])
    queries = query_grid(2, 4, 1) if dense else None
    with torch.no_grad():
        context = plain_vit.encode(images, prompt, torch.ones_like(prompt, dtype=torch.bool), queries)
        rows = context.num_rows
        assert rows == 2 * (8 if dense else 1) and context.image_features.shape == (2, 6, 12, 16)
        ids = torch.randint(0, 20, (rows, 5))
        whole = plain_vit.answer(context, ids)
        cache = AnswerCache(5)
        parts = [plain_vit.answer(context, part, cache=cache) for part in ids.split([2, 1, 2], dim=1)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        packed = torch.tensor([1, 3, 5])
        assert torch.allclose(plain_vit.answer(context, ids, packed), whole.flatten(0, 1)[packed], atol=1e-5)
        left = torch.tensor([rows - 1])
        assert torch.allclose(plain_vit.answer(context.select(left), ids[left]), whole[left], atol=1e-5)
        mask = torch.tensor([[True, True, True, False]])
        padded = plain_vit.encode(images, torch.tensor([[5, 6, 7, 9]]), mask, queries)
        assert torch.allclose(plain_vit.answer(padded, ids), whole, atol=1e-5)


def test_a_backbone_learns_every_task_and_is_built_again(plain_vit, tokenizer, make_tiny_task, make_batch):
    tasks = {name: make_tiny_task(name) for name in ("instance_segmentation", "grounding")}
    model = UFO(plain_vit, tokenizer, tasks, mask_points=16)
    for name in tasks:
        model.loss(make_batch(name))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in plain_vit.layers.parameters())
    assert set(plain_vit.config) == set(inspect.signature(type(plain_vit)).parameters)
    again = type(plain_vit)(**plain_vit.config)
    again.load_state_dict(plain_vit.state_dict())
    settings = yaml.safe_load(BLOCKS["conf/backbone/plain_vit.yaml"])
    assert issubclass(get_class(settings["module"]["_target_"]), UFOModule)


def test_boxes_of_a_csv(module, tmp_path):
    made = module("ufo/data/datasets/csv_boxes.py")
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(CSV)
    data = made.CsvBoxes(tmp_path, tmp_path / "boxes.csv", train=True, min_size=1)
    assert data.classes == ("cat", "dog") and len(data) == 2
    sample = data[0]
    assert sample["boxes"].tolist() == [[2, 3, 12, 9], [20, 5, 30, 25]] and sample["labels"].tolist() == [
        0,
        1,
    ]
    (tmp_path / "wrong.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(DataError, match="the header must be image,x1,y1,x2,y2,label"):
        made.CsvBoxes(tmp_path, tmp_path / "wrong.csv", train=True)
