"""A tiny random model behind the server's addresses."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from ufo.serve.limits import Limits


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture
def serving(model):
    """Start a server in this process: `with serving(limits, ...) as client`."""
    testclient = pytest.importorskip("starlette.testclient")
    from ufo.serve.app import Server

    @contextmanager
    def start(limits: Limits | None = None, token: str = "", hosts=(), samples=None, run=None):
        server = Server(model, limits or Limits(per_second=0), samples, run)
        with testclient.TestClient(server.app(token, hosts), base_url="http://localhost") as client:
            client.server = server
            yield client

    return start
