"""What one user, or all together, may ask of a server: bytes, pixels, requests at a time and per second."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Refused(Exception):
    """A request that is not answered: the HTTP status, and one sentence that says what to do instead."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The bounds of a server."""

    upload_mb: float = 16.0  # of a picture's file, 1 MB = 2^20 bytes
    pixels: int = 40_000_000  # of a picture, from its header
    queue: int = 32  # requests that are read, wait or are answered at a time; further ones get 429
    batch: int = 8  # pictures that the model is asked about together
    per_second: float = 10.0  # requests of one address; 0: any number
    read_seconds: float = 30.0  # until a request has arrived
    predicted_pixels: int = 2**19  # larger pictures are answered at this size, their results scaled up

    @property
    def upload_bytes(self) -> int:
        """The largest file."""
        return int(self.upload_mb * 2**20)

    @property
    def body_bytes(self) -> int:
        """The largest JSON: the file in base64, and the words beside it."""
        return self.upload_bytes * 4 // 3 + 2**16


class Places:
    """Places for requests: one that finds none is refused before its body is read."""

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place until the block ends. Raises Refused (429) where there is none."""
        if self.taken >= self.number:
            raise Refused(429, f"{self.number} requests are waiting already; ask again in a moment")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Rate:
    """How often one address may ask: a bucket that holds two seconds' worth of requests.

    Args:
        per_second: requests; 0: any number.
        remembered: addresses, the latest ones; so that many addresses do not fill the memory.
        now: the clock, in seconds.
    """

    def __init__(
        self, per_second: float, remembered: int = 4096, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second, self.remembered, self.now = per_second, remembered, now
        self.most = max(1.0, 2 * per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when

    def check(self, address: str) -> None:
        """Count a request of an address. Raises Refused (429) where it has no more."""
        if not self.per_second:
            return
        now = self.now()
        left, before = self._buckets.pop(address, (self.most, now))
        left = min(self.most, left + (now - before) * self.per_second)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now)
        while len(self._buckets) > self.remembered:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refused(
                429, f"this address asks more than {self.per_second:g} times a second; ask again in a moment"
            )
