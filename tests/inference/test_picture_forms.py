"""Every form of a picture gives `model.predict` the same, and what is none is refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image
import pytest
import torch
from given_pictures import assert_same, pixels, png

from ufo.data.errors import DataError
from ufo.data.pictures import as_image


def test_every_form_of_a_picture_gives_the_same_answer(model, tmp_path):
    image, path = pixels(), tmp_path / "scene.png"
    path.write_bytes(png(image))
    array = image.permute(1, 2, 0).numpy()
    array.flags.writeable = False
    address = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    forms = [path, str(path), png(image), bytearray(png(image)), PIL.Image.open(path), array, image, address]
    expected = model.predict(image, "detection")
    for form in forms:
        assert torch.equal(as_image(form), image)
        assert_same(model.predict(form, "detection"), expected)
    for many in (forms[:3], iter(forms[:3]), torch.stack([image] * 3), np.stack([array] * 3)):
        found = model.predict(many, "detection")
        assert len(found) == 3
        for one in found:
            assert_same(one, expected, exactly=False)


def test_grey_arrays_are_repeated_and_arrays_may_change_afterwards():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = as_image(grey)
    grey[:] = 0
    assert image.shape == (3, 3, 4) and image[:, 1, 1].tolist() == [5, 5, 5]


def test_floats_deep_colours_and_transparency_are_read_as_in_files(tmp_path):
    image = pixels()
    array = image.permute(1, 2, 0).numpy()
    clear = np.concatenate([array, np.full((*array.shape[:2], 1), 7, np.uint8)], axis=2)
    deep = array.astype(np.uint16) * 257
    forms = [image / 255, (image / 255).double().requires_grad_(), image.to(torch.uint16) * 257]
    forms += [
        array.astype(np.float32) / 255,
        deep,
        deep.astype(">u2"),
        clear,
        torch.from_numpy(clear).permute(2, 0, 1),
    ]
    for form in forms:
        assert torch.equal(as_image(form), image) and as_image(form).dtype == torch.uint8
    PIL.Image.fromarray(deep[..., 0]).save(tmp_path / "deep.png")
    grey = as_image(tmp_path / "deep.png")
    for form in (deep[..., 0], deep[..., :1], image[0], image[:1]):
        assert torch.equal(as_image(form), grey)


@pytest.mark.parametrize("image", [{"a": 1}, 1.5, None])
def test_what_is_no_picture_is_refused(model, image):
    with pytest.raises(TypeError, match="picture"):
        model.predict(image, "detection")


def test_files_folders_and_tables_of_pictures(model, tmp_path):
    path = tmp_path / "scene.png"
    path.write_bytes(png(pixels()))
    for opened in (io.BytesIO(png(pixels())), path.open("rb")):
        with opened, pytest.raises(TypeError, match=r"file\.read"):
            model.predict(opened, "detection")
    for place in (tmp_path, tmp_path / "clip.mp4"):
        with pytest.raises(DataError, match=r"model\.stream"):
            model.predict(place, "detection")
    with pytest.raises(DataError, match="path of the picture is empty"):
        model.predict("", "detection")
    for many in (np.array([str(path)] * 2), np.array([path, path], dtype=object)):
        assert [one.source for one in model.predict(many, "caption")] == [str(path)] * 2


def test_bytes_are_read_as_files_are(tmp_path):
    out = io.BytesIO()
    photo = PIL.Image.fromarray(pixels().permute(1, 2, 0).numpy())
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(out, "PNG", exif=exif)
    path = tmp_path / "turned.png"
    path.write_bytes(out.getvalue())
    assert torch.equal(as_image(out.getvalue()), as_image(path)) and as_image(path).shape == (3, 31, 17)
    for broken in (b"", b"no image", png(pixels())[:60]):
        with pytest.raises(DataError, match="the bytes"):
            as_image(broken)
