"""Weights on disk: written whole or not at all, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from recipe import atomic
from recipe.wording import counted, listed


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file; `path` is at any moment the old file or the new one, never a part."""
    atomic.write(path, save({name: tensor.contiguous() for name, tensor in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state_dict saved by torch, by itself or within a
    checkpoint as training scripts write them; no pickled code runs.

    Raises ValueError for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; use another")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        reason = next(iter(str(error).splitlines()), "it is empty or was cut off")
        raise ValueError(f"{path}: can't be read as weights: {reason}") from error
    except Exception as error:  # the unpickler's many ways to refuse
        if "GLOBAL " in str(error):
            raise ValueError(f"{path}: holds more than weights and isn't loaded") from error
        raise ValueError(
            f"{path}: can't be read as weights: it is neither .safetensors nor a state_dict saved "
            "by torch, or is damaged"
        ) from error
    content = _unwrapped(content)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _plain(value) for name, value in content.items()
    ):
        raise ValueError(f"{path}: is no state_dict (a dict of dense tensors by parameter name)")
    return content


def _unwrapped(content: object) -> object:
    """The state_dict in what training scripts save around it: under `state_dict` or `model`, its
    names behind the `module.` of a model that was trained on several GPUs."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict) and content:
        names = [str(name) for name in content]
        if all(name.startswith("module.") for name in names):
            return {str(name).removeprefix("module."): value for name, value in content.items()}
    return content


def _plain(tensor: object) -> bool:
    """Whether it is an ordinary tensor of real numbers, one that can be copied into a model."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex())
    )


@dataclass(frozen=True)
class Loaded:
    """What became of a file's weights, by name."""

    loaded: list[str]
    left: list[str]
    """Of the model: kept their initial values."""


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], head: set[str]) -> Loaded:
    """Puts weights into a model in place, by name and shape.

    Only parameters in `head` (full names) may stay as they were initialised: they do where the
    file lacks them or has them in another shape. Raises ValueError for anything else that is
    missing, unexpected or of another shape, for tensors that aren't numbers of the model's kind,
    and for values that are NaN, infinite or beyond the model's type.
    """
    state = model.state_dict()
    fits = {name for name in state if name in weights and weights[name].shape == state[name].shape}
    missing = [name for name in state if name not in fits and name not in head]
    unexpected = [name for name in weights if name not in state]
    if missing or unexpected:
        parts = [_names("does not fit or is missing", missing), _names("unexpected", unexpected)]
        raise ValueError("; ".join(filter(None, parts)) + "; is it a file of this model?")
    _check_values({name: (weights[name], state[name].dtype) for name in state if name in fits})
    with torch.no_grad():
        for name in fits:
            state[name].copy_(weights[name])
    return Loaded(sorted(fits), [name for name in state if name not in fits])


def _check_values(given: Mapping[str, tuple[Tensor, torch.dtype]]) -> None:
    """Raises ValueError for tensors that would lose more than digits as the type they are to be."""
    other = [
        name
        for name, (tensor, wanted) in given.items()
        if tensor.is_complex() or tensor.is_floating_point() != wanted.is_floating_point
    ]
    if other:
        tensor, wanted = given[other[0]]
        kinds = f"{tensor.dtype} where the model has {wanted}".replace("torch.", "")
        raise ValueError(f"{_names(kinds, other)}; convert them")
    counts = {name: int((~t.to(dtype).isfinite()).sum()) for name, (t, dtype) in given.items()}
    if broken := [name for name, count in counts.items() if count]:
        what = f"{sum(counts.values()):,} NaN or infinite values in "
        raise ValueError(
            f"{_names(what + counted(len(broken), 'tensor'), broken)}; the training that they are"
            " from diverged, use other weights"
        )


def _names(what: str, names: Sequence[str]) -> str:
    return f"{what}: {listed(names)}" if names else ""
