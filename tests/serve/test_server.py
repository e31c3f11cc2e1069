"""Several users of one server: batches, bounds, tokens, a clean end; and the further views."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from serve_requests import question

from ufo.data.errors import DataError
from ufo.serve.arose import Arose
from ufo.serve.batcher import Answered, Batcher, Job, ask_model
from ufo.serve.guard import host_name
from ufo.serve.limits import Limits, Rate, Refused
from ufo.serve.views import RunView, Sample, SamplesView
from ufo.types import Prediction


def job(task: str = "caption", number: int = 0) -> Job:
    return Job(task, (), str(number), torch.zeros(3, 4, 4, dtype=torch.uint8), (4, 4))


def echo(jobs) -> list[Answered]:
    """The text of each job as its answer."""
    return [Answered(Prediction(j.task, text=j.text), {}, len(jobs), None) for j in jobs]


class Held:
    """An answering function that waits until it is let go, and fails where a text says so."""

    def __init__(self) -> None:
        self.go, self.seen = threading.Event(), []

    def __call__(self, jobs) -> list[Answered]:
        assert self.go.wait(30)
        self.seen.append([(j.task, j.text) for j in jobs])
        if any(j.text == "bad" for j in jobs):
            raise RuntimeError("this picture breaks the model")
        return echo(jobs)


def waiting(batcher: Batcher, number: int) -> None:
    """Until so many jobs wait behind those that are being answered."""
    end = time.monotonic() + 30
    while len(batcher._waiting) != number:
        assert time.monotonic() < end
        time.sleep(0.005)


# ---------------------------------------------------------------- batches


def test_what_waits_is_asked_together_and_each_gets_its_own():
    held = Held()
    batcher = Batcher(held, most=3)
    first = batcher.submit([job(number=0)])
    waiting(batcher, 0)
    rest = batcher.submit([job("caption" if n % 2 else "vqa", n) for n in range(1, 8)])
    held.go.set()
    assert [f.result(30).prediction.text for f in first + rest] == [str(n) for n in range(8)]
    assert [len(batch) for batch in held.seen] == [1, 3, 3, 1]
    assert held.seen[1][0] == ("caption", "1")  # the oldest job is in the next batch
    assert batcher.close(30)


def test_one_bad_picture_does_not_spoil_the_others():
    held = Held()
    batcher = Batcher(held, most=8)
    first = batcher.submit([job(number=0)])
    waiting(batcher, 0)
    good, bad = job(number=1), job()
    bad.text = "bad"
    futures = batcher.submit([good, bad])
    held.go.set()
    assert first[0].result(30) and futures[0].result(30).prediction.text == "1"
    with pytest.raises(RuntimeError):
        futures[1].result(30)
    assert batcher.close(30)


def test_a_closed_batcher_ends_what_runs_and_refuses_what_waits():
    held = Held()
    batcher = Batcher(held)
    [running] = batcher.submit([job(number=0)])
    waiting(batcher, 0)
    [late] = batcher.submit([job(number=1)])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(Refused) as refused:
        late.result(30)
    assert refused.value.status == 503
    held.go.set()
    assert running.result(30).prediction.text == "0"
    closing.join(30)
    with pytest.raises(Refused):
        batcher.submit([job()])


def test_who_has_gone_is_not_answered():
    held = Held()
    batcher = Batcher(held, most=8)
    batcher.submit([job(number=0)])
    waiting(batcher, 0)
    gone, there = batcher.submit([job(number=1), job(number=2)])
    assert gone.cancel()
    held.go.set()
    there.result(30)
    assert held.seen[-1] == [("caption", "2")] and batcher.close(30)


def test_pictures_are_answered_together_as_alone(model):
    images = torch.randint(256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jobs = [
        Job("detection", model.classes["detection"], "", image, (24, 24), explain=True) for image in images
    ]
    together = ask_model(model, jobs)
    for one, other in zip(jobs, together, strict=True):
        [alone] = ask_model(model, [one])
        assert torch.equal(alone.prediction.boxes, other.prediction.boxes)
        assert isinstance(alone.arose, Arose) and alone.arose.texts == other.arose.texts


# ---------------------------------------------------------------- bounds


def test_a_full_server_says_so_and_nothing_is_lost_or_mixed(serving, model, monkeypatch):
    """Four times as many requests as there are places: each gets its own answer or 429."""
    with serving(Limits(per_second=0, queue=4, batch=2)) as client:
        alone = [client.post("/predict", json=question(seed)).json()["results"][0] for seed in range(8)]
        answer = client.server.batcher.answer

        def slow(jobs):
            time.sleep(0.05)
            return answer(jobs)

        monkeypatch.setattr(client.server.batcher, "answer", slow)

        def ask(number: int):
            return number, client.post("/predict", json=question(number % 8, file_name=str(number)))

        with ThreadPoolExecutor(16) as users:
            found = list(users.map(ask, range(48)))
        assert client.server.places.taken == 0
    statuses = [response.status_code for _, response in found]
    assert set(statuses) == {200, 429}
    for number, response in found:
        content = response.json()
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1" and "again" in content["error"]
            continue
        assert content["image"]["file_name"] == str(number)
        assert [r["bbox"] for r in content["results"][0]["records"]] == [
            r["bbox"] for r in alone[number % 8]["records"]
        ]


def test_an_address_may_ask_so_often():
    now = [0.0]
    rate = Rate(2, remembered=2, now=lambda: now[0])
    for _ in range(4):
        rate.check("a")
    with pytest.raises(Refused) as refused:
        rate.check("a")
    assert refused.value.status == 429
    rate.check("b")
    now[0] += 0.5
    rate.check("a")
    rate.check("c")
    assert len(rate._buckets) == 2


def test_a_frequent_user_is_refused_over_http(serving):
    with serving(Limits(per_second=1)) as client:
        assert [client.get("/model").status_code for _ in range(4)] == [200, 200, 429, 429]
        assert client.get("/health").status_code == 200  # is never refused


def test_a_token_is_asked_for_wherever_something_is_computed_or_shown(serving):
    with serving(token="a-long-enough-token") as client:
        for path in ("/model", "/run", "/samples/detection/0", "/nothing"):
            assert client.get(path).status_code == 401
        assert client.post("/predict", json=question()).status_code == 401
        wrong = {"Authorization": "Bearer another"}
        assert client.get("/model", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer a-long-enough-token"}
        assert client.get("/model", headers=right).status_code == 200
        assert client.post("/predict", json=question(), headers=right).status_code == 200
        assert client.get("/").status_code == 200 and client.get("/health").status_code == 200


def test_names_of_others_that_lead_here_are_refused(serving):
    with serving(hosts=("localhost", "::1")) as client:
        assert client.get("/model").status_code == 200
        assert client.get("/model", headers={"Host": "elsewhere.example:8000"}).status_code == 421
    assert [host_name(h) for h in ("LOCALHOST:80", "[::1]:80", "127.0.0.1")] == [
        "localhost",
        "::1",
        "127.0.0.1",
    ]
    pytest.importorskip("uvicorn")
    from ufo.serve.server import is_local

    assert is_local("127.0.0.1") and is_local("::1") and is_local("localhost")
    assert not is_local("0.0.0.0") and not is_local("example.org")


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/app.py", "/app.py", "/page/../app.py", "//etc/passwd", "/index"]
)
def test_no_address_names_a_file(serving, path):
    with serving() as client:
        assert client.get(path).status_code == 404


def test_pages_load_nothing_from_elsewhere(serving):
    with serving() as client:
        assert client.get("/").headers["content-type"].startswith("text/html")
        for name, (content, _) in client.server.pages.items():
            response = client.get(f"/{name}")
            policy = response.headers["content-security-policy"]
            assert "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
            assert response.content == content
            text = content.decode().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text and "innerHTML" not in text, name


# ---------------------------------------------------------------- the further views


def test_the_second_view_shows_samples_by_number(serving):
    def read(task: str, number: int) -> Sample:
        return Sample(Image.new("RGB", (8, 8), (number, 0, 0)), f"Task: {task}", ["owl,1,2,3,4"])

    with serving(samples=SamplesView("birds", {"detection": 3}, read)) as client:
        assert client.get("/model").json()["samples"] == {"name": "birds", "tasks": {"detection": 3}}
        found = client.get("/samples/detection/2").json()
        assert found["prompt"] == "Task: detection" and found["answers"] == ["owl,1,2,3,4"]
        assert found["picture"].startswith("data:image/png;base64,")
        for path in ("/samples/detection/3", "/samples/caption/0"):
            assert client.get(path).status_code == 404
    with serving() as client:
        assert "--data" in client.get("/samples/detection/0").json()["error"]


def test_the_third_view_shows_a_run(serving, tmp_path):
    from ufo.runs import results

    with pytest.raises(ValueError, match="validated"):
        RunView(tmp_path)
    results.write(tmp_path, 7, {"val/a/mAP": 0.5, "val/a/mAP_large": None}, {"paper": {"val/a/mAP": 0.6}})
    for step in (3, 7):
        folder = tmp_path / "worst" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        Image.new("RGB", (step, 8)).save(folder / "a_detection.png")
        (folder / "a_detection.csv").write_text("score,id\n0.1,5\n")
    with serving(run=RunView(tmp_path)) as client:
        found = client.get("/run").json()
        assert found["step"] == 7 and found["measured"]["val/a/mAP_large"] is None
        assert found["published"] == {"paper": {"val/a/mAP": 0.6}}
        assert found["worst"] == [{"source": "a_detection", "rows": [["score", "id"], ["0.1", "5"]]}]
        assert client.get("/run/worst/0").json()["picture"].startswith("data:image/png")
        assert client.get("/run/worst/1").status_code == 404


@pytest.mark.parametrize(
    "content",
    [
        '{"step": 3, "measured": {"val/a": NaN, "val/b": "x", "val/c": 0.5}, "published": {"paper": null}}',
        '{"step": 3, "measured": {"val/a": 1e999, "val/b": [1], "val/c": 0.5}, "published": [1]}',
    ],
)
def test_odd_numbers_of_a_run_are_missing_ones(serving, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with serving(run=RunView(tmp_path)) as client:
        found = client.get("/run").json()
    assert found["measured"] == {"val/a": None, "val/b": None, "val/c": 0.5}
    assert found["published"] == {} and found["worst"] == []


@pytest.mark.parametrize("content", ['{"step": 3, "meas', "[]", '{"step": "x", "measured": [1]}'])
def test_damaged_numbers_of_a_run_are_told(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is damaged"):
        RunView(tmp_path)


def test_the_latest_sheets_are_those_of_the_greatest_step(tmp_path):
    for step in ("step_999999", "step_1000000", "step_last"):
        (tmp_path / "worst" / step).mkdir(parents=True)
        (tmp_path / "worst" / step / f"{step}.png").touch()
    assert [sheet["source"] for sheet in RunView(tmp_path).about()["worst"]] == ["step_1000000"]


def test_a_sample_that_cannot_be_read_is_one_sentence_without_its_path(serving, caplog):
    def read(task: str, number: int) -> Sample:
        raise DataError("/home/me/secret/cut.jpg: the image is corrupt")

    with serving(samples=SamplesView("birds", {"detection": 3, "caption": 0}, read)) as client:
        assert client.get("/model").json()["samples"]["tasks"] == {"detection": 3}
        response = client.get("/samples/detection/1")
    assert response.status_code == 422 and "log says why" in response.json()["error"]
    assert "secret" not in response.text and "secret/cut.jpg" in caplog.text


def test_what_cannot_be_written_as_json_is_an_error_of_the_server(serving, monkeypatch, tmp_path):
    (tmp_path / "results.json").write_text('{"step": 3, "measured": {"val/a": 0.5}}')
    run = RunView(tmp_path)
    monkeypatch.setattr(run, "about", lambda: {"a": float("nan")})
    with serving(run=run) as client:
        response = client.get("/run")
    assert response.status_code == 500 and "its log says why" in response.json()["error"]
