"""CIFAR-10 from a local copy: 50,000 + 10,000 colour images of 32 x 32 pixels.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html. Nothing is downloaded.
"""

from __future__ import annotations

import os
import pickle
import pickletools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recipe.components.contract import has_complete_digest
from recipe.components.data import ChannelMean, ChannelStd, Data, InMemory, hash_tensors, paths
from recipe.components.data.image_reading import normalise_bytes
from recipe.errors import Problems
from recipe.formatting import pluralize

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SUBFOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
VALUES_PER_IMAGE = 3 * 32 * 32
ThreeValues = Field(min_length=3, max_length=3)


@has_complete_digest
def cifar10(
    split: torch.Generator,
    *,
    path: str | None,
    mean: Annotated[list[ChannelMean], ThreeValues],
    std: Annotated[list[ChannelStd], ThreeValues],
) -> Data:
    """Returns the official training split for training, the official test split for validation.

    `path` contains the files of the binary or of the Python version, or the folder with them; if
    both exist, the binary version is read. Images are kept in memory as bytes, and each batch is
    normalised when it is read. `split` is not used.
    """
    with paths.translate_os_errors():
        folder, suffix = _find_files(path)
        batches = _read_batches(
            [folder / f"{name}{suffix}" for name in (*TRAIN_FILES, "test_batch")]
        )
    images = torch.cat([pixels for pixels, _ in batches[:-1]])
    targets = torch.cat([labels for _, labels in batches[:-1]])
    val_images, val_targets = batches[-1]
    transform = partial(normalise_bytes, mean=mean, std=std)
    return Data(
        train=InMemory(images, targets, transform),
        val=InMemory(val_images, val_targets, transform),
        classes=CLASSES,
        channels=3,
        size=(32, 32),
        mean=tuple(mean),
        std=tuple(std),
        digest=hash_tensors(images, targets, val_images, val_targets, f"cifar10 {mean} {std}"),
    )


def _find_files(path: str | None) -> tuple[Path, str]:
    """Returns the folder that contains the files, and the suffix of their names."""
    root = paths.require_path(
        path, "the folder of the unpacked download, such as data.path=/data/cifar-10-batches-bin"
    )
    for name in SUBFOLDERS:
        for suffix in (".bin", ""):
            folder = root / name
            files = [folder / f"{batch}{suffix}" for batch in (*TRAIN_FILES, "test_batch")]
            missing = [file.name for file in files if not file.is_file()]
            if not missing:
                return folder, suffix
            if len(missing) < len(files):
                raise ValueError(f"data.path: {folder} lacks {', '.join(missing)}; unpack it again")
    raise ValueError(
        f"data.path: {path} contains neither data_batch_1.bin, ... nor data_batch_1, ...; give the "
        "folder of the unpacked download"
    )


def _read_batches(files: Sequence[Path]) -> list[tuple[Tensor, Tensor]]:
    """Returns images and labels of each file. Raises SpecError with all files that are invalid, or
    that have fewer images than others."""
    problems = Problems()
    batches = []
    for file in files:
        with problems.collect("data"), paths.translate_os_errors():
            batches.append(_read_batch(file))
    problems.raise_if_any()
    full = max(len(labels) for _, labels in batches)
    for file, (_, labels) in zip(files, batches, strict=True):
        if len(labels) < full:
            count = pluralize(len(labels), "image")
            problems.append(
                f"data.path: {file} has {count}, others {full}; it was truncated, unpack it again"
            )
    problems.raise_if_any()
    return batches


def _read_batch(file: Path) -> tuple[Tensor, Tensor]:
    """Returns images (n, 3, 32, 32), uint8, and targets (n,), int64, of one file."""
    pixels, labels = _parse_binary(file) if file.suffix == ".bin" else _parse_pickle(file)
    if len(labels) == 0:
        raise ValueError(f"data.path: {file} is empty; unpack it again")
    if beyond := int(((labels < 0) | (labels > 9)).sum()):
        raise ValueError(
            f"data.path: {file} is not a CIFAR-10 batch: {beyond} of its {len(labels)} labels are "
            "beyond 0..9; unpack it again"
        )
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels.astype("int64"))


def _parse_binary(file: Path) -> tuple[Any, Any]:
    data = np.fromfile(file, dtype=np.uint8)
    if len(data) % (1 + VALUES_PER_IMAGE):
        raise ValueError(
            f"data.path: {file} has {len(data)} bytes, not a multiple of {1 + VALUES_PER_IMAGE} "
            "(a label and an image); it was truncated, or is not CIFAR-10"
        )
    records = data.reshape(-1, 1 + VALUES_PER_IMAGE)
    return records[:, 1:].copy(), records[:, 0]


def _parse_pickle(file: Path) -> tuple[Any, Any]:
    try:
        with file.open("rb") as stream:
            _check_pickle_memo(stream)
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        pixels, labels = content["data"], np.array(content["labels"])
    except Exception as error:  # a pickle can raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"data.path: {file} is not a CIFAR-10 batch: {reason}") from error
    described = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {np.shape(pixels)}"
    ints = labels.dtype.kind == "i" and labels.ndim == 1
    if not ints or described != f"uint8 {(len(labels), VALUES_PER_IMAGE)}":
        raise ValueError(
            f"data.path: {file} is not a CIFAR-10 batch: its data is {described} for labels"
            f" {labels.dtype} {labels.shape}"
        )
    return pixels, labels


def _check_pickle_memo(stream: BinaryIO) -> None:
    """Raises ValueError for an index into the pickle's memo beyond the size of the file, as memory
    is allocated up to the highest index."""
    size = os.fstat(stream.fileno()).st_size
    for opcode, place, _ in pickletools.genops(stream):
        if opcode.name.endswith("PUT") and place is not None and int(place) > size:
            raise ValueError(f"it uses memo index {place}, but has {size} bytes")
    stream.seek(0)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers; refuses every other name, so no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy", "ndarray"):
            return _NDARRAY_PLACEHOLDER
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _reconstruct_empty
        raise pickle.UnpicklingError(f"it contains {module}.{name}, and only arrays are read")


_NDARRAY_PLACEHOLDER = object()  # numpy.ndarray itself would allocate memory for any shape


def _reconstruct_empty(kind: object, shape: tuple[int, ...], _: bytes) -> Any:
    """Returns an array of shape (0,), which numpy pickles before the content of an array."""
    if kind is not _NDARRAY_PLACEHOLDER or shape != (0,):
        raise pickle.UnpicklingError(f"it contains an array of shape {shape} without content")
    return np.empty(0)
