import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cifar10_files import LABELS, PIXELS, binary, pickled

from recipe.components.data import Data
from recipe.components.data.cifar10 import cifar10
from recipe.errors import SpecError


def as_python_2_wrote_it(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The pickle of one batch as in the real download: protocol 2, byte strings, old numpy."""
    raw = pixels.tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K",
            bytes([len(labels)]),
            b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            b"J\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw,
            b"tbU\x06labels](" + b"".join(bytes([75, label]) for label in labels) + b"eu.",
        ]
    )


def made(path: Path | None, **changed: Any) -> Data:
    chosen: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3} | changed
    return cifar10(torch.Generator(), path=None if path is None else str(path), **chosen)


@pytest.mark.parametrize("write", [binary, pickled])
def test_official_cifar10_splits_keep_their_order(tmp_path: Path, write: Any) -> None:
    data = made(write(tmp_path))
    assert data.train.targets.tolist() == LABELS[:10] and data.val.targets.tolist() == [0, 1]
    ((train, _),) = data.train.batches([torch.arange(10)])
    ((val, _),) = data.val.batches([torch.arange(2)])
    assert torch.equal(torch.cat([train, val]), torch.from_numpy(PIXELS).float() / 255)
    assert data.classes[0] == "airplane" and data.classes[9] == "truck" and len(data.classes) == 10


def test_cifar_versions_and_parent_folders_have_same_digest(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/cifar-10-batches-bin", "b/cifar-10-batches-py")]
    for folder, write in zip(folders, (binary, pickled), strict=True):
        folder.mkdir(parents=True)
        write(folder)
    digests = {made(path).digest for path in (*folders, tmp_path / "a", tmp_path / "b")}
    assert len(digests) == 1


def test_cifar10_digest_depends_on_pixels_labels_and_normalisation(tmp_path: Path) -> None:
    first = made(binary(tmp_path)).digest
    assert made(tmp_path, std=[1.0, 1.0, 2.0]).digest != first
    file = tmp_path / "test_batch.bin"
    for position in (0, 1):  # a label, a pixel
        content = bytearray(file.read_bytes())
        content[position] += 1
        file.write_bytes(content)
        assert made(tmp_path).digest != first


def test_images_are_stored_as_bytes_and_normalised_per_batch(tmp_path: Path) -> None:
    data = made(binary(tmp_path), mean=[0.0, 0.2, 0.5], std=[1.0, 0.5, 0.25])
    assert data.train.inputs.dtype == torch.uint8  # type: ignore[attr-defined]
    ((images, labels),) = data.train.batches([torch.tensor([7, 3])])
    assert labels.tolist() == [7, 3] and images.dtype == torch.float32
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([7 / 255, 3 / 255]))
    # (100 / 255 - 0.2) / 0.5; (1 - 0.5) / 0.25 in the first row and (0 - 0.5) / 0.25 below
    torch.testing.assert_close(images[0, 1], torch.full((32, 32), 0.38431373))
    assert images[0, 2, 0].eq(2).all() and images[0, 2, 1:].eq(-2).all()


def test_python_2_pickle_is_read(tmp_path: Path) -> None:
    pickled(tmp_path)
    (tmp_path / "test_batch").write_bytes(as_python_2_wrote_it(PIXELS[4:6], [3, 5]))
    data = made(tmp_path)
    ((images, labels),) = data.val.batches([torch.arange(2)])
    assert labels.tolist() == [3, 5]
    assert torch.equal(images, torch.from_numpy(PIXELS[4:6]).float() / 255)


class Attack:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_cifar_batch_does_not_execute_code(tmp_path: Path, protocol: int) -> None:
    pickled(tmp_path)
    content = pickle.dumps({"data": Attack(tmp_path / "attacked"), "labels": [1]}, protocol)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(SpecError, match=r"data_batch_3 is not .*contains posix\.mkdir, and only"):
        made(tmp_path)
    assert not (tmp_path / "attacked").exists()
    pickle.loads(content)  # the attack is real
    assert (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(b"os\nsystem", b"builtins\neval", b"_codecs\nencode"),
        *(b"numpy\nload", b"numpy\nfromfile", b"numpy\nndarray.tofile"),
        *(b"numpy.core.multiarray\nfromfile", b"numpy.core.multiarray\nndarray.tofile"),
    ],
)
def test_pickle_with_any_disallowed_global_is_rejected(tmp_path: Path, name: bytes) -> None:
    pickled(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"c" + name + b"\n.")
    with pytest.raises(SpecError, match=r"data_batch_1 is not .* only arrays are read"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        ({"data": PIXELS[:2].reshape(2, 3072), "labels": [1]}, r"uint8 \(2, 3072\) for .* \(1,\)"),
        ({"data": PIXELS[:2].astype(float).reshape(2, 3072), "labels": [1, 2]}, "is float64"),
        ({"data": PIXELS[:2].reshape(2, 3072), "labels": [1.0, 2.0]}, "labels float64"),
        (
            {"data": PIXELS[:2].reshape(2, 3072), "labels": [1, 10]},
            r"1 of its 2 labels are beyond 0\.\.9",
        ),
        (
            {"data": PIXELS[:2].reshape(2, 3072), "labels": [1, -1]},
            r"1 of its 2 labels are beyond 0\.\.9",
        ),
        ({"data": [1, 2], "labels": [1, 2]}, r"its data is list \(2,\)"),
        ({"labels": [1, 2]}, "'data'"),
        ([], "list indices"),
    ],
)
def test_malformed_cifar_batch_is_rejected(tmp_path: Path, batch: Any, problem: str) -> None:
    (pickled(tmp_path) / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(SpecError, match=rf"^data\.path: .*data_batch_2 is not a .*{problem}"):
        made(tmp_path)


def test_truncated_cifar_file_is_named(tmp_path: Path) -> None:
    file = binary(tmp_path) / "data_batch_4.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SpecError, match=r"^data\.path: .*data_batch_4\.bin has 6145 bytes, not a"):
        made(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"^data\.path: .* lacks data_batch_4\.bin; unpack"):
        made(tmp_path)


def test_cifar_path_without_files_raises_with_expected_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.path: null; give the folder"):
        made(None)
    with pytest.raises(
        ValueError, match=r"^data\.path: .* contains neither data_batch_1\.bin, \.\.\. nor"
    ):
        made(tmp_path)
