import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image

from recipe.components.data.image_files import check_image, list_image_files
from recipe.components.data.image_reading import (
    crop_and_resize,
    normalise,
    normalise_bytes,
    read_image,
)

in_tmp_path = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(image: Image.Image, folder: Path, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


@in_tmp_path
@given(pixels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_gray_values_are_exactly_v_over_255_in_one_and_three_channels(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    file = saved(Image.fromarray(pixels), tmp_path)
    expected = torch.from_numpy(pixels).float()[None] / 255
    assert torch.equal(read_image(file, channels=1), expected)
    assert torch.equal(read_image(file, channels=3), expected.repeat(3, 1, 1))


@in_tmp_path
@given(
    pixels=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([3, 4]))
    ),
    name=st.sampled_from(["image.png", "image.bmp", "image.tif"]),
)
def test_opaque_colour_values_are_exactly_v_over_255(
    tmp_path: Path, pixels: np.ndarray, name: str
) -> None:
    pixels[..., 3:] = 255
    image = read_image(saved(Image.fromarray(pixels), tmp_path, name), channels=3)
    assert torch.equal(image, torch.from_numpy(pixels[..., :3]).permute(2, 0, 1).float() / 255)


def test_colour_image_is_converted_to_gray_by_luma(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7]]], np.uint8)
    image = read_image(saved(Image.fromarray(pixels), tmp_path), channels=1)
    # 0.299, 0.587 and 0.114 of 255, in whole numbers; a gray stays what it is
    assert (image * 255).round().tolist() == [[[76.0, 150.0, 29.0, 7.0]]]
    assert image[0, 0, 3] == 7 / 255


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_blended_with_white(tmp_path: Path, mode: str) -> None:
    colour = {"RGBA": (0, 0, 0), "LA": (0,)}[mode]
    image = Image.new(mode, (3, 1))
    for column, alpha in enumerate((0, 51, 255)):  # 51 is a fifth of 255
        image.putpixel((column, 0), (*colour, alpha))
    file = saved(image, tmp_path)
    for channels in (1, 3):
        expected = torch.tensor([1.0, 0.8, 0.0]).expand(channels, 1, 3)
        torch.testing.assert_close(read_image(file, channels=channels), expected)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour_becomes_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    black = image.getpixel((0, 0))
    image_read = read_image(saved(image, tmp_path, transparency=black), channels=3)
    assert image_read[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    red = [1.0, 0.0, 0.0] if mode != "L" else [76 / 255] * 3
    torch.testing.assert_close(image_read[:, 0, 1], torch.tensor(red))


def test_palette_image_is_read_with_palette_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = read_image(saved(image, tmp_path), channels=3) * 255
    torch.testing.assert_close(
        pixels, torch.tensor([[[10.0, 40.0]], [[20.0, 50.0]], [[30.0, 60.0]]])
    )


def test_one_bit_image_has_only_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert read_image(saved(image, tmp_path), channels=1).tolist() == [[[0.0, 1.0]]]


def test_cmyk_ink_is_read_as_dark(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    pixels = read_image(saved(image, tmp_path, "image.tif"), channels=3)
    assert pixels[:, :, :4].eq(1).all() and pixels[:, :, 4:].eq(0).all()


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_sixteen_bit_grayscale_keeps_full_precision(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 1, 32768, 65535]], np.uint16)
    image = read_image(saved(Image.fromarray(values), tmp_path, name), channels=3)
    expected = torch.tensor([[[0.0, 1 / 65535, 32768 / 65535, 1.0]]])
    assert torch.equal(image, expected.repeat(3, 1, 1))


def test_transparent_sixteen_bit_value_becomes_white(tmp_path: Path) -> None:
    values = np.array([[1000, 0]], np.uint16)
    file = saved(Image.fromarray(values), tmp_path, transparency=1000)
    assert read_image(file, channels=1).tolist() == [[[1.0, 0.0]]]


def test_image_reader_applies_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row of the file is the right edge of the picture
    file = saved(Image.fromarray(np.array([[0, 255]], np.uint8)), tmp_path, exif=exif)
    assert read_image(file, channels=1).tolist() == [[[0.0], [1.0]]]


def test_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (1, 1), value) for value in (0, 255)]
    file = saved(frames[0], tmp_path, "image.gif", save_all=True, append_images=frames[1:])
    assert read_image(file, channels=1).tolist() == [[[0.0]]]


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def broken(kind: str, folder: Path) -> Path:
    file = folder / f"{kind}.png"
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("not an image\nat all")
    elif kind == "folder":
        file.mkdir()
    elif kind == "floats":
        file = saved(Image.fromarray(np.zeros((2, 2), np.float32)), folder, "floats.tif")
    elif kind == "deep":
        file = saved(Image.fromarray(np.full((2, 2), 70000, np.int32)), folder, "deep.tif")
    elif kind.startswith("cut"):
        file = saved(Image.fromarray(NOISE), folder, f"cut.{kind[4:]}")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "garbled":
        saved(Image.fromarray(NOISE), folder, file.name)
        data = bytearray(file.read_bytes())
        data[200:400] = bytes(200)
        file.write_bytes(data)
    elif kind == "postscript":
        saved(Image.fromarray(NOISE), folder, "image.eps").rename(file)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        ("folder", "Is a directory"),
        ("empty", "the file is empty"),
        ("text", "none of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, HEIC"),
        ("postscript", "none of PNG"),
        ("cut png", ""),
        ("cut jpg", "truncated"),
        ("cut gif", "truncated"),
        ("cut bmp", "truncated"),
        ("cut webp", ""),
        ("garbled", ""),
        ("floats", "floating-point"),
        ("deep", "pixels are 70000..70000, beyond 16 bits (0..65535)"),
    ],
)
def test_unreadable_image_raises_one_line_with_its_path(
    tmp_path: Path, kind: str, reason: str
) -> None:
    file = broken(kind, tmp_path)
    with pytest.raises(ValueError, match="is not a readable image: ") as caught:
        read_image(file, channels=3)
    message = str(caught.value)
    assert message.startswith(f"{file}: is not a readable image: ")
    assert reason in message and "\n" not in message


@pytest.mark.parametrize("times", [1.5, 3])  # Pillow warns above its limit, and raises above twice
def test_decompression_bomb_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    file = saved(Image.new("1", (100, 100)), tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * 100 / times))
    for read in (check_image, lambda path: read_image(path, channels=1)):
        with (
            warnings.catch_warnings(record=True) as seen,
            pytest.raises(ValueError, match=r"a readable image: it has 10000 pixels, more than "),
        ):
            read(file)
        assert not seen


def test_image_beyond_pillow_limit_raises_with_max_pixels(tmp_path: Path) -> None:
    file = saved(Image.new("1", (1, 1)), tmp_path)
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"image: it has 3600000000 pixels, more than data\.max_pixels=50000000$"
    ):
        check_image(file, 50_000_000)


def test_unreadable_heic_error_lists_heic_among_formats(tmp_path: Path) -> None:
    file = tmp_path / "phone.heic"
    file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(ValueError, match=r"none of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, HEIC$"):
        check_image(file)


def heic(folder: Path, name: str = "phone.heic") -> Path:
    """A photograph of 64 x 48 pixels, red to the left, that is to be turned to the right."""
    pillow_heif.register_heif_opener()
    pixels = np.full((48, 64, 3), 128, np.uint8)
    pixels[:, :32] = (200, 30, 30)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(folder / "image.heic", exif=exif.tobytes(), quality=95)
    return (folder / "image.heic").rename(folder / name)


@pytest.mark.parametrize("name", ["phone.heic", "renamed.jpg"])
def test_heic_photo_is_read_and_rotated_upright(tmp_path: Path, name: str) -> None:
    file = heic(tmp_path, name)
    check_image(file)
    found = read_image(file, channels=3)
    assert found.shape == (3, 64, 48)
    above, below = found[:, 8, 24] * 255, found[:, 56, 24] * 255
    torch.testing.assert_close(above, torch.tensor([200.0, 30.0, 30.0]), atol=4, rtol=0)
    torch.testing.assert_close(below, torch.tensor([128.0] * 3), atol=4, rtol=0)


def test_truncated_heic_photo_fails_image_check(tmp_path: Path) -> None:
    file = heic(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a readable image: "):
        check_image(file)


def test_heic_image_without_pillow_heif_raises_with_install_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = heic(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (check_image, lambda path: read_image(path, channels=1)):
        with pytest.raises(ValueError, match="a HEIC photograph needs pillow_heif, and") as caught:
            read(file)
        assert str(caught.value).endswith("install the extra: pip install torch-recipe[heic]")


def test_text_file_is_detected_from_its_first_bytes(tmp_path: Path) -> None:
    check_image(saved(Image.fromarray(NOISE), tmp_path))
    with pytest.raises(ValueError, match="is not a readable image: none of PNG"):
        check_image(broken("text", tmp_path))


def test_unsupported_number_of_image_channels_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.channels must be 1 or 3 .* got 4; use 3"):
        read_image(saved(Image.fromarray(NOISE), tmp_path), channels=4)


def test_image_files_are_found_recursively_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/1.JPG", "b/2.png", "a.tiff", "b/notes.txt", "B.png"):
        (tmp_path / name).touch()
    found = [file.as_posix() for file in list_image_files(tmp_path)]
    assert found == ["B.png", "a.tiff", "b/2.png", "b/deep/1.JPG"]


def test_upscaling_is_bilinear_between_pixel_centres() -> None:
    # centres of four output pixels on an axis of two: -0.25, 0.25, 0.75, 1.25; edges hold
    wide = crop_and_resize(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))
    torch.testing.assert_close(wide, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 4, 4))


def test_downscaling_is_antialiased() -> None:
    # The first output pixel is centred at 1.0 and reaches 2 pixels to each side: the inputs at
    # 0.5, 1.5, 2.5 weigh 0.75, 0.75, 0.25; so the third has a share of 0.25 / 1.75.
    small = crop_and_resize(torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 4, 4), (2, 2))
    torch.testing.assert_close(small, torch.tensor([1 / 7, 6 / 7]).expand(1, 2, 2))


def test_centre_crop_has_the_aspect_ratio_of_the_result() -> None:
    row = torch.arange(4.0).expand(1, 2, 4)
    assert crop_and_resize(row, (2, 2)).tolist() == [[[1.0, 2.0], [1.0, 2.0]]]
    assert crop_and_resize(row.mT, (2, 2)).tolist() == [[[1.0, 1.0], [2.0, 2.0]]]
    assert crop_and_resize(row, (1, 4)).shape == (1, 1, 4)


@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 40)] * 2),
    size=st.tuples(*[st.integers(1, 20)] * 2),
    seed=st.integers(0, 99),
)
def test_batch_resize_equals_per_image_resize_within_0_and_1(
    shape: tuple[int, int, int, int], size: tuple[int, int], seed: int
) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    fitted = crop_and_resize(images, size)
    assert fitted.shape == (*shape[:2], *size) and fitted.is_contiguous()
    assert torch.equal(fitted, torch.stack([crop_and_resize(image, size) for image in images]))
    assert fitted.min() >= -1e-6 and fitted.max() <= 1 + 1e-6
    if size == shape[2:]:
        assert torch.equal(fitted, images)


def test_normalisation_is_per_channel_and_identical_for_bytes() -> None:
    images = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)  # black, white
    mean, std = [0.5, 0.25], [0.5, 3.0]
    assert normalise(images.float() / 255, mean=mean, std=std).flatten().tolist() == [-1.0, 0.25]
    assert normalise_bytes(images, mean=mean, std=std).flatten().tolist() == [-1.0, 0.25]
