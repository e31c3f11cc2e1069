"""`ufo serve CKPT`: a page in the browser and `POST /predict`."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import CommandError, positive

if TYPE_CHECKING:
    from ufo.serve.views import RunView, Sample, SamplesView

NEEDED = ("starlette", "uvicorn")
TOKEN = "UFO_SERVE_TOKEN"


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "serve",
        help="a page in the browser, and predictions over HTTP",
        description="Serves a page on which pictures are dropped, and POST /predict. Only this machine "
        "reaches it, unless --host says otherwise; then a token is asked for.",
    )
    add = parser.add_argument
    add("ckpt", help="model folder, .ckpt file or folder of a training run")
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is all of this machine's")
    add("--port", type=_port, default=8000, help="default 8000; 0 takes one that is free")
    add("--token", default=os.environ.get(TOKEN), help=f"default: that of {TOKEN}, else a new one if needed")
    add("--public", action="store_true", help="anybody may ask, without a token")
    add("--data", metavar="NAME", help="a data set, or your own yaml file, for the second view")
    add("--run", metavar="FOLDER", type=Path, dest="folder", help="a run for the third view")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: CUDA if there is one")
    add("--batch", type=positive, default=8, help="pictures that the model is asked about together")
    add("--queue", type=positive, default=32, help="requests at a time; further ones get 429")
    add("--upload-mb", type=positive, default=16, help="largest file of a picture")
    add("--pixels", type=positive, default=40_000_000, help="most pixels of a picture")
    add("--rate", type=positive, default=10, help="requests a second of one address")
    add("--unlimited", action="store_true", help="no bound on the requests a second, for load tests")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises CommandError, CheckpointError or OSError for what cannot be served.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"`ufo serve` needs {' and '.join(missing)}: pip install 'ufo-vision[serve]'")
    if args.token is not None and (not args.token.isascii() or len(args.token) < 16):
        raise CommandError("a token has at least 16 letters, digits or signs of ASCII; give a longer one")
    if args.public and args.token:
        raise CommandError("--public asks nobody for a token; leave out one of the two")
    from ufo.cli.predict import _load
    from ufo.runs.evaluation import run_of
    from ufo.serve.limits import Limits
    from ufo.serve.server import serve

    shown = _run_view(args.folder, run_of(args.ckpt))
    samples = None if args.data is None else _samples(args.data)
    model = _load(args.ckpt, args.device, None, None)
    limits = Limits(
        upload_mb=args.upload_mb,
        pixels=args.pixels,
        queue=args.queue,
        batch=args.batch,
        per_second=0 if args.unlimited else args.rate,
    )
    return serve(
        model,
        args.host,
        args.port,
        token=args.token,
        public=args.public,
        limits=limits,
        samples=samples,
        run=shown,
        say=lambda line: print(line, flush=True),
    )


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65535:
        raise argparse.ArgumentTypeError(f"'{value[:20]}' is not a port, 0 to 65535")
    return int(value)


def _run_view(named: Path | None, own: Path | None) -> RunView | None:
    """The run that is named, else the one that the checkpoint is of, if it has been validated."""
    from ufo.serve.views import RunView

    if named is None and own is None:
        return None
    try:
        return RunView(named or own)  # type: ignore[arg-type]  # one of them is there
    except ValueError as error:
        if named is None:
            return None
        raise CommandError(f"--run: {error}") from error


def _samples(name: str) -> SamplesView:
    """A data set for every task that it serves, as `ufo data show` draws it."""
    from ufo.cli.data_find import find
    from ufo.cli.data_show import Samples
    from ufo.ops.text import counted_tokens
    from ufo.serve.views import MOST_SAMPLES, Sample, SamplesView

    found = find(name, None, [])
    tasks = {task: Samples(found, task, "train", 0, MOST_SAMPLES) for task in found.tasks()}
    if not tasks:
        raise CommandError(f"--data {name} serves no task; name another data set")

    def read(task: str, number: int) -> Sample:
        drawn = tasks[task][number]
        return Sample(drawn.picture, drawn.prompt, [place + counted_tokens(a) for place, a in drawn.answers])

    return SamplesView(found.name, {task: len(samples) for task, samples in tasks.items()}, read)
