"""Counting the pieces of work that a computation hands to its device: what a GPU spends its time waiting for.

Views and fresh memory cost no kernel and are left out. On a GPU the number of kernels is within a few per
cent of this count, which needs none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# they compute nothing: memory without values, and views that do not say that they are
_FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_VIEWS = frozenset({"_unsafe_view", "_reshape_alias", "lift_fresh", "detach", "detach_", "alias"})


def watched() -> bool:
    """Whether somebody looks at every operation: whoever counts them would see none of a recording."""
    return bool(torch._C._len_torch_dispatch_stack())


class Launches(TorchDispatchMode):
    """Counts operations while it is entered, by name; `total` and `casts` sum them up.

    with Launches() as launches:
        model.loss(batch)["loss"].backward()
    print(launches.total, launches.by_name.most_common(5))
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.by_name.total()

    @property
    def casts(self) -> int:
        """Copies into another type or to another device."""
        return self.by_name["_to_copy"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            raise RuntimeError("count under torch.no_grad(): inference mode hides what layers consist of")
        name = func.overloadpacket.__name__
        if not (func.is_view or name in _FREE or name in _VIEWS):
            self.by_name[name] += 1
        return func(*args, **kwargs)
