"""What every request passes first: whose it is, how often it comes, and the headers of every response."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from ufo.serve.limits import Rate, Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""A page may load nothing from elsewhere, and run nothing that a picture's name or an answer says."""


class Guard:
    """Wraps an ASGI application.

    Args:
        token: what `Authorization: Bearer ...` must say; "": nobody is asked for one.
        hosts: names under which the server may be addressed; empty: any. A page of somebody else, whose name
            leads to 127.0.0.1, is refused by it.
        unguarded: paths that need no token and are not counted: the page itself, which holds nothing of
            anybody.
        framed: whether pages of other addresses may show this one in a frame, as a Space does.
    """

    def __init__(
        self,
        app: App,
        rate: Rate,
        token: str = "",
        hosts: Collection[str] = (),
        unguarded: Collection[str] = (),
        framed: bool = False,
    ) -> None:
        self.app, self.rate, self.token = app, rate, token
        self.hosts, self.unguarded = frozenset(hosts), frozenset(unguarded)
        policy = POLICY if framed else f"{POLICY}; frame-ancestors 'none'"
        self.headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        try:
            self._check(scope)
        except Refused as refused:
            await _refuse(refused, with_headers)
            return
        await self.app(scope, receive, with_headers)

    def _check(self, scope: Scope) -> None:
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts and host_name(given.get(b"host", "")) not in self.hosts:
            raise Refused(421, "this server is not called by that name; use the address that it printed")
        if scope["path"] in self.unguarded:
            return
        self.rate.check(scope["client"][0] if scope.get("client") else "")
        if not self.token:
            return
        said = given.get(b"authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(said.encode(), self.token.encode()):
            raise Refused(401, "this server wants a token; open the whole address that it printed")


def host_name(host: str) -> str:
    """A `Host` header without its port."""
    if host.startswith("["):  # [::1]:8000
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _refuse(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
