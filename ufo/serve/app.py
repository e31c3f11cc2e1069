"""The addresses of a server: the page and its files, `/predict`, `/health`, and what its views ask for.

Everything that is sent is computed from the request or was chosen by whoever started the server; no address
names a file.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ufo.inference.batches import network_input
from ufo.model import UFO
from ufo.serve.answer import result
from ufo.serve.batcher import STOPPING, Answered, Batcher, Job, ask_model
from ufo.serve.guard import App, Guard
from ufo.serve.limits import Limits, Places, Rate, Refused
from ufo.serve.question import Question, read_question, reads_classes
from ufo.serve.views import RunView, SamplesView

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
DECODERS = 2  # threads that decode pictures and write answers
T = TypeVar("T")


class Server:
    """The state behind the addresses.

    Args:
        model: in `eval` mode.
        samples: the data set of the second view.
        run: the run of the third one.
    """

    def __init__(
        self,
        model: UFO,
        limits: Limits,
        samples: SamplesView | None = None,
        run: RunView | None = None,
    ) -> None:
        self.model, self.limits, self.samples, self.run = model.eval(), limits, samples, run
        self.places = Places(limits.queue)
        self.batcher: Batcher | None = None
        self.pages = {f.name: (f.read_bytes(), TYPES[f.suffix]) for f in PAGE.iterdir() if f.suffix in TYPES}

    def app(self, token: str = "", hosts: tuple[str, ...] = (), framed: bool = False) -> App:
        """The ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/predict", _answered(self.predict), methods=["POST"]),
            Route("/model", _answered(self.about)),
            Route("/samples/{task}/{number:int}", _answered(self.sample)),
            Route("/run", _answered(self.results)),
            Route("/run/worst/{number:int}", _answered(self.worst)),
            Route("/", self.page),
            *(Route(f"/{name}", self.page) for name in self.pages),
        ]
        unguarded = {"/", "/health", *(f"/{name}" for name in self.pages)}
        app = Starlette(routes=routes, lifespan=self.lifespan)
        return Guard(app, Rate(self.limits.per_second), token, hosts, unguarded, framed)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Threads live as long as the server."""
        self.batcher = Batcher(functools.partial(ask_model, self.model), self.limits.batch)
        with ThreadPoolExecutor(DECODERS, "decode") as self.pool:
            try:
                yield
            finally:
                if not await asyncio.to_thread(self.batcher.close):
                    log.warning("the model still computes; its answer is given up")
                self.batcher = None

    async def _apart(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in another thread, so that others are served meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    # --- addresses

    async def page(self, request: Request) -> Response:
        content, kind = self.pages[request.url.path.rpartition("/")[2] or "index.html"]
        return Response(content, media_type=kind)

    async def health(self, request: Request) -> Response:
        stopping = self.batcher is None or self.batcher.closing
        state = {"status": "stopping" if stopping else "ok", "requests": self.places.taken}
        return Response(json.dumps(state), 503 if stopping else 200, media_type="application/json")

    async def about(self, request: Request) -> dict[str, Any]:
        """What the page offers: the model's tasks, the bounds, the further views."""
        tasks = [
            {
                "name": name,
                "needs_text": task.needs_text,
                "classes": list(self.model.classes.get(name, ())) if reads_classes(task) else None,
            }
            for name, task in self.model.tasks.items()
        ]
        samples = None if self.samples is None else self.samples.about()
        bounds = {"upload_mb": self.limits.upload_mb, "pixels": self.limits.pixels}
        return {"tasks": tasks, "limits": bounds, "samples": samples, "run": self.run is not None}

    async def predict(self, request: Request) -> dict[str, Any]:
        start = time.perf_counter()
        with self.places.place():
            body = await self._body(request)
            question, jobs = await self._apart(self._read, body)
            del body
            if self.batcher is None:
                raise Refused(503, STOPPING)
            read = time.perf_counter()
            futures = [asyncio.wrap_future(future) for future in self.batcher.submit(jobs)]
            try:
                answers = await asyncio.gather(*futures)
            finally:
                for future in futures:
                    future.cancel()  # of a user who has gone, or whose other task failed
            results = await self._apart(self._results, question, answers)
        height, width = question.size
        return {
            "image": {"file_name": question.file_name, "width": width, "height": height},
            "results": results,
            "milliseconds": {
                "read": round(1000 * (read - start), 2),
                "all": round(1000 * (time.perf_counter() - start), 2),
            },
        }

    def _read(self, body: bytes) -> tuple[Question, list[Job]]:
        """What is asked, and a job for each of its tasks."""
        question = read_question(body, self.model, self.limits)
        jobs = []
        for ask in question.asks:
            [image] = network_input(question.pixels, self.model.tasks[ask.task])
            height, width = question.pixels.shape[-2:]
            size = height, width
            job = Job(ask.task, ask.classes, ask.text, image, size, question.score, question.explain)
            jobs.append(job)
        return question, jobs

    def _results(self, question: Question, answers: list[Answered]) -> list[dict[str, Any]]:
        return [
            result(question, ask, answered, self.model.tasks[ask.task].kind)
            for ask, answered in zip(question.asks, answers, strict=True)
        ]

    async def _body(self, request: Request) -> bytes:
        """The bytes of a request, bounded in number and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/json":  # which a page of somebody else may not send without asking
            raise Refused(415, "send JSON, with the header 'Content-Type: application/json'")
        most = self.limits.body_bytes
        too_large = Refused(413, f"the request is larger than a picture of {self.limits.upload_mb:g} MB")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large

        async def read() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.limits.read_seconds)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refused(408, "the request took too long to arrive; send it again") from error

    # --- the further views

    async def sample(self, request: Request) -> dict[str, Any]:
        if self.samples is None:
            raise Refused(404, "no data set is shown; start the server with --data NAME")
        with self.places.place():
            given = request.path_params
            return await self._apart(self.samples.sample, given["task"], given["number"])

    async def results(self, request: Request) -> dict[str, Any]:
        if self.run is None:
            raise Refused(404, "no run is shown; start the server with --run FOLDER")
        return await self._apart(self.run.about)

    async def worst(self, request: Request) -> dict[str, Any]:
        if self.run is None:
            raise Refused(404, "no run is shown; start the server with --run FOLDER")
        return await self._apart(self.run.worst, request.path_params["number"])


async def _written(content: dict[str, Any]) -> bytes:
    """JSON, in another thread as it may be megabytes."""
    return (await asyncio.to_thread(json.dumps, content, allow_nan=False)).encode()


def _answered(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """JSON of what a handler returns; one sentence where it refuses, and none of ours where it breaks."""

    async def endpoint(request: Request) -> Response:
        headers = {}
        try:
            return Response(await _written(await handler(request)), media_type="application/json")
        except Refused as refused:
            status, content = refused.status, {"error": str(refused)}
            headers = {"Retry-After": "1"} if status == 429 else {}
        except Exception:
            log.exception("a request failed")
            status, content = 500, {"error": "the server failed on this request; its log says why"}
        return Response(await _written(content), status, headers, "application/json")

    return endpoint
