"""Weights on disk: written atomically, and read without running pickled code."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from recipe import atomic_write
from recipe.formatting import escape_unprintable, format_bytes, format_list, pluralize
from recipe.nn import memory_limit

LOAD_OVERHEAD_BYTES = 2**29

MAX_KEY_LENGTH = 80  # of a file's keys that are printed


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file atomically."""
    atomic_write.write_file(
        path, save({name: tensor.contiguous() for name, tensor in weights.items()})
    )


STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys of the state_dict in the checkpoints of other training scripts."""

WRAPPER_PREFIXES = ("module.", "model.")
"""Prefixes of all names, by DataParallel and Lightning."""

COMPILED_PREFIX = "_orig_mod."  # by torch.compile

BATCH_COUNTER = "num_batches_tracked"  # of BatchNorm; files of older versions of torch lack it


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state_dict in a file of torch.save.

    No pickled code is run. Raises ValueError for any other file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; use another")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = load_torch_file(path)
    except ExcessiveMemoryError as error:
        raise ValueError(f"{path}: isn't loaded: {error}") from error
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
    for key in STATE_DICT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _is_dense_real_tensor(value) for name, value in content.items()
    ):
        keys = [
            escape_unprintable(str(key)[:MAX_KEY_LENGTH])
            for key in (content if isinstance(content, dict) else ())
        ]
        raise ValueError(
            f"{path}: is no state_dict (a dict of dense tensors by parameter name)"
            + (f"; its keys are {format_list(keys, 8)}" if keys else "")
            + f"; save a state_dict alone or under {' or '.join(STATE_DICT_KEYS)}"
        )
    return content


class ExcessiveMemoryError(ValueError):
    """Loading a file would take far more memory than its size."""


def load_torch_file(path: Path) -> Any:
    """Loads a file of torch.save to the CPU, without running pickled code.

    Raises ExcessiveMemoryError, and what torch.load raises.
    """
    size = path.stat().st_size
    with memory_limit.limit_memory(2 * size + LOAD_OVERHEAD_BYTES):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ExcessiveMemoryError(
                    "its entries are compressed, which torch.save never does"
                )
            if (stated := sum(entry.file_size for entry in entries)) > size:
                raise ExcessiveMemoryError(
                    f"its entries state {format_bytes(stated)}, and it has {format_bytes(size)}"
                )
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError as error:
            raise ExcessiveMemoryError(
                f"it takes far more memory than its {format_bytes(size)}"
            ) from error


def strip_wrapper_prefixes(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Removes the prefixes of torch.compile, DataParallel and Lightning that the model's own names
    lack."""
    own = model.state_dict().keys()
    found = rename_weights(weights, lambda name: name)
    if not any(COMPILED_PREFIX in name for name in own):
        found = rename_weights(found, lambda name: name.replace(COMPILED_PREFIX, ""))
    while found and not own & found.keys():
        prefix = next((p for p in WRAPPER_PREFIXES if all(n.startswith(p) for n in found)), None)
        if prefix is None:
            break
        found = rename_weights(found, methodcaller("removeprefix", prefix))
    return found


def rename_weights(
    weights: Mapping[str, Tensor], rename: Callable[[str], str]
) -> dict[str, Tensor]:
    """Renames tensors, and the versions of their modules."""
    found = OrderedDict((rename(name), tensor) for name, tensor in weights.items())
    if len(found) < len(weights):  # two would have the same name
        return dict(weights)
    if (versions := getattr(weights, "_metadata", None)) is not None:
        # a module's name is its parameters' less the last dot
        found._metadata = {rename(f"{name}.")[:-1]: about for name, about in versions.items()}  # type: ignore[attr-defined]
    return found


def _is_dense_real_tensor(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex())
    )


@dataclass(frozen=True)
class LoadResult:
    """Names of a model's tensors, by whether they were loaded from a file."""

    loaded: list[str]
    not_loaded: list[str]
    """Tensors of the head that keep their initial values."""
    missing_counters: list[str]
    """`num_batches_tracked` that the file lacks; they keep their values, as in torch."""


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], head: set[str]) -> LoadResult:
    """Loads weights into a model in place, by torch's `load_state_dict`.

    Only parameters in `head` (full names) may be missing or have another shape; they keep their
    initial values. Raises ValueError for other tensors that are missing, unexpected or of another
    shape or kind of dtype, and for values that are NaN, infinite or overflow the model's dtype; the
    model is then unchanged.
    """
    state = model.state_dict()
    named = {name: weights[name] for name in state if name in weights}
    misfits = {name for name, tensor in named.items() if tensor.shape != state[name].shape}
    _check_dtypes({n: (t, state[n].dtype) for n, t in named.items() if n not in misfits})
    given = OrderedDict((name, t) for name, t in weights.items() if name not in misfits)
    own_version = {"": state._metadata[""]}  # type: ignore[attr-defined]  # some require one
    given._metadata = getattr(weights, "_metadata", own_version)  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in state.items()}
    try:
        result = model.load_state_dict(given, strict=False)
        counters = [n for n in state if n.rpartition(".")[2] == BATCH_COUNTER and n not in given]
        lacking = set(result.missing_keys) - set(counters)
        missing = [name for name in state if name in lacking - head]
        if missing or result.unexpected_keys:
            parts = [
                _format_names("does not fit or is missing", missing),
                _format_names("unexpected", result.unexpected_keys),
            ]
            raise ValueError("; ".join(filter(None, parts)) + "; is it a file of this model?")
        loaded = [name for name in state if name not in {*lacking, *counters}]
        _check_finite({name: state[name] for name in loaded})
    except (ValueError, RuntimeError) as error:  # such as another shape of a renamed tensor
        for name, tensor in before.items():
            state[name].copy_(tensor)
        raise ValueError(" ".join(str(error).split())) from error
    return LoadResult(sorted(loaded), [name for name in state if name in lacking], counters)


def _check_dtypes(given: Mapping[str, tuple[Tensor, torch.dtype]]) -> None:
    """Raises ValueError for tensors whose conversion would lose more than precision."""
    other = [
        name
        for name, (tensor, wanted) in given.items()
        if tensor.is_complex() or tensor.is_floating_point() != wanted.is_floating_point
    ]
    if other:
        tensor, wanted = given[other[0]]
        kinds = f"{tensor.dtype} where the model has {wanted}".replace("torch.", "")
        raise ValueError(f"{_format_names(kinds, other)}; convert them")


def _check_finite(loaded: Mapping[str, Tensor]) -> None:
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in loaded.items()}
    if broken := [name for name, count in counts.items() if count]:
        what = f"{sum(counts.values()):,} NaN or infinite values in "
        raise ValueError(
            f"{_format_names(what + pluralize(len(broken), 'tensor'), broken)}; the training that "
            "they are from diverged, use other weights"
        )


def _format_names(what: str, names: Sequence[str]) -> str:
    return f"{what}: {format_list(names)}" if names else ""
