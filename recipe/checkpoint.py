"""Weights on disk: written whole or not at all, read without running anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file; `path` is at any moment the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in weights.items()}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state_dict saved by torch; no pickled code runs.

    Raises ValueError for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; use another")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: can't be read as weights: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # the unpickler's many ways to refuse
        raise ValueError(f"{path}: holds more than weights and isn't loaded") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _plain(tensor) for name, tensor in content.items()
    ):
        raise ValueError(f"{path}: is no state_dict (a dict of tensors by parameter name)")
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
    missing, unexpected or of another shape.
    """
    state = model.state_dict()
    fits = {name for name in state if name in weights and weights[name].shape == state[name].shape}
    missing = [name for name in state if name not in fits and name not in head]
    unexpected = [name for name in weights if name not in state]
    if missing or unexpected:
        parts = [_names("does not fit or is missing", missing), _names("unexpected", unexpected)]
        raise ValueError("; ".join(filter(None, parts)) + "; is it a file of this model?")
    with torch.no_grad():
        for name in fits:
            state[name].copy_(weights[name])
    return Loaded(sorted(fits), [name for name in state if name not in fits])


def _names(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""
