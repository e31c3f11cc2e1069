"""Starting and stopping a server: its address, its token, and a clean end at SIGTERM and Ctrl-C."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

import ufo
from ufo.model import UFO
from ufo.serve.app import Server
from ufo.serve.limits import Limits
from ufo.serve.views import RunView, SamplesView

log = logging.getLogger(__name__)

LOCAL = ("localhost", "127.0.0.1", "::1")
GRACE = 30  # seconds that answers in progress have when the server stops


def serve(
    model: UFO | str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    public: bool = False,
    limits: Limits | None = None,
    samples: SamplesView | None = None,
    run: RunView | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Serve a model until SIGTERM or Ctrl-C; returns 0.

    Args:
        model: a model, or what `ufo.load` takes.
        host: the address to listen at; any but this machine's own needs a token.
        port: 0: one that is free.
        token: what users must send; None: a new one where one is needed.
        public: anybody may ask, without a token, as in a Space.
        limits: what may be asked for.
        samples: the data set of the second view.
        run: the run of the third view.
        say: is told the address of the page.

    Raises:
        OSError: nothing can listen there.
    """
    model = model if isinstance(model, UFO) else ufo.load(str(model))
    local = is_local(host)
    if token is None:
        token = "" if local or public else secrets.token_urlsafe(24)
    hosts = (*LOCAL, host.lower()) if local else ()
    server = Server(model, limits or Limits(), samples, run)
    listening = _listen(host, port)
    config = uvicorn.Config(
        server.app(token, hosts, framed=public),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the address of a user is that of the connection, whatever it says
        timeout_keep_alive=5,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=8 * server.limits.queue + 64,
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"page: http://{shown}:{listening.getsockname()[1]}/{f'#token={token}' if token else ''}")
    # uvicorn passes a signal on when it has stopped; here it has done what it should
    before = {number: signal.signal(number, _ignored) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    say("stopped")
    return 0


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"nothing can listen at {host}, port {port} ({error.strerror}); choose another"
        ) from error


def _ignored(number: int, frame: FrameType | None) -> None:
    """A signal that has been obeyed."""
