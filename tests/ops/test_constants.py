"""Constants are made once, never as inference tensors, and nothing that has no values is kept."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ufo.ops.constants import remembered


def make(maxsize: int = 2):
    calls: list[int] = []

    @remembered(maxsize=maxsize)
    def numbers(count: int) -> torch.Tensor:
        calls.append(count)
        return torch.arange(count)

    return numbers, calls


def test_one_is_made_once_and_the_oldest_forgotten():
    numbers, calls = make()
    assert numbers(1) is numbers(1)
    numbers(2), numbers(1), numbers(3)  # 2 was not asked for longest
    numbers(1), numbers(2)
    assert calls == [1, 2, 3, 2]


def test_whoever_asks_first__gradients_may_pass_it():
    numbers, _ = make()
    with torch.inference_mode():
        found = numbers(3)
    assert not found.is_inference()
    x = torch.ones(3, requires_grad=True)
    (x * found).sum().backward()
    assert torch.equal(x.grad, torch.tensor([0.0, 1.0, 2.0]))


def test_what_has_no_values_is_not_kept():
    numbers, calls = make()
    with FakeTensorMode():
        numbers(3)
    assert torch.equal(numbers(3), torch.tensor([0, 1, 2]))
    assert calls == [3, 3]


def test_a_compiled_function_has_one_graph_and_no_warning(recwarn):
    numbers, _ = make()
    compiled = torch.compile(lambda x: x + numbers(3), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(3)), torch.tensor([0.0, 1.0, 2.0]))
    assert not [w for w in recwarn if "cache" in str(w.message)]
