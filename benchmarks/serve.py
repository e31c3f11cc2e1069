"""`ufo serve` under load, against calling the model directly, and at 4x overload.

    python benchmarks/serve.py --ckpt weights/ufo_vit_tiny_digits --images data/few/val/images

A server is started as a user starts it. Each user asks about one of the pictures as soon as the last answer
is there, and every answer is compared with the direct call's: the picture's own objects, or 429. Times are
wall clock; server and users share the machine.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import ufo
from ufo.cli.files import find_images
from ufo.data.pictures import as_image
from ufo.kinds import ImageInfo
from ufo.tables import table

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Load:
    """What some users saw."""

    users: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # of requests that were answered
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0  # answers that are not those of the picture that was sent
    lost: int = 0  # requests without an answer

    def row(self, name: str) -> list[str]:
        """Its line of the table."""
        times = np.array(self.latencies or [0.0]) * 1000
        middle, late = np.percentile(times, [50, 95])
        number, full = len(self.latencies), self.statuses[429]
        cells = [
            number,
            full,
            self.lost,
            self.wrong,
            f"{number / self.seconds:.1f}",
            f"{middle:.0f}",
            f"{late:.0f}",
        ]
        return [name, str(self.users), *map(str, cells)]


def main() -> None:
    """Measure and print one table; exits with 1 where an answer was lost or mixed up."""
    args = parser().parse_args()
    paths = find_images([args.images])[: args.pictures]
    expected, direct = call_directly(args, paths)
    rows = [direct.row("direct calls, one by one")]
    bodies = [json.dumps(question(args, path)) for path in paths]
    loads = []
    with Serving(args) as port:
        drive(port, bodies, expected, users=1, number=2 * len(bodies))  # warms up
        for name, users in (("one user", 1), ("as many users as places", args.queue), ("4x", 4 * args.queue)):
            loads.append(drive(port, bodies, expected, users, args.requests))
            rows.append(loads[-1].row(name))
    head = ["", "users", "answered", "refused (429)", "lost", "mixed up", "per second", "p50 ms", "p95 ms"]
    print(table(head, rows))
    if any(load.lost or load.wrong or set(load.statuses) - {200, 429} for load in loads):
        sys.exit("answers were lost or mixed up")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--ckpt", default=str(ROOT / "weights" / "ufo_vit_tiny_digits"))
    made.add_argument("--images", type=Path, required=True)
    made.add_argument("--pictures", type=int, default=8, help="different pictures")
    made.add_argument("--task", default="detection")
    made.add_argument("--requests", type=int, default=200, help="of each row of the table")
    made.add_argument("--queue", type=int, default=8, help="places of the server")
    made.add_argument("--batch", type=int, default=8)
    return made


def call_directly(args: argparse.Namespace, paths: list[Path]) -> tuple[list[list[list[float]]], Load]:
    """The boxes of each picture, and how long reading, predicting and writing the records takes."""
    model = ufo.load(args.ckpt)
    kind, load, boxes = model.tasks[args.task].kind, Load(1), []
    for number in range(args.requests):
        path, start = paths[number % len(paths)], time.perf_counter()
        pixels = as_image(path)
        height, width = pixels.shape[-2:]
        prediction = kind.confident(model.predict(pixels, args.task), 0.3)
        records = kind.records(prediction, ImageInfo("upload", path.name, (height, width)), (height, width))
        json.dumps(records)
        load.latencies.append(time.perf_counter() - start)
        if number < len(paths):
            boxes.append([record["bbox"] for record in records])
    load.seconds = sum(load.latencies)
    return boxes, load


def question(args: argparse.Namespace, path: Path) -> dict[str, object]:
    """A request about one picture."""
    return {"image": base64.b64encode(path.read_bytes()).decode(), "tasks": [args.task], "score": 0.3}


class Serving:
    """`ufo serve` in a process of its own; its port inside of the block."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.command = [
            sys.executable,
            "-m",
            "ufo.cli.main",
            "serve",
            args.ckpt,
            "--port",
            "0",
            "--unlimited",
        ]
        self.command += ["--queue", str(args.queue), "--batch", str(args.batch)]

    def __enter__(self) -> int:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        line = next(line for line in self.process.stdout if line.startswith("page: "))
        return int(line.strip().rstrip("/").rpartition(":")[2])

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert code == 0, f"the server ended with {code}"


def drive(port: int, bodies: list[str], expected: list[list[list[float]]], users: int, number: int) -> Load:
    """Let users ask `number` times together, each again as soon as it has an answer."""
    load, lock, start = Load(users), threading.Lock(), time.perf_counter()
    turns = iter(range(number))

    def user() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            which, begin = turn % len(bodies), time.perf_counter()
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/predict", bodies[which], headers)
                response = connection.getresponse()
                status, content = response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                with lock:
                    load.lost += 1
                continue
            with lock:
                load.statuses[status] += 1
                if status == 200:
                    load.latencies.append(time.perf_counter() - begin)
                    found = [record["bbox"] for record in content["results"][0]["records"]]
                    load.wrong += not close(found, expected[which])
            if status == 429:
                time.sleep(0.05)  # a user who is told to wait does not ask at once

    threads = [threading.Thread(target=user) for _ in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - start
    return load


def close(found: list[list[float]], expected: list[list[float]]) -> bool:
    """Whether two lists of boxes are the same but for rounding."""
    same = len(found) == len(expected)
    return same and bool(np.allclose(np.array(sorted(found)), np.array(sorted(expected)), atol=0.5))


if __name__ == "__main__":
    main()
