"""Pictures of a tiny run with every logger: the files, what is in them, what wandb got."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from one_weight import OneWeight
from PIL import Image
from torch.utils.data import DataLoader
from trainers import quiet_trainer
from wandb_records import finished

from ufo.callbacks.pictures import Example, Pictures
from ufo.draw import PALETTE
from ufo.kinds.overlays import class_map, painted
from ufo.ops.masks import rle_encode
from ufo.types import IGNORE, Batch, Prediction, Target

CLASSES = ("cat", "dog")
SIZE = (24, 32)
BOX = torch.tensor([[4.0, 4, 20, 16]])


def mask() -> torch.Tensor:
    result = torch.zeros(1, *SIZE, dtype=torch.bool)
    result[0, 4:16, 4:20] = True
    return result


def answer(task: str) -> Prediction:
    """What the fake model says about every image."""
    scores, labels = torch.tensor([0.9]), torch.tensor([1])
    if task == "detection":
        return Prediction(task, boxes=BOX, scores=scores, labels=labels, classes=CLASSES)
    if task == "instance_segmentation":
        return Prediction(task, boxes=BOX, scores=scores, labels=labels, masks=mask(), classes=CLASSES)
    if task == "semantic_segmentation":
        return Prediction(task, semantic=mask()[0].long(), classes=CLASSES)
    if task == "caption":
        return Prediction(task, text="a grey wall", scores=scores)
    return Prediction(task, boxes=BOX, scores=scores, text="1,2,3,4")


def truth(task: str, i: int, image: str) -> Target:
    target = Target(id=i, size=SIZE, image=image)
    if task in ("detection", "instance_segmentation"):
        target.boxes, target.labels = BOX + 2, torch.tensor([0])
        target.masks = rle_encode(mask())
    elif task == "semantic_segmentation":
        target.semantic = mask()[0].to(torch.uint8)
        target.semantic[20:] = IGNORE
    elif task == "caption":
        target.captions = ["a wall", "a größere wall"]
    else:
        target.boxes, target.text = BOX, f"thing {i}"
    return target


def batches(folder: Path, task: str, images: int = 5, repeat: int = 1) -> list[Batch]:
    """`images` different files, each `repeat` times, two per batch."""
    targets = []
    for i in range(images):
        path = folder / f"{i}.png"
        Image.fromarray(np.full((*SIZE, 3), 100 + i, dtype=np.uint8)).save(path)
        targets += [truth(task, i * repeat + k, str(path)) for k in range(repeat)]
    return [
        Batch(
            task,
            f"toys/{task}",
            () if task in ("caption", "grounding") else CLASSES,
            torch.zeros(len(part), 3, 8, 8, dtype=torch.uint8),
            [""] * len(part),
            targets=part,
        )
        for part in (targets[i : i + 2] for i in range(0, len(targets), 2))
    ]


class Module(OneWeight):
    """Gives the same answer to every image."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return [answer(batch.task) for _ in batch.targets]


def loader(items) -> DataLoader:
    return DataLoader(items, batch_size=None)


def trainer(tmp_path: Path, pictures: Pictures, logger=False, **more) -> L.Trainer:
    return quiet_trainer(
        default_root_dir=tmp_path,
        callbacks=[pictures],
        logger=logger,
        **more,
    )


def validate(tmp_path: Path, pictures: Pictures, items: list[Batch]) -> None:
    trainer(tmp_path, pictures).validate(Module(), loader(items), verbose=False)


TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption", "grounding")


def test_one_sheet_per_source_and_step(tmp_path):
    pictures = Pictures(tmp_path / "pictures", num_images=3, max_side=160)
    run = trainer(tmp_path, pictures, max_steps=4, val_check_interval=2, num_sanity_val_steps=1)
    loaders = [loader(batches(tmp_path, task)) for task in TASKS]
    run.fit(Module(), loader([torch.zeros(1)] * 4), loaders)
    found = {str(p.relative_to(tmp_path / "pictures")) for p in tmp_path.rglob("step_*/*.png")}
    steps = ("step_000002", "step_000004")  # and none of the sanity check
    assert found == {f"{step}/toys_{task}.png" for step in steps for task in TASKS}
    for task in TASKS:
        first, second = (
            np.asarray(Image.open(tmp_path / "pictures" / step / f"toys_{task}.png")) for step in steps
        )
        assert 4 * 160 <= first.shape[1] < 4 * 300  # two pairs of 5 x (24, 32) pixels
        assert 2 * 120 <= first.shape[0] < 2 * 400
        # below the title, which names the step, the same images and answers
        assert (first[60:] == second[60:]).all()


def test_first_different_images_are_shown(tmp_path):
    pictures = Pictures(tmp_path, num_images=3)
    for batch in batches(tmp_path, "grounding", images=5, repeat=3):
        pictures.keep([answer("grounding")] * len(batch.targets), batch)
    kept = list(pictures._kept["toys/grounding"].values())
    assert [e.target.text for e in kept] == ["thing 0", "thing 3", "thing 6"]


def test_sheet_shows_prediction_beside_ground_truth(tmp_path):
    pictures = Pictures(tmp_path / "p", num_images=1)
    validate(tmp_path, pictures, batches(tmp_path, "detection"))
    sheet = np.asarray(Image.open(tmp_path / "p/step_000000/toys_detection.png")).astype(int)
    half = sheet.shape[1] // 2
    truth_side, answer_side = sheet[:, :half], sheet[:, half:]

    def has(part, label):
        return bool((np.abs(part - np.array(PALETTE[label])).max(-1) <= 2).any())

    assert has(truth_side, 0)
    assert has(answer_side, 1)
    assert not has(truth_side, 1)
    assert not has(answer_side, 0)
    assert (np.abs(sheet - 100).max(-1) == 0).any()  # the original image's pixels


def test_steps_without_output(tmp_path):
    class Silent(Module):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return None if batch.task == "caption" else super().validation_step(batch, batch_idx)

    loaders = [loader(batches(tmp_path, task)) for task in ("caption", "detection")]
    run = trainer(tmp_path, Pictures(tmp_path / "p"))
    run.validate(Silent(), loaders, verbose=False)
    assert [p.name for p in (tmp_path / "p").rglob("*.png")] == ["toys_detection.png"]


def test_wrong_number_of_predictions_is_an_error(tmp_path):
    batch = batches(tmp_path, "caption")[0]
    with pytest.raises(ValueError, match="zip"):
        Pictures(tmp_path).keep([answer("caption")], batch)


def test_unreadable_image_is_black_and_a_full_disk_no_end(tmp_path, caplog):
    items = batches(tmp_path, "detection")
    (tmp_path / "0.png").write_bytes(b"broken")
    validate(tmp_path, Pictures(tmp_path / "p", num_images=1), items)
    assert (np.asarray(Image.open(next((tmp_path / "p").rglob("*.png")))) == 0).any()
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        validate(tmp_path, Pictures(tmp_path / "file"), items)
    assert "could not be written" in caplog.text


def test_tensorboard_gets_the_sheet_and_csv_nothing(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [TensorBoardLogger(tmp_path, "tb", ""), CSVLogger(tmp_path, "csv", "")]
    run = trainer(tmp_path, Pictures(tmp_path / "p", max_side=160), loggers)
    run.validate(Module(), loader(batches(tmp_path, "caption")), verbose=False)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert events.Tags()["images"] == ["val/toys/caption/pictures"]
    (image,) = events.Images("val/toys/caption/pictures")
    with Image.open(tmp_path / "p/step_000000/toys_caption.png") as sheet:
        assert (image.width, image.height) == sheet.size


def test_maps_for_wandb():
    semantic = torch.tensor([[0, 1, IGNORE]], dtype=torch.uint8)
    assert class_map(semantic).tolist() == [[1, 2, 0]]
    assert class_map(torch.tensor([[149]])).tolist() == [[150]]
    two = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]])
    assert painted(two, torch.tensor([3, 0]), (1, 4)).tolist() == [[4, 1, 1, 0]]
    assert painted(two[:0], torch.tensor([]), (1, 4)).tolist() == [[0, 0, 0, 0]]


def test_overlays_have_predictions_and_ground_truth():
    task = "instance_segmentation"
    example = Example(answer(task), truth(task, 0, ""), CLASSES)
    result = example.overlays((30, 40))
    (box,) = result["boxes"]["predictions"]["box_data"]
    assert box["position"] == {"minX": 4, "minY": 4, "maxX": 20, "maxY": 16}
    assert box["class_id"] == 1
    assert box["scores"]["score"] == pytest.approx(0.9)
    (box,) = result["boxes"]["ground_truth"]["box_data"]
    assert (box["class_id"], box["box_caption"]) == (0, "cat")
    assert result["masks"]["predictions"]["mask_data"].shape == (30, 40)
    assert np.unique(result["masks"]["predictions"]["mask_data"]).tolist() == [0, 2]
    assert np.unique(result["masks"]["ground_truth"]["mask_data"]).tolist() == [0, 1]
    assert result["masks"]["predictions"]["class_labels"] == {0: "nothing", 1: "cat", 2: "dog"}
    assert not example.overlays(SIZE, 0.95)["masks"]["predictions"]["mask_data"].any()
    many = Example(example.prediction, example.target, tuple(map(str, range(300))))
    assert "masks" not in many.overlays(SIZE)
    assert Example(answer("caption"), truth("caption", 0, ""), ()).overlays(SIZE) == {}


@pytest.mark.slow
def test_wandb_gets_images_with_overlays_and_tables(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for key, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    logger = WandbLogger(save_dir=tmp_path, project="test", offline=True)
    try:
        loaders = [loader(batches(tmp_path, task)) for task in TASKS]
        run = trainer(tmp_path, Pictures(tmp_path / "p", num_images=2, max_side=160), logger)
        run.validate(Module(), loaders, verbose=False)
    finally:
        wandb.finish()
    logged = {}
    for record in finished(tmp_path / "wandb"):
        for item in record.history.item:
            key, *rest = item.nested_key
            logged.setdefault(key, {})["/".join(rest)] = json.loads(item.value_json)
    for task in TASKS:
        images = logged[f"val/toys/{task}/pictures"]
        assert (images["count"], images["width"], images["height"]) == (2, 32, 24)
        assert bool(images.get("all_masks")) == ("segmentation" in task)
        has_boxes = task in ("detection", "instance_segmentation", "grounding")
        assert bool(images.get("all_boxes")) == has_boxes
        layers = [*(images.get("all_masks") or []), *(images.get("all_boxes") or [])]
        assert all(set(layer) == {"predictions", "ground_truth"} for layer in layers)
        assert (f"val/toys/{task}/answers" in logged) == (task in ("caption", "grounding"))
    (table,) = tmp_path.glob("wandb/offline-run-*/**/caption/answers*.table.json")
    table = json.loads(table.read_text())
    assert table["columns"] == ["image", "prediction", "references"]
    assert table["data"][0][1:] == ["a grey wall", "a wall\na größere wall"]
    (table,) = tmp_path.glob("wandb/offline-run-*/**/grounding/answers*.table.json")
    table = json.loads(table.read_text())
    assert table["columns"] == ["image", "expression", "answer", "IoU"]
    assert table["data"][1][1:] == ["thing 1", "1,2,3,4", 1.0]
    (mask_file, *_) = sorted(tmp_path.glob("wandb/offline-run-*/**/semantic_segmentation/**/*mask.png"))
    assert set(np.unique(np.asarray(Image.open(mask_file)))) <= {0, 1, 2}
