"""`ufo serve` as a user starts and stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from commands import ROOT
from serve_requests import question

from ufo.checkpoints.load import save
from ufo.cli.main import main
from ufo.serve.limits import Limits

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def ckpt(model, tmp_path_factory) -> str:
    return str(save(model, tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def start(ckpt):
    """Start the command; gives the process and the address it printed."""
    running = []

    def run(*options: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "ufo.cli.main", "serve", ckpt, "--port", "0", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        running.append(process)
        line = next(line for line in process.stdout if line.startswith("page: "))
        return process, line.removeprefix("page: ").strip()

    yield run
    for process in running:
        process.kill()
        process.communicate()


def get(address: str, body: dict | None = None, token: str = "") -> tuple[int, dict]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    content = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_answers_what_it_has_begun(start, number):
    process, address = start("--unlimited")
    assert get(f"{address}health") == (200, {"status": "ok", "requests": 0})
    found: list[int] = []

    def user() -> None:
        try:
            while True:
                found.append(get(f"{address}predict", question())[0])
        except OSError:  # it has stopped
            return

    users = [threading.Thread(target=user) for _ in range(4)]
    for one in users:
        one.start()
    while len(found) < 8:
        assert process.poll() is None
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    for one in users:
        one.join(60)
    assert process.returncode == 0 and rest.splitlines()[-1] == "stopped"
    assert set(found) <= {200, 503}


@pytest.mark.slow
def test_others_need_the_token_that_is_printed(start):
    _, address = start("--host", "0.0.0.0")
    place, _, token = address.partition("#token=")
    place = place.replace("0.0.0.0", "127.0.0.1")
    assert len(token) >= 24
    assert get(f"{place}model")[0] == 401
    assert get(f"{place}model", token=token)[0] == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token", "short"], "at least 16"),
        (["--token", "long-enough-to-be-one", "--public"], "leave out one"),
        (["--run", "nowhere"], "--run: nowhere"),
        (["--host", "256.0.0.1"], "nothing can listen"),
    ],
)
def test_what_cannot_be_served_is_said(ckpt, options, said, capsys):
    assert main(["serve", ckpt, "--port", "0", *options]) == 1
    assert said in capsys.readouterr().err


def test_a_missing_library_is_named(ckpt, monkeypatch, capsys):
    monkeypatch.setattr("ufo.cli.serve.NEEDED", ("a_library_of_nobody",))
    assert main(["serve", ckpt]) == 1
    assert "ufo-vision[serve]" in capsys.readouterr().err


def test_bounds_of_a_body_follow_from_the_file():
    assert Limits(upload_mb=3).body_bytes > 3 * 2**20 * 4 / 3
