"""A model in a forked process, as `multiprocessing` starts them on Linux before Python 3.14."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import ROOT, environment

# in a process of its own: torch's threads, once started, would be waited for by all later forks of the tests
SCRIPT = """
import multiprocessing
import torch
import ufo

def answer(model, picture, out):
    out.send((model.predict(picture, "detection").scores.tolist(), torch.get_num_threads()))

model = ufo.load("weights/ufo_vit_tiny_digits")
torch.set_num_threads(2)
torch.ones(1 << 20).add(1).sum()  # starts them
picture = torch.randint(256, (3, 112, 112), dtype=torch.uint8)
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
assert threads == 1, threads
torch.testing.assert_close(torch.tensor(scores), expected)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks are not safe elsewhere")
def test_a_fork_does_not_wait_for_the_threads_of_its_parent():
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
