"""Small files that would take gigabytes are refused in less than one, each in a line."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from cifar10_files import pickled
from PIL import Image

from recipe.components.data.image_reading import crop_and_resize, read_image, read_resized_image

NUMBERS = 4 * 10**8
"""Of float32, which take 1.6 GB."""

BLOCK = 2**24

MEASURED = """
import json, sys
from recipe.cli import main

def peak():
    # of this program alone; ru_maxrss begins at what the process that started it had held
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024

for command in json.load(open("commands.json")):
    status = main.run_command_line(["plan", "device=cpu", "device.threads=1", *command])
    print(json.dumps([status, peak()]))
"""


def deflated(content: bytes) -> bytes:
    """A part of a raw deflate stream."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush(zlib.Z_FULL_FLUSH)


def inflated(path: Path, names: dict[str, bytes], larger: str, to: int) -> None:
    """A zip archive in which `larger` is followed by zeros, up to `to` bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            if name != larger:
                archive.writestr(name, content)
                continue
            times, rest = divmod(to - len(content), BLOCK)
            parts = [deflated(content), deflated(bytes(BLOCK)) * times, deflated(bytes(rest))]
            archive.writestr(name, b"".join(parts) + b"\3\0")
            archive.getinfo(name).file_size = to  # as the directory at the end will say
            archive.getinfo(name).compress_type = zipfile.ZIP_DEFLATED


def hostile(folder: Path) -> dict[str, tuple[list[str], str]]:
    """By kind of file a command that reads it, and the beginning of what it is refused with."""
    torch.save({"a": torch.zeros(10)}, folder / "plain.pt")
    with zipfile.ZipFile(folder / "plain.pt") as archive:
        names = {info.filename: archive.read(info) for info in archive.infolist()}
    inflated(folder / "bomb.pt", names, "plain/data/0", 4 * NUMBERS)
    hexadecimal = (
        b"\x80\x02" + b"c_codecs\nencode\n" * 29 + b"X\x08\0\0\0aaaaaaaaX\x06\0\0\0latin1\x86R"
        + b"X\x09\0\0\0hex_codec\x86R" * 28 + b"."
    )  # fmt: skip
    with zipfile.ZipFile(folder / "twice.pt", "w") as archive:
        for name, content in names.items():
            archive.writestr(name, hexadecimal if name.endswith("data.pkl") else content)

    np.savez(folder / "plain.npz", x=np.zeros((4, 8, 8), np.float32), y=np.array([0, 1, 0, 1]))
    with zipfile.ZipFile(folder / "plain.npz") as archive:
        names = {info.filename: archive.read(info) for info in archive.infolist()}
    inflated(folder / "short.npz", names, "x.npy", 4 * NUMBERS)
    rows = NUMBERS // 64
    header = names["x.npy"][:128].replace(b"(4,", b"(%d," % rows)[:128]
    header = header[:-1].rstrip().ljust(127) + b"\n"
    inflated(folder / "bomb.npz", names | {"x.npy": header}, "x.npy", 128 + 256 * rows)

    (folder / "cifar").mkdir()
    pickled(folder / "cifar")
    (folder / "cifar" / "data_batch_2").write_bytes(b"\x80\x02Nr\xff\xff\xff\x0f.")
    huge = b"\x80\x02cnumpy\nndarray\n(J" + (2**30).to_bytes(4, "little") + b"t\x85R."
    (folder / "cifar" / "data_batch_3").write_bytes(huge)

    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        Image.new("1", (8, 8)).save(folder / "pets" / name / "1.png")
        Image.new("1", (8, 8)).save(folder / "pets" / name / "2.png")
    Image.new("1", (9400, 9400)).save(folder / "pets" / "cat" / "large.png")

    arrays = ["data=arrays", "data.val=0.5"]
    return {
        "compressed weights": (
            [f"model.weights={folder / 'bomb.pt'}"],
            f"model.weights: {folder / 'bomb.pt'}: isn't loaded: its entries are compressed",
        ),
        "text that doubles": (
            [f"model.weights={folder / 'twice.pt'}"],
            f"model.weights: {folder / 'twice.pt'}: isn't loaded: it takes far more memory than",
        ),
        "compressed arrays": (
            [*arrays, f"data.path={folder / 'bomb.npz'}"],
            f"data.path: {folder / 'bomb.npz'} declares 1.5 GiB of arrays in 1.5 MiB",
        ),
        "a small array in a large file": (
            [*arrays, f"data.path={folder / 'short.npz'}"],
            f"data.path: {folder / 'short.npz'} declares 1.5 GiB of arrays in 1.5 MiB",
        ),
        "pickles": (
            ["data=cifar10", f"data.path={folder / 'cifar'}"],
            f"data.path: {folder / 'cifar' / 'data_batch_2'} is not a CIFAR-10 batch: it uses "
            "memo index 268435455",
        ),
        "a large image": (
            ["data=image_folder", "data.size=8", "data.val=0.5", f"data.path={folder / 'pets'}"],
            f"data.path: 1 of 5 images in {folder / 'pets'} can't be read: cat/large.png (it has "
            "9400 x 9400 pixels, more than data.max_pixels=50000000)",
        ),
    }


@pytest.mark.integration
def test_files_crafted_to_fill_memory_are_refused_before_they_do(tmp_path: Path) -> None:
    kinds = hostile(tmp_path)
    given = json.dumps([command for command, _ in kinds.values()])
    (tmp_path / "commands.json").write_text(given)
    (tmp_path / "measured.py").write_text(MEASURED)
    done = commands.spawn(tmp_path, str(tmp_path / "measured.py"), program=(commands.PROGRAM[0],))
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [status for status, _ in found] == [2] * len(kinds), done.err
    for _, problem in kinds.values():
        assert any(line.startswith(f"recipe: {problem}") for line in done.problems), problem
    assert len(done.problems) == len(kinds) + 1  # of the pickles both are named
    assert max(megabytes for _, megabytes in found) < 1000


def test_highly_compressed_array_is_read(tmp_path: Path) -> None:
    y = np.arange(40) % 2
    np.savez_compressed(
        tmp_path / "file.npz",
        x=np.zeros((40, 512, 512), np.uint8) + y[:, None, None].astype(np.uint8),
        y=y,
    )
    done = commands.run(
        tmp_path, "plan", *commands.CPU, "data=arrays", "data.path=file.npz", "data.val=0.5",
        "model.widths=[2]", "data.batch_size=4",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "P"), ("a.png", "I;16"),
     ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.gif", "P"), ("a.png", "1")],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_resized_while_it_is_read_is_bit_identical(
    tmp_path: Path, name: str, mode: str, channels: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(noise).convert(mode)
    image.save(tmp_path / name)
    for size in ((32, 32), (61, 83), (7, 20)):
        complete = crop_and_resize(read_image(tmp_path / name, channels=channels), size)
        fitted = read_resized_image(tmp_path / name, channels=channels, size=size, max_pixels=10**4)
        assert torch.equal(complete, fitted) and fitted.shape == (channels, *size)


@pytest.mark.parametrize(("limit", "scale"), [(6144, 1), (6143, 2), (1536, 2), (1535, 4), (383, 8)])
def test_oversized_jpeg_is_decoded_at_largest_scale_within_limit(
    tmp_path: Path, limit: int, scale: int
) -> None:
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    Image.fromarray((x + 2 * y).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg", channels=1, max_pixels=limit)
    assert found.shape == (1, 64 // scale, 96 // scale)
    complete = read_image(tmp_path / "a.jpg", channels=1)
    shrunk = crop_and_resize(complete, (found.shape[1], found.shape[2]))
    inside = found[:, 1:-1, 1:-1] - shrunk[:, 1:-1, 1:-1]
    assert inside.abs().max() < 0.05


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_images_above_max_pixels_are_rejected(tmp_path: Path, name: str) -> None:
    Image.new("L", (100, 60)).save(tmp_path / name, progressive=True)  # which a .png is not
    assert read_image(tmp_path / name, channels=1, max_pixels=6000).shape == (1, 60, 100)
    with pytest.raises(
        ValueError, match=r"it has 100 x 60 pixels, more than data\.max_pixels=5999$"
    ):
        read_image(tmp_path / name, channels=1, max_pixels=5999)
