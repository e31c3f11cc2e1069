"""The Triton kernels of attention with relative positions, compiled for GPUs that are not there."""

from __future__ import annotations

import importlib

import pytest
from commands import ROOT

from ufo.backbones.relative_launch import interpreted

pytest.importorskip("triton", minversion="3.3")  # the compiler was called otherwise before
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(interpreted(), reason="what is interpreted is not compiled"),
]


@pytest.fixture
def kernel_loops(tmp_path, monkeypatch):
    """The benchmark that knows what each kernel is compiled with; what it compiles is not kept."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("kernel_loops")


def test_main_loops_do_not_wait(kernel_loops):
    """In bfloat16, which the interpreter cannot multiply, for compute capability 9.0; without a GPU.

    No loop waits for memory: what it loads is asked for ahead of time, also the next row's terms, which are
    two loads of each thread.
    """
    for name, parts in kernel_loops.kernels().items():
        made = kernel_loops.compiled(*parts)
        assert "wgmma" in made.asm["ptx"], f"{name}: no tensor cores"
        assert made.metadata.shared < 113 << 10, f"{name}: one program per multiprocessor"
        usage, loops = kernel_loops.loops(made.asm["cubin"])
        assert usage["STACK"] <= 64 and loops, f"{name}: spills"
        assert all(loop["LDG"] <= 2 and not loop["LDL"] for loop in loops[:1]), f"{name}: its main loop waits"


@pytest.mark.parametrize("head", [64, 80, 128])
@pytest.mark.parametrize("side", [40, 70, 84])
def test_kernels_fit_small_gpus(head, side, kernel_loops):
    """Which have 99 KB of shared memory for a program: RTX 30 (8.6), L4 and RTX 40 (8.9), RTX 50 (12.0)."""
    for name, parts in kernel_loops.kernels(head, side).items():
        made = kernel_loops.compiled(*parts, capability=86)
        assert made.metadata.shared <= 99 << 10, name
