"""Files as mmengine writes them are read; nothing in a file is ever executed."""

from __future__ import annotations

import itertools
import os
import sys
import time
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.safe_pickle import read_pickle, state_dict, trained_tasks

CONFIG = "model = dict(\n    support_tasks=[\n        'detection',\n        'caption',\n    ],\n    type='X')"


@pytest.fixture
def log_buffer(monkeypatch):
    """An object that pickles as mmengine's HistoryBuffer does: arrays and references to its methods."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class HistoryBuffer:
        def mean(self):
            raise AssertionError("a stored method was called")

        def __setstate__(self, state):
            raise AssertionError("the stored class was used")

    HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = (
        HistoryBuffer.__module__,
        "HistoryBuffer.mean",
    )
    sys.modules[HistoryBuffer.__module__].HistoryBuffer = HistoryBuffer
    buffer = HistoryBuffer()
    buffer.history, buffer.methods = np.arange(3.0), {"mean": HistoryBuffer.mean}
    return buffer


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_log_is_passed_over(tmp_path, log_buffer, zipped):
    weights = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.tensor([[1, 2]]))
    weights._metadata = OrderedDict(version=1)
    content = {
        "meta": {"cfg": CONFIG, "seed": np.int64(3), "iter": 7},
        "state_dict": weights,
        "message_hub": {"log_scalars": OrderedDict(loss=log_buffer), "rate": np.float32(0.5)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    }
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_pickle(path)
    assert read["meta"]["iter"] == 7 and trained_tasks(read) == ["detection", "caption"]
    found = state_dict(read, path)
    assert all(torch.equal(found[k], weights[k]) for k in weights) and found.keys() == weights.keys()
    # the allowance ends with the call
    with pytest.raises(Exception, match=r"HistoryBuffer|numpy"):
        torch.load(path, weights_only=True)


class Attack:
    """Runs something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function, named", [(os.system, "system"), (eval, "eval"), (Path.touch, "Path")])
def test_code_is_refused_and_not_run(tmp_path, function, named, zipped):
    mark = tmp_path / "executed"
    argument = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')"}.get(function, mark)
    path = tmp_path / "x.pth"
    content = {"state_dict": {"a": torch.zeros(1)}, "meta": Attack(function, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=named) as error:
        read_pickle(path)
    assert not mark.exists()
    assert "\n" not in str(error.value) and "nothing was run" in str(error.value)


def test_getattr_reaches_nothing(tmp_path):
    """The stand-in that lets method references pass gives no access to anything."""
    path = tmp_path / "x.pth"
    torch.save({"meta": Attack(getattr, "text", "upper")}, path)
    assert not callable(read_pickle(path)["meta"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_says_so(tmp_path, share):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="cut short"):
        read_pickle(path)


def test_other_files_are_refused(tmp_path):
    text, tensor = tmp_path / "a.pth", tmp_path / "b.pth"
    text.write_text("<html>not found</html>")
    torch.save(torch.zeros(2), tensor)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_pickle(text)
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        read_pickle(tensor)


def test_bare_weights_and_data_parallel_names():
    weights = {"module.a": torch.ones(2), "module.module.b": torch.zeros(1)}
    assert state_dict(weights, Path("x")).keys() == {"a", "module.b"}
    assert state_dict({"state_dict": weights}, Path("x")).keys() == {"a", "module.b"}


@pytest.mark.parametrize(
    "value",
    [3, "text", torch.zeros(1).expand(10**6, 10**6), torch.zeros(2, 2).to_sparse()],
    ids=["number", "text", "bomb", "sparse"],
)
def test_what_is_no_ordinary_tensor_is_refused(value):
    with pytest.raises(CheckpointError, match="'b' is not an ordinary tensor"):
        state_dict({"state_dict": {"a": torch.zeros(1), "b": value}}, Path("x"))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": [1]}])
def test_no_weights(content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        state_dict(content, Path("x"))


@pytest.mark.parametrize("meta", [None, {}, {"cfg": 3}, {"cfg": "model = dict(type='X')"}, [1]])
def test_a_config_that_does_not_tell_the_tasks(meta):
    assert trained_tasks({"meta": meta}) is None
    assert trained_tasks({}) is None


def nested(kind, depth: int, width: int):
    """Few objects, and `width ** depth` of them for whoever follows every reference."""
    value = kind(["a"])
    for _ in range(depth):
        value = kind([value] * width)
    return value


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "kind, depth, width", [(tuple, 60, 2), (list, 4, 1000), (list, 300, 1), (tuple, 250, 1)]
)
def test_references_that_multiply_are_refused_at_once(tmp_path, kind, depth, width, zipped):
    path = tmp_path / "x.pth"
    content = {"state_dict": {"a": torch.zeros(1)}, "meta": nested(kind, depth, width)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="nested as no checkpoint's are"):
        read_pickle(path)
    assert time.process_time() - start < 1


def test_an_inner_list_that_is_filled_last_counts(tmp_path):
    """The references are there before what they refer to."""
    lists = [[] for _ in range(5)]
    for outer, inner in itertools.pairwise(lists):
        outer += [inner] * 500
    lists[-1].append("a")
    path = tmp_path / "x.pth"
    torch.save({"meta": lists[0]}, path)
    with pytest.raises(CheckpointError, match="nested"):
        read_pickle(path)


def test_shared_and_cyclic_values_of_ordinary_size_are_read(tmp_path):
    shared = [1, 2, {"b": (3, 4)}]
    cycle: list = []
    cycle.append(cycle)
    path = tmp_path / "x.pth"
    torch.save({"a": [shared] * 50, "c": cycle}, path)
    read = read_pickle(path)
    assert read["a"][0] is read["a"][49] and read["c"][0] is read["c"]
