"""Checks of arrays of images and labels; the functions yield a message for each problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recipe.formatting import format_list

CHUNK_BYTES = 2**24

LABEL_HINT = "number the classes 0, 1, ..., as np.unique(y, return_inverse=True)[1] does"


def find_problems(arrays: Mapping[str, Any], suffixes: Mapping[str, str]) -> Iterator[str]:
    """Yields all problems of the arrays. `suffixes` has the suffix of the names of each split, such
    as _val in x_val. The split `train` defines the classes."""
    problems = [problem for end in suffixes.values() for problem in _part_problems(arrays, end)]
    yield from problems
    if problems:
        return
    x, y = (arrays[f"{each}{suffixes['train']}"] for each in "xy")
    classes = int(y.max()) + 1
    wrong = [*_class_problems(arrays.get("classes"), y, classes, f"y{suffixes['train']}")]
    yield from wrong
    if wrong:
        return
    for end in suffixes.values():
        others, labels = arrays[f"x{end}"], arrays[f"y{end}"]
        if others.shape[1:] != x.shape[1:] or (others.dtype == np.uint8) != (x.dtype == np.uint8):
            one, two = (f"{each.dtype} {each.shape[1:]}" for each in (x, others))
            yield f"training images are {one}, those in x{end} are {two}; use one type and shape"
        if beyond := int((labels >= classes).sum()):
            yield (
                f"{beyond} of {len(labels)} labels in y{end} are {classes} or more, such as "
                f"{labels.max()}, which no training sample has; leave these samples out"
            )
        if end != suffixes["train"] and (absent := sorted({*range(classes)} - {*labels.tolist()})):
            yield (
                f"y{end} has no sample of {len(absent)} of the {classes} classes "
                f"({format_list(absent)}); add some, or leave those classes out of all splits"
            )


def _part_problems(found: Mapping[str, Any], end: str) -> Iterator[str]:
    """Yields problems of the inputs and labels of one split."""
    missing = [f"{each}{end}" for each in "xy" if f"{each}{end}" not in found]
    if missing:
        yield f"there is no {' and no '.join(missing)}; there are {', '.join(found) or 'no others'}"
        return
    x, y = found[f"x{end}"], found[f"y{end}"]
    if y.dtype.kind not in "iu" or y.ndim != 1:
        yield (
            f"y{end} is {y.dtype} of shape {y.shape}, but labels are integers of shape (n,); "
            f"{LABEL_HINT}"
        )
    elif len(y) and (negative := int((y < 0).sum())):
        yield (
            f"{negative} of {len(y)} labels in y{end} are negative, such as {y.min()}; {LABEL_HINT}"
        )
    if x.shape[:1] != y.shape[:1] or 0 in x.shape:
        yield (
            f"x{end} has shape {x.shape}, y{end} {y.shape}; use the same n, and no axis of size 0"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        yield f"x{end} is {x.dtype}; give uint8 (0 to 255) or floats"
    elif x.dtype.kind == "f" and x.ndim:
        yield from _nonfinite_problems(x, f"x{end}")


def _nonfinite_problems(x: Any, name: str) -> Iterator[str]:
    counts = np.zeros(len(x), np.int64)
    per_image = max(1, x[:1].nbytes)
    step = max(1, CHUNK_BYTES // per_image)
    for first in range(0, len(x), step):
        with np.errstate(over="ignore"):
            finite = np.isfinite(x[first : first + step].astype(np.float32))
        counts[first : first + step] = (~finite).reshape(len(finite), -1).sum(1)
    if counts.any():
        images = counts.nonzero()[0]
        yield (
            f"{counts.sum():,} of {x.size:,} values in {name} are NaN, infinite or beyond "
            f"float32, in {len(images):,} of {len(x):,} images ({format_list(images.tolist())}); "
            "replace them"
        )


def _class_problems(names: Any, y: Any, classes: int, shown: str) -> Iterator[str]:
    """Yields problems of the training labels as class indices, and of the class names."""
    present = np.unique(y)
    if len(present) < classes:
        first = int((present != np.arange(len(present))).argmax())
        yield (
            f"{shown} has no sample of {classes - len(present):,} of the labels 0 to "
            f"{classes - 1:,}, such as {first}; {LABEL_HINT}"
        )
    elif classes < 2:
        yield f"{shown} is {present[0]} for all {len(y)} samples; at least two classes are needed"
    elif names is None:
        return
    elif names.dtype.kind != "U" or names.ndim != 1 or len({*names.tolist()}) < len(names):
        yield f"classes is {names.dtype} of shape {names.shape}; give distinct strings"
    elif len(names) != classes:
        yield f"classes has {len(names)} names for labels from 0 to {classes - 1}; give {classes}"
