"""Broken .npz files as users meet them: named, counted, never a traceback or the memory full."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import commands
import numpy as np
import psutil
import pytest

TINY = (*commands.CPU, "epochs=1", "model.widths=[2,4]", "tracking=none")


def npz(home: Path, **arrays: Any) -> tuple[str, ...]:
    np.savez(home / "file.npz", **arrays)
    return (*TINY, "data=arrays", f"data.path={home / 'file.npz'}", "data.val=0.25")


X = np.random.default_rng(0).random((12, 20, 24), np.float32)
Y = np.arange(12) % 3


def test_nonfinite_array_values_are_counted_by_value_and_image(tmp_path: Path) -> None:
    x = X.astype(np.float64)
    x[3, 0, :2], x[7, 0, 0], x[7, 1, 1] = np.nan, np.inf, 1e300  # the last is beyond float32
    assert commands.rejected(tmp_path, *npz(tmp_path, x=x, y=Y)) == [
        "data.path: 4 of 5,760 values in x are NaN, infinite or beyond float32, in 2 of 12 images "
        f"(3, 7); replace them (in {tmp_path / 'file.npz'})"
    ]


def test_all_array_problems_are_reported_together(tmp_path: Path) -> None:
    parts = {"x_train": X * np.nan, "y_train": Y - 2, "x_val": X[:5], "y_val": Y[:4] / 1}
    starts = ("data.val: 0.25 would be ignored", "data.path: 8 of 12 labels in y_train are neg",
              "data.path: 5,760 of 5,760 values in x_train are NaN",
              "data.path: y_val is float64 of shape (4,)",
              "data.path: x_val has shape (5, 20, 24), y_val (4,)")  # fmt: skip
    problems = commands.rejected(tmp_path, *npz(tmp_path, **parts))
    for problem, start in zip(problems, starts, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y": Y * 0}, "y is 0 for all 12 samples; at least two classes are needed"),
        ({"y": np.array([0, 1, 10**12] * 4)}, "y has no sample of 999,999,999,998 of the labels 0"),
        ({"y": np.array([0, 1, 2**63] * 4, np.uint64)}, "y has no sample of 9,223,372,036,854,775"),
        ({"y": Y.astype(str)}, "y is <U21 of shape (12,), but labels are integers"),
        ({"x": X[:, :0]}, "x has shape (12, 0, 24), y (12,); use the same n"),
        (
            {"x": X.astype(object)},
            "x of {file} can't be read: it contains Python objects, which can",
        ),
        (
            {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y * 0},
            "y_val has no sample of 2 of the 3 classes (1, 2); add some",
        ),
    ],
)
def test_unusable_arrays_are_rejected(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    given = {"x": X, "y": Y} | arrays if "x_train" not in arrays else arrays
    more = ("data.val=null",) if "x_val" in arrays else ()
    (told,) = commands.rejected(tmp_path, *npz(tmp_path, **given), *more)
    assert told.startswith(f"data.path: {problem.format(file=tmp_path / 'file.npz')}")


def header(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """The start of an .npy file of bytes that declares a shape, and what follows it."""
    stream = io.BytesIO()
    about = {"shape": shape, "descr": "|u1", "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue() + content


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (b"not an array at all", "the magic string is not correct"),
        (b"", "it is empty"),
        (header((2**40, 1000, 1000)), "uint8 of shape (1099511627776, 1000, 1000) needs 1,099,511"),
        (
            header((12, 8, 8), b"short"),
            "uint8 of shape (12, 8, 8) needs 768 bytes, but there are 5",
        ),
        (header((-12, -8, 8), bytes(768)), "uint8 of shape (-12, -8, 8) needs 768 bytes"),
        (
            header((12, 8, 8), bytes(10**8)),
            "uint8 of shape (12, 8, 8) needs 768 bytes, but there a",
        ),
        (b"\x93NUMPY\x09\x00", "its .npy format version (9, 0) is not supported"),
    ],
    ids=["no array", "empty", "gigantic", "short", "negative", "bomb", "version"],
)
def test_array_with_false_header_is_rejected_without_allocating(
    tmp_path: Path, x: bytes, reason: str
) -> None:
    options = npz(tmp_path, y=Y)
    with zipfile.ZipFile(tmp_path / "file.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", x)
    before = psutil.Process().memory_info().rss
    (problem,) = commands.rejected(tmp_path, *options)
    assert problem.startswith(f"data.path: x of {tmp_path / 'file.npz'} can't be read: {reason}")
    assert psutil.Process().memory_info().rss - before < 5 * 10**7


def test_array_larger_than_memory_is_rejected_before_loading(tmp_path: Path) -> None:
    options = npz(tmp_path, y=Y)
    length = psutil.virtual_memory().total * 2
    with zipfile.ZipFile(tmp_path / "file.npz", "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", header((length, 1, 1)))
        archive.getinfo("x.npy").file_size = length  # as the directory at the end will say
    (problem,) = commands.rejected(tmp_path, *options)
    assert problem.startswith("data.path: needs ") and " GiB of memory, and " in problem
