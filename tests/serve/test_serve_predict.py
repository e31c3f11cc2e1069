"""What `POST /predict` answers, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import zlib
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from serve_requests import png, question

from ufo.data.pictures import as_image
from ufo.kinds import ImageInfo
from ufo.serve.limits import Limits


def asked(client, **changes) -> dict:
    response = client.post("/predict", json=question(**changes))
    assert response.status_code == 200, response.text
    return response.json()


def refused(client, status: int, **changes) -> str:
    response = client.post("/predict", json=question(**changes))
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_an_answer_is_what_the_model_predicts(serving, model, task_name):
    """Whatever the task: records and summary are those of its kind."""
    task = model.tasks[task_name]
    text = "the owl" if task.needs_text else ""
    with serving() as client:
        [found] = asked(client, tasks=[task_name], text=text, file_name="noise.png")["results"]
    pixels = as_image(Image.open(io.BytesIO(png())))
    prediction = task.kind.confident(model.predict(pixels, task_name, text), 0.0)
    records = task.kind.records(prediction, ImageInfo("upload", "noise.png", (40, 60)), (40, 60), text)
    assert found["records"] == json.loads(json.dumps(records))
    assert found["summary"] == task.kind.summary(prediction, 0.0, text)
    assert set(found["milliseconds"]) == {"wait", "encode", "decode", "parse"}


def test_a_second_request_reads_no_prompt_again(serving, model):
    """Also one for all tasks in turn: with a smaller memory each would make the model forget the next."""
    ask = {"tasks": list(model.tasks), "text": "the owl", "file_name": "noise.png"}
    with serving() as client:
        first = asked(client, **ask)["results"]
        with patch.object(model.backbone, "encode_prompt", side_effect=AssertionError("read again")):
            again = asked(client, **ask)["results"]
        model.eval()  # forgets all prompts
        fresh = asked(client, **ask)["results"]
    assert len(model.tasks) > 4
    for results in (again, fresh):
        assert [r["records"] for r in results] == [r["records"] for r in first]


def test_a_page_gets_what_it_draws_and_how_it_arose(serving, model, task_name):
    text = "the owl" if model.tasks[task_name].needs_text else ""
    with serving() as client:
        [found] = asked(client, tasks=[task_name], text=text, layers=True, explain=True)["results"]
    layers, answers = found["layers"], found["arose"]["answers"]
    grid = model.tasks[task_name].grid_per_window
    assert len(answers) == (4 * grid**2 if grid else 1)
    assert all((answer["x"] is None) == (grid == 0) for answer in answers)
    for number in (value for thing in layers["objects"] for value in thing["box"]):
        assert 0 <= number <= 1
    for plane in found["arose"]["planes"]:
        picture = Image.open(io.BytesIO(base64.b64decode(plane["png"].partition(",")[2])))
        assert plane["row"] < len(answers) and picture.width % plane["side"] == 0


def test_masks_that_are_drawn_are_those_of_the_records(model):
    from ufo.kinds.marks import Marks
    from ufo.serve.answer import layers

    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:5], masks[1, 4:, 6:] = True, True
    marks = Marks(boxes=torch.tensor([[2.0, 1, 5, 3], [6, 4, 8, 6]]), colors=[0, 1], names=["a", "b"])
    marks.masks, marks.scores, marks.rows = masks, [0.9, 0.5], [3, 7]
    found = layers(marks, ("a", "b"), (6, 8))["objects"]
    for thing, mask in zip(found, masks, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(thing["mask"].partition(",")[2]))).convert("RGBA")
        clear = torch.from_numpy(np.array(picture))[..., 3] == 0
        assert torch.equal(~clear, mask)
    assert [thing["row"] for thing in found] == [3, 7]
    assert found[0]["box"] == [0.25, round(1 / 6, 5), 0.625, 0.5]


def test_a_map_keeps_its_classes_and_clears_unknown_pixels():
    from ufo.serve.answer import map_picture

    semantic = torch.tensor([[0, 0, 2], [255, 2, 2]])
    address, legend = map_picture(semantic, ("sky", "tree", "road"))
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    shades = torch.from_numpy(np.array(picture))
    assert [entry["name"] for entry in legend] == ["road", "sky"]
    assert (shades[..., 3] == 0).tolist() == [[False, False, False], [True, False, False]]
    assert "#" + "".join(f"{v:02x}" for v in shades[0, 2, :3].tolist()) == legend[0]["color"]


def test_a_large_picture_is_answered_small_and_told_large(serving):
    large = base64.b64encode(png(size=(300, 500))).decode()
    with serving(Limits(per_second=0, predicted_pixels=5000)) as client:
        answer = asked(client, image=large, tasks=["semantic_segmentation"])
    assert (answer["image"]["width"], answer["image"]["height"]) == (500, 300)
    for record in answer["results"][0]["records"]:
        assert record["segmentation"]["size"] == [300, 500]
        coco_mask.decode(record["segmentation"])


def header_of(width: int, height: int) -> bytes:
    """A PNG file that says it has so many pixels, and holds none."""
    data = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    head = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    return head + b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"tasks": []}, 422, "names no task"),
        ({"tasks": ["detecton"]}, 422, "detection"),
        ({"tasks": "detection"}, 422, "'tasks' is a str"),
        ({"tasks": ["grounding"]}, 422, "needs a text"),
        ({"classes": ["cat", "Cat"]}, 422, "repeated name"),
        ({"classes": ["the owl"] * 1}, 200, ""),
        ({"text": "a <mask> b", "tasks": ["grounding"]}, 422, "stands for a mask"),
        ({"text": "owl " * 400, "tasks": ["grounding"]}, 422, "tokens"),
        ({"text": "x" * 3000}, 422, "letters"),
        ({"score": 2}, 422, "from 0 to 1"),
        ({"score": True}, 422, "from 0 to 1"),
        ({"image": ""}, 422, "no picture"),
        ({"image": "/etc/passwd"}, 422, "not where it is"),
        ({"image": "file:///etc/passwd"}, 422, "not where it is"),
        ({"image": "http://localhost/x.png"}, 422, "not where it is"),
        ({"image": "data:text/plain;base64,AAAA"}, 422, "not where it is"),
        ({"image": base64.b64encode(b"no picture").decode()}, 422, "no picture in one of"),
        ({"image": base64.b64encode(header_of(30000, 30000)).decode()}, 413, "pixels allowed"),
        ({"image": base64.b64encode(header_of(30, 30)).decode()}, 422, "picture"),
        ({"image": "data:image/png;base64," + base64.b64encode(png()).decode()}, 200, ""),
        ({"path": "/etc/passwd"}, 422, "no key 'path'"),
    ],
)
def test_a_bad_request_gets_one_sentence(serving, changes, status, said):
    with serving() as client:
        if status == 200:
            asked(client, **changes)
        else:
            assert said in refused(client, status, **changes)
        assert client.server.places.taken == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"score": ' + b"9" * 5000 + b"}"])
def test_what_is_no_request_is_refused(serving, body):
    with serving() as client:
        response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and "JSON" in response.json()["error"]


def test_an_upload_is_bounded_before_it_is_read(serving):
    with serving(Limits(per_second=0, upload_mb=0.01)) as client:
        assert "0.01 MB" in refused(client, 413, image="A" * 200_000)
        assert client.portal.call(_endless, client.app, 100) == (413, 2)


async def _endless(app, most: int) -> tuple[int, int]:
    """Send parts of a request that has not said how long it is: the status, and how many were read."""
    read, statuses = 0, []

    async def receive():
        nonlocal read
        read += 1
        assert read < most
        return {"type": "http.request", "body": b" " * 65536, "more_body": True}

    async def send(message):
        statuses.append(message.get("status"))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "headers": headers,
    }
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "client": ("test", 1)}
    await app(scope, receive, send)
    return statuses[0], read


def test_forms_of_other_pages_are_refused(serving):
    """A browser sends such a form without asking; JSON it asks about first, and gets no consent."""
    with serving() as client:
        text, plain = json.dumps(question()), {"Content-Type": "text/plain"}
        assert client.post("/predict", content=text, headers=plain).status_code == 415
        other = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in client.options("/predict", headers=other).headers
