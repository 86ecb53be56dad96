"""Images and labels from one .npz file, as numpy.savez writes it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recipe.components.contract import has_complete_digest
from recipe.components.data import (
    Data,
    InMemory,
    array_checks,
    hash_tensors,
    npz,
    paths,
    stratified_split,
)
from recipe.components.data.image_reading import channel_mean_and_std, normalise, normalise_bytes
from recipe.errors import Problems
from recipe.formatting import escape_unprintable

AxisLayout = Literal["auto", "chw", "hwc"]
ArraysByName = dict[str, Any]
TensorsByPart = dict[str, tuple[Tensor, Tensor]]
ARRAY_NAMES = [
    *(f"{each}{end}" for each in "xy" for end in ("", "_train", "_val", "_test")),
    "classes",
]


@has_complete_digest
def arrays(
    split: torch.Generator,
    *,
    path: str | None,
    layout: AxisLayout,
    white: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"],
    val: Annotated[float, Field(gt=0, lt=1)] | None,
) -> Data:
    """Reads the arrays `x` (or `x_train`) and `y` (or `y_train`), and optionally `x_val`, `y_val`,
    `x_test`, `y_test` and `classes`, the class names.

    x has shape (n, h, w), (n, c, h, w) or (n, h, w, c) and holds bytes, where 255 is white, or
    floats, where `white` is: with auto, 1 for floats in 0..1, and 255 for floats in 0..255 whose
    maximum is at least 128. For other floats the value of white is unknown: the run trains, but
    predict refuses it. y has shape (n,) and holds class indices 0, 1, ..., each of which occurs in
    every split. Inputs are normalised with mean and standard deviation of the training split.
    Raises SpecError with all problems of the file, ValueError for a problem that hides others.
    """
    file = paths.require_path(path, "an .npz file, such as data.path=/data/cells.npz")
    shown = escape_unprintable(file)
    with paths.translate_os_errors():
        found = npz.read_arrays(file, ARRAY_NAMES)
    if "x" in found and "x_train" in found:
        raise ValueError(f"data.path: {shown} has both x and x_train; keep one")
    ends = {"train": "_train" if {"x_train", "y_train"} & {*found} else ""}
    ends |= {part: f"_{part}" for part in ("val", "test") if {f"x_{part}", f"y_{part}"} & {*found}}
    problems = Problems()
    if "val" in ends and val is not None:
        problems.append(f"data.val: {val} would be ignored, {shown} has x_val; use data.val=null")
    if "val" not in ends and val is None:
        problems.append(
            f"data.val: null needs x_val and y_val in {shown}; give the share to validate on, such "
            "as data.val=0.2"
        )
    wrong = [f"data.path: {each} (in {shown})" for each in array_checks.find_problems(found, ends)]
    problems += wrong
    if not wrong:
        with problems.collect("data"):
            parts: TensorsByPart = {
                part: _to_tensors(found, end, layout) for part, end in ends.items()
            }
            scale = _find_white([inputs for inputs, _ in parts.values()], white)
    problems.raise_if_any()
    inputs, targets = parts["train"]
    names = tuple(found.get("classes", np.arange(int(targets.max()) + 1).astype(str)).tolist())
    if "val" not in parts:
        assert val is not None
        for part, indices in zip(
            ("train", "val"), stratified_split(targets, val, names, split), strict=True
        ):
            parts[part] = inputs[indices], targets[indices]
    return _build_data(parts, names, shown, scale)


def _find_white(inputs: list[Tensor], white: float | Literal["auto"]) -> float | None:
    """Returns the value of white in floats; None if it is unknown."""
    if inputs[0].dtype == torch.uint8:
        if white != "auto":
            raise ValueError(
                f"data.white: {white} would be ignored, as x is uint8, where white is 255; use "
                "data.white=auto"
            )
        return 1.0  # `channel_mean_and_std` and `normalise_bytes` divide by 255
    if white != "auto":
        return white
    low = min(part.min().item() for part in inputs)
    high = max(part.max().item() for part in inputs)
    if low < 0 or high > 255 or 1 < high < 128:
        return None
    return 1.0 if high <= 1 else 255.0


def _build_data(
    parts: TensorsByPart, names: tuple[str, ...], shown: str, white: float | None
) -> Data:
    inputs, _ = parts["train"]
    mean, std = channel_mean_and_std(inputs)
    smallest = torch.finfo(torch.float32).tiny
    if constant := [str(index) for index, each in enumerate(std) if each < smallest]:
        raise ValueError(
            f"data.path: channel {', '.join(constant)} of the training split of {shown} is "
            "constant, so it can't be normalised; leave it out"
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
        mean=tuple(each / (white or 1.0) for each in mean),
        std=tuple(each / (white or 1.0) for each in std),
        has_known_white=white is not None,
        digest=hash_tensors(*content, f"arrays {names} {white}"),
    )


def _to_tensors(found: ArraysByName, end: str, layout: AxisLayout) -> tuple[Tensor, Tensor]:
    """Returns inputs (n, c, h, w), uint8 or float32, and targets (n,), int64, of one split."""
    x, y = found[f"x{end}"], found[f"y{end}"]
    x = x.astype(np.uint8 if x.dtype == np.uint8 else np.float32, copy=False)
    return _to_channels_first(torch.from_numpy(x), layout), torch.from_numpy(y.astype(np.int64))


def _to_channels_first(inputs: Tensor, layout: AxisLayout) -> Tensor:
    shape = tuple(inputs.shape)
    if len(shape) == 3 and layout == "auto":
        return inputs[:, None]
    if len(shape) != 4:
        raise ValueError(
            f"data.layout: {layout} doesn't fit images of shape {shape}; use auto for (n, h, w), "
            "chw for (n, c, h, w), hwc for (n, h, w, c)"
        )
    if layout == "auto":
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first == last:
            raise ValueError(
                f"data.layout: auto can't find the axis of the channels in shape {shape}; use "
                "data.layout=chw or data.layout=hwc"
            )
        layout = "chw" if first else "hwc"
    return inputs if layout == "chw" else inputs.permute(0, 3, 1, 2).contiguous()
