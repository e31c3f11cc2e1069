"""A model in a forked process, as `multiprocessing` starts them on Linux before Python 3.14."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection

import pytest
import torch

from ufo.model import UFO


def answer(model: UFO, picture: torch.Tensor, out: Connection) -> None:
    out.send((model.predict(picture, "detection").scores.tolist(), torch.get_num_threads()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks are not safe elsewhere")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_the_threads_of_its_parent(model):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 20).add(1).sum()  # starts them
        picture = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
        expected = model.predict(picture, "detection").scores
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=answer, args=(model, picture, there))
        process.start()
        try:
            assert here.poll(60), "the forked process waits"
            scores, threads = here.recv()
        finally:
            process.kill()
            process.join()
    finally:
        torch.set_num_threads(before)
    assert threads == 1
    torch.testing.assert_close(torch.tensor(scores), expected)
