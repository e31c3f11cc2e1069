"""Offline, a name of the hub fails in a second."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from ufo import hub


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    hub.is_unreachable.cache_clear()
    yield
    hub.is_unreachable.cache_clear()


@pytest.fixture
def port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_hub_that_answers(port, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert not hub.is_unreachable()


def test_the_proxy_before_it(port, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{port}")
    assert not hub.is_unreachable()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://:x", "nonsense"])
def test_one_that_does_not_is_given_up_soon(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    start = time.monotonic()
    assert hub.is_unreachable(0.5)
    assert time.monotonic() - start < 2


def test_a_name_that_takes_forever_to_look_up(monkeypatch):
    asked = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        asked.wait(5)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "create_connection", look_up)
    start = time.monotonic()
    assert hub.is_unreachable(0.2)
    assert time.monotonic() - start < 2
    asked.set()  # the thread ends with the test


def test_offline_is_not_even_tried(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it was tried"))
    assert hub.is_unreachable()
