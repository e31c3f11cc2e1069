"""CIDEr, ROUGE-L and BLEU against recorded scores of pycocoevalcap."""

import json
from pathlib import Path

import pytest
from torchmetrics.text import BLEUScore

from ufo.metrics.caption import CaptionScores, CIDEr, RougeL
from ufo.types import Prediction, Target

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "captions.json").read_text())
IMAGES = RECORDED["images"]


def test_scores__equal_pycocoevalcap_from_raw_captions():
    callback = CaptionScores()
    metric = callback.make_metric(())
    for i, image in enumerate(IMAGES):
        target = Target(i, (1, 1), captions=image["references"])
        metric.update(*callback.record(Prediction("caption", text=image["prediction"]), target, ()))
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == pytest.approx(RECORDED["scores"], abs=1e-7)
    assert set(values) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr", "ROUGE-L"}


def test_cider__equals_recorded_score_of_each_image():
    metric = CIDEr()
    metric.update(
        [image["prediction_tokens"] for image in IMAGES],
        [image["reference_tokens"] for image in IMAGES],
    )
    assert metric.scores() == pytest.approx([image["CIDEr"] for image in IMAGES], abs=1e-9)


def test_cider__is_ten_for_the_only_reference_and_zero_without_shared_words():
    texts = ["a red seven on the left", "two blue dogs run in grass", "an empty street at night"]
    metric = CIDEr()
    metric.update(texts, [[text] for text in texts])
    assert float(metric.compute()) == pytest.approx(10)
    metric.reset()
    metric.update(["nothing shared here", "xyz", ""], [[text] for text in texts])
    assert float(metric.compute()) == 0


def test_cider__depends_on_the_whole_set():
    """Document frequencies are the data set's: a mean over parts is another number."""
    halves = IMAGES[:40], IMAGES[40:]
    scores = []
    for part in (*halves, IMAGES):
        metric = CIDEr()
        for image in part:
            metric.update([image["prediction_tokens"]], [image["reference_tokens"]])
        scores.append(float(metric.compute()))
    assert abs(sum(scores[:2]) / 2 - scores[2]) > 1e-3


@pytest.mark.parametrize("image", IMAGES[::10] + IMAGES[-2:])
def test_rouge__equals_recorded_score_of_each_image(image: dict):
    metric = RougeL()
    metric.update([image["prediction_tokens"]], [image["reference_tokens"]])
    assert float(metric.compute()) == pytest.approx(image["ROUGE-L"], abs=1e-12)


def test_rouge__takes_precision_and_recall_from_different_references():
    metric = RougeL()
    # precision 1 against the long reference, recall 1 against the short one
    metric.update(["a dog runs"], [["a dog runs over the wide green field", "dog"]])
    assert float(metric.compute()) == 1


def test_bleu__counts_the_shorter_of_two_equally_close_references():
    """pycocoevalcap's rule; torchmetrics takes the first, so the record sorts the references."""
    callback = CaptionScores()
    prediction = Prediction("caption", text="a dog runs fast")
    short, long = "a dog runs", "a dog runs very fast today"[:20]
    assert [len(text.split()) for text in (short, long)] == [3, 5]
    values = []
    for captions in ([short, long], [long, short]):
        metric = callback.make_metric(())
        metric.update(*callback.record(prediction, Target(0, (1, 1), captions=captions), ()))
        values.append(float(metric.compute()["BLEU-1"]))
    plain = BLEUScore(1)
    plain.update(["a dog runs fast"], [[long, short]])
    assert values[0] == values[1] == 1
    assert float(plain.compute()) < 1
