"""Numbers of expressions equal the published formulas, written here once more as plain loops."""

from __future__ import annotations

import time

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask
from score_files import SIZE, coco, grefcoco, polygon, refcoco, refs, write

from ufo.ops.overlap import mask_overlap, rle_overlap
from ufo.score.evaluate import Declared, Resampling, score
from ufo.score.truth import Wanted, read_truth

VAL = Wanted(split="val")


def decoded(boxes: list[list[float]]) -> np.ndarray:
    """The union of polygons around boxes."""
    masks = [coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygon(b), *SIZE))) for b in boxes]
    return np.any([*masks, np.zeros(SIZE)], axis=0)


def rle(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": found["counts"].decode()}


def moved(box: list[float], rng: np.random.Generator, by: float = 0.3) -> list[float]:
    x, y, w, h = box
    return [*(np.array([x, y]) + rng.normal(0, by, 2) * [w, h]).round(2).tolist(), w, h]


def iou(a: list[float], b: list[float]) -> float:
    """Of boxes x, y, w, h."""
    right, low = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    both = max(0, right - max(a[0], b[0])) * max(0, low - max(a[1], b[1]))
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def sentences(content):
    """(sentence id, image id, text, box) of every expression."""
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    for ref in refs(content):
        for sentence in ref["sentences"]:
            yield sentence["sent_id"], ref["image_id"], sentence["sent"], boxes[ref["ann_id"]]


def test_accuracy_equals_a_loop(tmp_path):
    content, rng = coco(), np.random.default_rng(0)
    folder = refcoco(tmp_path / "refcoco", content)
    records, ious = [], []
    for number, _, _, box in sentences(content):
        found = moved(box, rng)
        ious.append(iou(found, box))
        records.append({"sent_id": number, "bbox": found, "score": 0.5})
    path = write(tmp_path / "found.jsonl", records)
    result = score(path, read_truth(folder, VAL), "grounding", Declared(boxes="xywh"), Resampling(50))
    assert result.values["Acc@0.5"] == sum(value >= 0.5 for value in ious) / len(ious)
    assert result.values["mean_IoU"] == pytest.approx(sum(ious) / len(ious), abs=1e-12)
    assert 0.1 < result.values["Acc@0.5"] < 0.9
    assert set(result.tables) == {"class", "size", "score"}
    counts = [row["number"] for row in result.tables["class"].values()]
    assert sum(counts) == len(ious)


def test_records_are_found_by_image_and_text_too(tmp_path):
    content = coco()
    folder = refcoco(tmp_path / "refcoco", content)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found = [
        {"image": names[image].split("/")[-1], "text": text.upper() + "!", "bbox": box}
        for _, image, text, box in sentences(content)
    ]
    path = write(tmp_path / "found.jsonl", found[::-1])
    result = score(path, read_truth(folder, VAL), "grounding", Declared(boxes="xywh"), Resampling(0))
    assert result.values["Acc@0.5"] == 1 and not result.remarks


def test_masks_equal_lisas_formulas(tmp_path):
    content, rng = coco(), np.random.default_rng(0)
    folder = refcoco(tmp_path / "refcoco", content)
    records, both, either, ious = [], 0, 0, []
    for number, _, _, box in sentences(content):
        mask, wanted = decoded([moved(box, rng)]), decoded([box])
        inter, union = int((mask & wanted).sum()), int((mask | wanted).sum())
        both, either = both + inter, either + union
        ious.append(inter / (union + 1e-5) if union else 1.0)
        records.append({"sent_id": number, "segmentation": rle(mask)})
    path = write(tmp_path / "found.jsonl", records)
    truth = read_truth(folder, VAL)
    result = score(path, truth, "referring_segmentation", Declared(), Resampling(20))
    assert result.values["cIoU"] == pytest.approx(both / (either + 1e-10), abs=1e-12)
    assert result.values["gIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert result.values["cIoU"] != pytest.approx(result.values["gIoU"], abs=1e-4)


def test_a_folder_of_masks_named_by_sentence(tmp_path):
    content = coco()
    folder = refcoco(tmp_path / "refcoco", content)
    (tmp_path / "masks").mkdir()
    for number, _, _, box in sentences(content):
        picture = PIL.Image.fromarray(decoded([box]).astype(np.uint8) * 255)
        picture.save(tmp_path / "masks" / f"{number}.png")
    truth = read_truth(folder, VAL)
    result = score(tmp_path / "masks", truth, "referring_segmentation", Declared(), Resampling(0))
    assert result.values["cIoU"] == 1 and result.missing == 0


def test_rle_overlap_equals_that_of_pixels():
    rng = np.random.default_rng(0)
    one, two, three, ignore = rng.uniform(size=(4, *SIZE)) > 0.6
    cases = [
        ([one], [two], None),
        ([one, three], [two], ignore),
        ([], [two], ignore),
        ([one], [], None),
        ([], [], None),
    ]
    for found, wanted, out in cases:
        union = [torch.from_numpy(np.any([*m, np.zeros(SIZE)], axis=0)) for m in (found, wanted)]
        expected = mask_overlap(*union, None if out is None else torch.from_numpy(out))
        left, right = [rle(m) for m in found], [rle(m) for m in wanted]
        assert rle_overlap(left, right, None if out is None else rle(out)).tolist() == expected.tolist()


def generalized(content, folder):
    """(record without an answer, the boxes that the text means) of every text of gRefCOCO."""
    import json

    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    for ref in json.loads((folder / "grefs(unc).json").read_text()):
        meant = [boxes[key] for key in ref["ann_id"] if key != -1]
        yield {"sent_id": ref["sentences"][0]["sent_id"]}, meant


def test_masks_equal_grefcocos_evaluator(tmp_path):
    content, rng = coco(images=7), np.random.default_rng(3)
    folder = grefcoco(tmp_path / "grefcoco", content)
    records, total, both, either, hits = [], 0.0, 0, 0, {"TP": 0, "FN": 0, "TN": 0, "FP": 0}
    for record, boxes in generalized(content, folder):
        silent = rng.uniform() < 0.4
        mask = decoded([] if silent else [moved(b, rng) for b in boxes or [[20, 20, 30, 30]]])
        wanted = decoded(boxes)
        inter, union = int((mask & wanted).sum()), int((mask | wanted).sum())
        if not boxes:
            hits["TP" if silent else "FN"] += 1
            total += float(silent)
            either += 0 if silent else union
        else:
            hits["FP" if silent else "TN"] += 1
            inter = 0 if silent else inter
            total += inter / union if union else 0
            both, either = both + inter, either + union
        records.append({**record, "segmentation": None if silent else rle(mask)})
    path = write(tmp_path / "found.jsonl", records)
    result = score(path, read_truth(folder, VAL), "referring_segmentation", Declared(), Resampling(30))
    assert result.values["gIoU"] == pytest.approx(total / len(records), abs=1e-12)
    assert result.values["cIoU"] == both / either
    assert result.values["N-acc"] == hits["TP"] / (hits["TP"] + hits["FN"])
    assert result.values["T-acc"] == hits["TN"] / (hits["TN"] + hits["FP"])
    assert set(result.tables["meaning"]) == {"no object", "one object", "several objects"}


def giou(a: np.ndarray, b: np.ndarray) -> float:
    """Of corners."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod((high - low).clip(0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return both / union - (hull - union) / hull


def perfect(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Whether F1 is 1 when boxes are matched greedily from a generalized IoU of one half on."""
    if not wanted:
        return not found
    found, wanted, hits, total = list(found), list(wanted), 0, (len(found), len(wanted))
    while found and wanted:
        best, i, k = max((giou(f, w), i, k) for i, f in enumerate(found) for k, w in enumerate(wanted))
        if best < 0.5:
            break
        hits += 1
        del found[i], wanted[k]
    return 2 * hits / sum(total) >= 1


def test_boxes_equal_grefcocos_evaluator(tmp_path):
    content, rng = coco(images=9), np.random.default_rng(1)
    folder = grefcoco(tmp_path / "grefcoco", content)
    records, right, empty, full = [], [], [], []
    for record, boxes in generalized(content, folder):
        found = [moved(b, rng, 0.1) for b in boxes] + [[5.0, 5.0, 20.0, 20.0]]
        scores = rng.uniform(size=len(found)).tolist()
        corners = [np.array([x, y, x + w, y + h]) for x, y, w, h in found]
        kept = [c for c, s in zip(corners, scores, strict=True) if s >= 0.4]
        right.append(perfect(kept, [np.array([x, y, x + w, y + h]) for x, y, w, h in boxes]))
        (full if boxes else empty).append(bool(kept) == bool(boxes))
        records.append({**record, "boxes": [c.tolist() for c in corners], "scores": scores})
    path = write(tmp_path / "found.jsonl", records)
    declared = Declared(boxes="xyxy", min_score=0.4)
    result = score(path, read_truth(folder, VAL), "grounding", declared, Resampling(30))
    assert result.values["F1=1@0.5"] == sum(right) / len(right) and 0 < sum(right) < len(right)
    assert result.values["N-acc"] == sum(empty) / len(empty)
    assert result.values["T-acc"] == sum(full) / len(full)


def test_no_answer_is_no_nothing(tmp_path):
    """Neither a missing prediction nor a broken text is right about a text that means nothing."""
    content = coco()
    folder = grefcoco(tmp_path / "grefcoco", content)
    said = [({**record, "answer": "[1, 2, 3]"}, boxes) for record, boxes in generalized(content, folder)]
    path = write(tmp_path / "found.jsonl", [record for record, _ in said][1:])
    declared = Declared(answers="json", scale="pixels")
    result = score(path, read_truth(folder, VAL), "grounding", declared, Resampling(0))
    assert result.values["N-acc"] == 0 and result.values["F1=1@0.5"] == 0
    assert result.problems["answer not in its format"] == len(said) - 1 and result.missing == 1


def test_reasoning_texts(tmp_path):
    folder = tmp_path / "val"
    folder.mkdir()
    for name, sentence in (("a", False), ("b", True)):
        PIL.Image.new("RGB", SIZE[::-1]).save(folder / f"{name}.jpg")
        shapes = [{"label": "target", "points": [[10, 10], [50, 10], [50, 60], [10, 60]]}]
        texts = [f"{name} one", f"{name} two"]
        write(folder / f"{name}.json", {"shapes": shapes, "text": texts, "is_sentence": sentence})
    whole, half = np.zeros((2, *SIZE), dtype=bool)
    whole[10:61, 10:51], half[10:61, 10:30] = True, True
    answers = [("a", "a one", whole), ("a", "a two", half), ("b", "b one", half), ("b", "b two", half)]
    records = [{"image_id": name, "text": text, "segmentation": rle(mask)} for name, text, mask in answers]
    path = write(tmp_path / "found.jsonl", records)
    result = score(path, read_truth(folder, Wanted()), "reasoning_segmentation", Declared(), Resampling(40))
    part = half.sum() / (whole.sum() + 1e-5)
    assert result.values["gIoU"] == pytest.approx((1 + 3 * part) / 4, abs=1e-6)
    assert result.values["gIoU_best_of_sentences"] == pytest.approx((1 + part) / 2, abs=1e-6)
    assert result.values["gIoU_long"] == pytest.approx(part, abs=1e-6)
    assert result.intervals["gIoU"].low < result.values["gIoU"] < result.intervals["gIoU"].high


def test_a_thousand_resamples_of_a_refcoco_take_seconds():
    """10,834 expressions about 1,500 images, as RefCOCO's validation split."""
    from pathlib import Path

    from ufo.score.bootstrap import draw, intervals
    from ufo.score.tasks import Rules, make_scorer
    from ufo.score.truth import Example, Truth
    from ufo.tasks import kind_of

    rules = Rules(Path(), kind_of("grounding"))
    examples = [Example(i % 1500, (), SIZE, str(i), i, [[5, 5, 20, 20]]) for i in range(10834)]
    scorer = make_scorer("grounding", Truth(Path(), examples, expressions=True), rules)
    right = torch.rand(10834, generator=torch.Generator().manual_seed(0)) < 0.8
    for example, hit in zip(examples, right.double().tolist(), strict=True):
        scorer.count(example, torch.tensor([hit, hit, 1.0]).double(), {})
    start = time.process_time()
    found = intervals(scorer.values(), scorer.resampled(draw(1500, 1000, 0)))["Acc@0.5"]
    assert time.process_time() - start < 5
    # a binomial's standard error, as expressions are independent here
    expected = 2 * 1.96 * (0.8 * 0.2 / 10834) ** 0.5
    assert found.high - found.low == pytest.approx(expected, rel=0.15)
    assert scorer.values()["Acc@0.5"] == float(right.double().mean())
