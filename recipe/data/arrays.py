"""Images and labels from one .npz file, as numpy.savez writes it."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recipe.data import Data, InMemory, digest, moments, stratified
from recipe.images import normalise, normalise_bytes

Layout = Literal["auto", "chw", "hwc"]
Arrays = dict[str, Any]
Parts = dict[str, tuple[Tensor, Tensor]]


def arrays(
    split: torch.Generator,
    *,
    path: str | None,
    layout: Layout,
    val: Annotated[float, Field(gt=0, lt=1)] | None,
) -> Data:
    """The arrays `x` (or `x_train`) and `y` (or `y_train`), and where there are, `x_val`, `y_val`,
    `x_test`, `y_test` and `classes`, the names of the classes.

    x is (n, h, w), (n, c, h, w) or (n, h, w, c); bytes, where 255 is white, or floats, taken as
    they are (a prediction takes white as 1). y is (n,) of whole numbers 0, 1, ..., each found in
    the training part. Inputs are normalised by the training part.
    """
    found, shown = _load(path)
    name = "" if "x" in found else "_train"
    if "x" in found and "x_train" in found:
        raise ValueError(f"data.path: {shown} has both x and x_train; keep one")
    parts: Parts = {"train": _pair(found, shown, name, layout)}
    for other in ("val", "test"):
        if f"x_{other}" in found or f"y_{other}" in found:
            parts[other] = _pair(found, shown, f"_{other}", layout)
    names = _names(found, shown, parts)
    if "val" in parts and val is not None:
        raise ValueError(f"data.val: {val} would be ignored, {shown} has x_val; use data.val=null")
    if "val" not in parts:
        if val is None:
            raise ValueError(
                f"data.val: null needs x_val and y_val in {shown}; give the fraction to validate"
                " on, such as data.val=0.2"
            )
        inputs, targets = parts["train"]
        for part, indices in zip(
            ("train", "val"), stratified(targets, val, names, split), strict=True
        ):
            parts[part] = inputs[indices], targets[indices]
    return _data(parts, names, shown)


def _data(parts: Parts, names: tuple[str, ...], shown: str) -> Data:
    inputs, _ = parts["train"]
    mean, std = moments(inputs)
    if not all(deviation > 0 for deviation in std):
        raise ValueError(
            f"data.path: channel {std.index(0.0)} of the training part of {shown} is constant,"
            " which cannot be normalised; leave it out"
        )

    def in_memory(inputs: Tensor, targets: Tensor) -> InMemory:
        if inputs.dtype == torch.uint8:
            return InMemory(inputs, targets, partial(normalise_bytes, mean=mean, std=std))
        return InMemory(normalise(inputs, mean=mean, std=std), targets)

    content = [each for name, pair in sorted(parts.items()) for each in (name, *pair)]
    return Data(
        **{name: in_memory(*pair) for name, pair in parts.items()},
        classes=names,
        channels=inputs.shape[1],
        size=(inputs.shape[2], inputs.shape[3]),
        mean=mean,
        std=std,
        digest=digest(*content, f"arrays {names}"),
    )


def _load(path: str | None) -> tuple[Arrays, str]:
    """Every array of the file that has a meaning here, and the path to name in messages."""
    if path is None:
        raise ValueError("data.path: null; give an .npz file, such as data.path=/data/cells.npz")
    file = Path(path).expanduser()
    parts = [f"{each}{part}" for each in "xy" for part in ("", "_train", "_val", "_test")]
    try:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name; write it with numpy.savez")
        with opened:
            return {name: opened[name] for name in (*parts, "classes") if name in opened}, str(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"data.path: {file} is not a readable .npz: {reason}") from error


def _pair(found: Arrays, shown: str, part: str, layout: Layout) -> tuple[Tensor, Tensor]:
    """Inputs (n, c, h, w), uint8 or float32, and targets (n,) int64 of one part of the file."""
    for name in (f"x{part}", f"y{part}"):
        if name not in found:
            has = ", ".join(found) or "none of the names read here"
            raise ValueError(f"data.path: {shown} has no {name}; it has {has}")
    x, y = found[f"x{part}"], found[f"y{part}"]
    if y.dtype.kind not in "iu" or y.ndim != 1:
        problem = f"y{part} is {y.dtype} of shape {y.shape}; labels are whole numbers, shape (n,)"
    elif x.shape[:1] != y.shape or len(y) == 0:
        problem = f"x{part} has shape {x.shape}, y{part} {y.shape}; they need the same n, above 0"
    elif y.min() < 0:
        problem = f"y{part} has the label {y.min()}; labels are 0, 1, ..."
    elif x.dtype != np.uint8 and x.dtype.kind != "f":
        problem = f"x{part} is {x.dtype}; give uint8 (0 to 255) or floats"
    elif x.dtype.kind == "f" and not np.isfinite(x).all():
        problem = f"x{part} has values that are NaN or infinite; replace them"
    else:
        inputs = torch.from_numpy(x.astype(np.uint8 if x.dtype == np.uint8 else np.float32))
        return _channels_first(inputs, layout), torch.from_numpy(y.astype(np.int64))
    raise ValueError(f"data.path: {problem} (in {shown})")


def _channels_first(inputs: Tensor, layout: Layout) -> Tensor:
    shape = tuple(inputs.shape)
    if len(shape) == 3 and layout == "auto":
        return inputs[:, None]
    if len(shape) != 4:
        raise ValueError(
            f"data.layout: {layout} does not suit images of shape {shape}; (n, h, w) takes auto,"
            " (n, c, h, w) chw, (n, h, w, c) hwc"
        )
    if layout == "auto":
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first == last:
            raise ValueError(
                f"data.layout: auto cannot tell which axis of shape {shape} is the channels; say"
                " data.layout=chw or data.layout=hwc"
            )
        layout = "chw" if first else "hwc"
    return inputs if layout == "chw" else inputs.permute(0, 3, 1, 2).contiguous()


def _names(found: Arrays, shown: str, parts: Parts) -> tuple[str, ...]:
    """The names of the classes, after checking that parts and names agree with each other."""
    inputs, targets = parts["train"]
    counts = targets.bincount()
    names = found.get("classes", np.arange(len(counts)).astype(str))
    absent = (counts == 0).nonzero().flatten().tolist()
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) < len(names):
        problem = f"classes is {names.dtype} of shape {names.shape}; give different strings"
    elif absent:
        problem = f"no training sample has the label {absent[0]}, but some have {len(counts) - 1}"
    elif len(names) != len(counts):
        problem = f"classes has {len(names)} names for labels from 0 to {len(counts) - 1}"
    else:
        for part, (others, labels) in parts.items():
            if others.shape[1:] != inputs.shape[1:] or others.dtype != inputs.dtype:
                one, two = (f"{x.dtype} {tuple(x.shape[1:])}" for x in (inputs, others))
                problem = f"images to train on are {one}, those in x_{part} are {two}"
            elif labels.max() >= len(counts):
                problem = f"y_{part} has the label {labels.max()}, which no training sample has"
            else:
                continue
            break
        else:
            return tuple(names.tolist())
    raise ValueError(f"data.path: {problem} (in {shown})")
