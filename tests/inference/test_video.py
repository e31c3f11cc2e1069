"""Videos: frame by frame in order, turned, bounded; written whole; `ufo predict clip.mp4 --out drawn.mp4`."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest

from ufo.data.errors import DataError
from ufo.data.pictures import read_image
from ufo.inference import video

av = pytest.importorskip("av")
FRAMES = 9


def write(path, count=FRAMES, size=(64, 48), rate=5):
    """A clip in which each frame is a little brighter than the one before."""
    with video.writing_video(path, Fraction(rate)) as append:
        for number in range(count):
            append(PIL.Image.new("RGB", size, (25 * number,) * 3), number / rate)
    return path


def brightness(origin) -> float:
    return origin.pixels.float().mean().item()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
def test_what_is_written_is_read_again(tmp_path, name):
    path = write(tmp_path / name)
    found = list(video.frames(path))
    assert [origin.index for origin in found] == list(range(FRAMES))
    assert [origin.time for origin in found] == pytest.approx([n / 5 for n in range(FRAMES)], abs=0.002)
    assert [brightness(origin) for origin in found] == pytest.approx([25 * n for n in range(FRAMES)], abs=6)
    assert all(origin.size == (48, 64) and origin.name == str(path) for origin in found)
    assert video.frame_count(path, 2) in (None, 5) and video.frame_rate(path) == 5
    assert [origin.index for origin in video.frames(path, every=4)] == [0, 4, 8]


def test_odd_sizes_and_frames_of_other_sizes_fit(tmp_path):
    with video.writing_video(tmp_path / "clip.mp4", Fraction(5)) as append:
        for number, size in enumerate([(33, 21), (33, 40), (20, 21)]):
            append(PIL.Image.new("RGB", size, (200, 0, 0)), number / 5)
    sizes = {origin.size for origin in video.frames(tmp_path / "clip.mp4")}
    assert sizes == {(22, 34)}


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path):
    path = write(tmp_path / "clip.mp4")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), video.writing_video(path, Fraction(5)) as append:
        append(PIL.Image.new("RGB", (64, 48)), 0.0)
        raise KeyboardInterrupt
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_frame_is_turned_as_the_video_says(tmp_path, monkeypatch):
    values = np.zeros((2, 3, 3), np.uint8)
    values[0, 0] = 255

    class Frame:
        width, height, time, rotation = 3, 2, 0.0, -90

        def to_ndarray(self, format: str) -> np.ndarray:
            return values

    class Container:
        def decode(self, stream: object) -> list[Frame]:
            return [Frame()]

    class Stream:
        average_rate = 25

    (origin,) = video._decoded(Container(), Stream(), "clip", None, 1)
    assert origin.size == (3, 2)
    assert origin.pixels[0].tolist() == [[0, 255], [0, 0], [0, 0]]  # clockwise: the corner goes to the right


def test_what_is_no_video_is_refused(tmp_path):
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{write(tmp_path / 'secret.ts.mp4')}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "concat.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.ts.mp4'}\n")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("list.mp4", "concat.mp4", "text.mp4", "empty.mp4", "absent.mp4"):
        with pytest.raises(DataError, match=name):
            list(video.frames(tmp_path / name))


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    for name, read in (("clip.mp4", video.frame_count), ("scene.png", read_image)):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match="empty"):
            read(tmp_path / name)


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4")
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64x48"):
        list(video.frames(path))


def test_a_damaged_end_is_said_and_left_out(tmp_path, caplog):
    path = write(tmp_path / "clip.mkv", 60)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = list(video.frames(path))
    assert 0 < len(found) < 60 and brightness(found[0]) < 6
    assert f"after {len(found)} of about 60 frames" in caplog.text


def test_a_camera_that_is_not_there(monkeypatch):
    with pytest.raises(DataError, match="camera 97"):
        next(video.camera(97))


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"ufo-vision\[video\]"):
        list(video.frames(path))


def test_a_stream_of_frames_is_answered_as_pictures_are(model, tmp_path):
    path = write(tmp_path / "clip.mp4")
    found = list(model.stream(path, "detection", batch_size=4))
    assert [result.index for result in found] == list(range(FRAMES))
    assert found[5].time == pytest.approx(1.0, abs=0.002) and found[5].to_dict()["frame"] == 5
    alone = model.predict(found[5].image, "detection")
    assert found[5].labels.tolist() == alone.labels.tolist()


@pytest.mark.slow
def test_the_command_draws_a_video_into_a_video(model, tmp_path, capsys):
    from ufo.checkpoints.load import save
    from ufo.cli.main import main

    path, out = write(tmp_path / "clip.mp4"), tmp_path / "made" / "drawn.mp4"
    ckpt = str(save(model, tmp_path / "model"))
    arguments = ["predict", str(path), "--ckpt", ckpt, "--task", "detection", "--score", "0", "--every", "2"]
    assert main([*arguments, "--out", str(out), "--json", str(tmp_path / "r.json")]) == 0
    drawn = list(video.frames(out))
    assert len(drawn) == 5 and drawn[1].time == pytest.approx(0.4, abs=0.002)
    records = json.loads((tmp_path / "r.json").read_text())
    assert {record["image_id"] for record in records} <= {0, 2, 4, 6, 8}
    assert str(out) in capsys.readouterr().out
    PIL.Image.new("RGB", (8, 8)).save(drawing := tmp_path / "picture.png")
    for wrong, words in (
        ([str(path), "--out", str(tmp_path / "p.png")], "drawn into a video"),
        ([str(path), str(write(tmp_path / "other.mp4"))], "one video"),
        ([str(drawing), "--out", str(out)], "are images"),
        ([str(drawing), "--every", "2"], "frames of a video"),
    ):
        assert main(["predict", *wrong, "--ckpt", ckpt]) == 1
        assert words in capsys.readouterr().err
