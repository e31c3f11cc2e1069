"""Launch budgets: how many pieces of work small networks hand to their device; upper bounds in launches.yaml.

A GPU waits for Python, so each piece costs the same however small it is. They are counted on the CPU under
bf16 autocast. A change that lowers a count lowers the table with it. `-s` prints what each test has counted.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from tiny_mllm import make_mllm

from ufo.backbones.context import AnswerCache
from ufo.model import UFO
from ufo.ops.launches import Launches
from ufo.types import Batch

TABLE = Path(__file__).with_name("launches.yaml")
BOUNDS = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
EDGE = 4  # tokens of an answer that are fed at once


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def predicting(model: UFO, batch: Batch) -> dict[str, int]:
    """Pieces of each part of a prediction; `casts` are those among the pieces of the `next` answer call."""
    counts: dict[str, int] = {}

    def count(name: str, function, *arguments, **named):
        with Launches() as launches:
            result = function(*arguments, **named)
        counts[name], counts["casts"] = launches.total, launches.casts
        return result

    def answers(backbone, context, strategy):
        rows, cache = context.num_rows, AnswerCache(3 + EDGE)
        answer = partial(backbone.answer, context, cache=cache)
        ids = torch.full((rows, EDGE), strategy.start_id)
        count("first", answer, ids[:, :1])
        count("several", answer, ids)
        kept = torch.arange(max(rows - 1, 1))
        count("leave", lambda: (context.select(kept), cache.select(kept)))
        count("next", answer, ids[:, :1])
        raise StopIteration

    encode = model.backbone.encode
    with (
        patch.object(model.backbone, "encode", partial(count, "encode", encode)),
        patch("ufo.head.decoding.greedy", answers),
        torch.inference_mode(),
        autocast(),
        pytest.raises(StopIteration),
    ):
        model.predict_batch(batch)
    return counts


def training(model: UFO, batch: Batch) -> int:
    """Pieces of a training step without the optimizer's."""
    model.train()
    try:
        with Launches() as launches:
            with autocast():
                loss = model.training_pass(batch).losses["loss"]
            loss.backward()
    finally:
        model.eval().zero_grad()
    return launches.total


def found(network: str, task: str, make_model, make_batch) -> dict[str, int]:
    model = make_model() if network == "ufo_vit" else make_mllm(tasks=(task,))
    batch = make_batch(task)
    training(model, batch)  # what is made once is there from now on (`ufo.ops.constants`)
    predicting(model, batch)
    return {"training": training(model, batch), **predicting(model, batch)}


@pytest.mark.parametrize("network, task", [(n, t) for n in ("ufo_vit", "internvl") for t in BOUNDS[n]])
def test_no_part_hands_out_more_pieces_than_the_table_allows(network, task, make_model, make_batch):
    counts, bounds = found(network, task, make_model, make_batch), BOUNDS[network][task]
    if not torch.__version__.startswith(BOUNDS["torch"]):  # which hands out a few pieces more, or fewer
        bounds = {part: bound + max(bound // 100, 1) for part, bound in bounds.items()}
    print(f"\n{network}, {task}: {counts}")
    assert counts.keys() == bounds.keys()
    above = [f"{part}: {n}, allowed {bounds[part]}" for part, n in counts.items() if n > bounds[part]]
    assert not above, f"{network}, {task}: {'; '.join(above)} (tests/launches.yaml)"


def test_every_task_has_a_budget(make_model):
    assert BOUNDS["ufo_vit"].keys() == BOUNDS["internvl"].keys() == make_model().tasks.keys()


def test_what_is_counted():
    x = torch.randn(2, 3)
    with Launches() as launches:
        x.view(3, 2).T[1:]
        torch.empty_like(x)
    assert launches.total == 0
    with torch.no_grad(), autocast(), Launches() as launches:
        torch.nn.functional.linear(x, x)  # two casts and a product
    assert launches.total == 3 and launches.casts == 2
