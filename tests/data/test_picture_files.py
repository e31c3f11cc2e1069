"""Every kind of picture file is decoded in one way, said, or refused; never white, never waited for."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from commands import environment
from files import coco_content, write_image, write_json

from ufo.data import pictures
from ufo.data.datasets import CocoDataset
from ufo.data.errors import DataError
from ufo.data.pictures import as_image, image_size, image_sizes, map_size, read_image, read_label_map

RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))


def said(path) -> tuple[torch.Tensor, list[str]]:
    kinds: list[str] = []
    return read_image(path, say=lambda kind, where: kinds.append(kind)), kinds


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_upper_half(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # older versions of Pillow read it and do not write it
        path.write_bytes(b"P5 64 48 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        PIL.Image.fromarray(RAMP).save(path)
    image, kinds = said(path)
    assert torch.equal(image[1], torch.from_numpy((RAMP >> 8).astype(np.uint8)))
    assert kinds == [pictures.SIXTEEN]
    assert torch.equal(as_image(path), image) and torch.equal(as_image(PIL.Image.open(path)), image)


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    grey = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    PIL.Image.fromarray(grey).save(tmp_path / "a.tif")
    image, kinds = said(tmp_path / "a.tif")
    assert image.max() == 255 and image[0, 0, 32] == round(float(grey[0, 32]) * 255)
    assert kinds == [pictures.FLOAT]
    for wrong in (grey * 300, grey - 0.5, grey * np.nan):
        PIL.Image.fromarray(wrong).save(tmp_path / "b.tif")
        with pytest.raises(DataError, match=r"b\.tif: its pixels are floats beyond 0 to 1"):
            read_image(tmp_path / "b.tif")
    PIL.Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "c.tif")
    with pytest.raises(DataError, match="numbers from 70000 to 70000"):
        read_image(tmp_path / "c.tif")


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_of_several_frames_the_first_counts(tmp_path, suffix):
    frames = [PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(
        path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {})
    )
    image, kinds = said(path)
    assert image[:, 8, 8].tolist() == [255, 0, 0] and kinds == [pictures.FRAMES]
    if suffix == "tif":
        with pytest.raises(DataError, match="needs one number per pixel"):
            read_label_map(path)


def test_transparency_is_dropped_and_said(tmp_path):
    clear = PIL.Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    clear.save(tmp_path / "a.png")
    palette = PIL.Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "b.png", transparency=1)
    opaque = PIL.Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    opaque.save(tmp_path / "c.png")
    for name, kinds in (("a.png", [pictures.CLEAR]), ("b.png", [pictures.CLEAR]), ("c.png", [])):
        image, found = said(tmp_path / name)
        assert image[:, 4, 4].tolist() == [10, 20, 30] and found == kinds


def test_cmyk_and_colours_that_cannot_be_converted(tmp_path):
    PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    image, kinds = said(tmp_path / "a.tif")
    assert image[:, 4, 4].tolist() == [255, 0, 0] and not kinds
    PIL.Image.new("LAB", (8, 8)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match="a picture in LAB colours; save it in RGB"):
        read_image(tmp_path / "b.tif")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero", tmp_path):
        for read in (read_image, read_label_map):
            with pytest.raises(DataError, match="not a file but a folder, pipe or device"):
                read(path)


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("sub\\0.jpg", "sub/0.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("ONE.JPG", "one.jpg"),
        ("Sub\\X.jpg", "Sub/x.JPG"),
    ],
)
def test_other_spellings_of_a_name_are_found_and_counted(tmp_path, named, there):
    write_image(tmp_path / there, format="JPEG")
    content = coco_content({})
    content["images"][0]["file_name"] = named
    data = CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content), train=True)
    assert data[0]["image"].shape == (3, 48, 64)
    assert data.problems.doubtful == {"file found under another spelling of its name": 1}


def test_a_missing_file_has_a_hint(tmp_path):
    write_image(tmp_path / "owl.png")
    with pytest.raises(DataError, match=r"owl\.jpg: there is no such image file\. Its folder has owl\.png"):
        read_image(tmp_path / "owl.jpg")


def test_data_sets_count_what_the_decoder_changes(tmp_path):
    PIL.Image.fromarray(RAMP).save(tmp_path / "0.png")
    content = coco_content({})
    content["images"][0]["file_name"] = "0.png"
    data = CocoDataset(tmp_path, write_json(tmp_path / "coco.json", content), train=True)
    assert data[0]["image"].float().mean() < 200
    assert data.problems.doubtful == {pictures.SIXTEEN: 1}


def test_sixteen_bits_that_are_black_in_eight_are_said(tmp_path):
    """Cameras of 12 bits, and 8-bit numbers in a file of 16."""
    for name, values in (("a.png", RAMP >> 4), ("b.tif", RAMP >> 8), ("c.tif", (RAMP >> 8).astype(np.int32))):
        PIL.Image.fromarray(values).save(tmp_path / name)
        image, kinds = said(tmp_path / name)
        assert kinds == [pictures.DARK] and image.max() < 16


def test_colours_of_sixteen_bits_are_said(tmp_path):
    ramp = np.repeat(RAMP[..., None], 3, axis=2).astype(">u2")  # PIL cannot write such a file
    rows = b"".join(b"\0" + row.tobytes() for row in ramp)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    image, kinds = said(tmp_path / "a.png")
    assert torch.equal(image[2], torch.from_numpy((RAMP >> 8).astype(np.uint8)))
    assert kinds == [pictures.SIXTEEN]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_has_the_size_of_its_header(tmp_path, suffix, orientation):
    """PIL turns TIFF files while it reads them, and no others."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:10, :10] = 255
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(pixels).save(path, exif=exif)
    image = read_image(path)
    assert image_size(path) == tuple(image.shape[-2:]) == ((50, 30) if orientation >= 5 else (30, 50))
    for size in image_sizes(path):
        assert tuple(read_image(path, size).shape[-2:]) == size
    rows, columns = np.nonzero(image[0].numpy() > 128)
    height, width = image.shape[-2:]
    right, low = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)  # where the white corner is
    assert (columns.mean() > width / 2, rows.mean() > height / 2) == (right, low)
    if suffix in (".png", ".tif"):
        numbers = tmp_path / f"map{suffix}"
        PIL.Image.fromarray(pixels[..., 0]).save(numbers, exif=exif, compression="tiff_lzw")
        assert map_size(numbers) == tuple(read_label_map(numbers).shape)


def header(width: int, height: int) -> bytes:
    """A PNG of so many pixels that ends before the first of them."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = b"IDAT"
    parts = (chunk, rest)
    body = b"".join(struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.filterwarnings(
    "ignore::PIL.Image.DecompressionBombWarning"
)  # as the module does; pytest undoes it
@pytest.mark.parametrize("side", [9_000, 10_000, 20_000])
def test_our_bound_is_what_is_said_whatever_pil_thinks_of_the_size(tmp_path, side):
    """PIL has two bounds of its own, a warning at 89 and an error at 179 million pixels."""
    path = tmp_path / "a.png"
    path.write_bytes(header(side, side))
    with pytest.raises(DataError, match=r"a\.png: .* more than the 80000000 pixels allowed; shrink it"):
        image_size(path)


@pytest.mark.slow
def test_pil_does_not_warn_before_we_refuse(tmp_path):
    (tmp_path / "a.png").write_bytes(header(10_000, 10_000))
    lines = (
        "from ufo.data.pictures import read_image",
        "try: read_image('a.png')",
        "except Exception as e: print(e)",
    )
    code = "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert "10000x10000 is more than the 80000000 pixels allowed" in done.stdout and not done.stderr
