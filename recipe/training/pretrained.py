"""The weights that a run starts from: a file, a recorded run, or what a model's library offers.

With weights come the images they are made for: their size and how they were normalised. What a
setting of `data` leaves to `auto` follows them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recipe.components import contract
from recipe.components.data import Data, hash_tensors
from recipe.components.model.library_weights import (
    IMAGENET_INPUT_FORMAT,
    InputFormat,
    LibraryWeights,
)
from recipe.config.instantiate import Component
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import format_list
from recipe.nn import layers, rng
from recipe.nn.weights import load_weights, read_weights, strip_wrapper_prefixes
from recipe.store import run_dirs

KEEP_HEAD_SETTING = "model.weights_head=keep"

NO_CLASS_NAMES = "there without class names"

NORMALIZATION_TOLERANCE = 1e-3
"""By how much means and deviations may differ to be called the same."""


@dataclass(frozen=True)
class InitialWeights:
    """Where a run's weights came from."""

    description: str
    """What was loaded and what wasn't, by name."""
    fingerprint: list[Any]
    """A hash of their content, and whether their head was loaded."""


@dataclass(frozen=True)
class _SourceWeights:
    weights: Mapping[str, Tensor]
    content_hash: str
    """A hash."""
    name: str
    classes: tuple[str, ...] | None
    """What they tell apart; None where that isn't known."""
    head_modules: tuple[str, ...] = ()
    input_format: InputFormat | None = None


def find_library_weights(spec: RunSpec, model: functools.partial[Any]) -> LibraryWeights | None:
    """What the library of the model publishes as `model.weights`, if anything; no download."""
    source = spec.model.get("weights")
    if source is None or Path(source).expanduser().is_file():
        return None
    own = contract.pretrained_weights.find(model)
    found: LibraryWeights | None = own(source, **model.keywords) if own else None
    return found


def resolve_auto_settings(spec: RunSpec, model: Component | None) -> dict[str, Any]:
    """What `auto` stands for in the settings of `data`, before there are data.

    One channel gets the mean of three: gray is what the colours have in common.
    """
    inputs = IMAGENET_INPUT_FORMAT
    if "auto" in (spec.data.get(key) for key in ("size", "mean", "std")):
        inputs = _find_input_format(spec, model) or IMAGENET_INPUT_FORMAT
    mean, std = list(inputs.mean), list(inputs.std)
    if spec.data.get("channels") == 1 and len(mean) > 1:
        mean, std = ([round(sum(values) / len(values), 6)] for values in (mean, std))
    return {"size": inputs.size, "mean": mean, "std": std}


def _find_input_format(spec: RunSpec, model: Component | None) -> InputFormat | None:
    """Of the weights that the run is to start from; None where they aren't told, or can't be."""
    source = spec.model.get("weights")
    if source is None or model is None:
        return None
    try:
        path = Path(source).expanduser()
        if path.is_file():
            run = _find_run_dir(path)
            return _recorded_input_format(run) if run else None
        found = find_library_weights(spec, model.bind())
        return (
            found.input_format
            if found
            else _recorded_input_format(run_dirs.find(spec.output_path, source, "it"))
        )
    except (ValueError, SpecError, TypeError):
        return None  # the model will say what is wrong


def _recorded_input_format(run: Path) -> InputFormat:
    facts = run_dirs.read_dataset_info(run, "model.weights")
    return InputFormat(facts.size[0], facts.mean, facts.std)


def load_initial_weights(
    spec: RunSpec,
    model: nn.Module,
    data: Data,
    component: Component,
    dataset_properties: Mapping[str, Any],
) -> InitialWeights | None:
    """Starts the model from `model.weights`; None: its weights stay as they were drawn.

    The head is initialised from scratch unless it was trained for the data's classes, by name, or
    `model.weights_head` is `keep`.
    """
    keep = spec.model.get("weights_head", "auto") == "keep"
    if spec.model.get("weights") is None:
        if keep:
            raise ValueError(
                "model.weights_head is keep, but model.weights is null, so there is no head to "
                "keep; give model.weights, or leave model.weights_head out"
            )
        return None
    bound = component.bind(dataset_properties)
    with Problems.prefix_key("model.weights"):
        given = _load_source(spec, bound)
        weights = strip_wrapper_prefixes(given.weights, model)
        if adapt := contract.adapt_weights.find(bound):
            weights = adapt(weights, **bound.keywords)
        head = set(layers.find_head_parameters(model, "auto", "model.weights"))
        for module in given.head_modules:
            head |= {name for name, _ in model.named_parameters() if name.startswith(f"{module}.")}
        keeps = keep or given.classes == data.classes
        there = dict(weights)
        if not keeps:
            for name in head & weights.keys():
                del weights[name]
        loaded = load_weights(model, weights, set() if keep else head)
    own = model.state_dict()
    text = f"{len(loaded.loaded)} of {len(own)} tensors from {given.name}"
    if loaded.not_loaded:
        new = [
            _describe_unloaded(name, own[name], there.get(name), given.classes)
            for name in loaded.not_loaded
        ]
        text += f"; {format_list(new, 8)} start from scratch"
        if any(NO_CLASS_NAMES in line for line in new):
            option = spec.options["model"]
            has = "weights_head" in spec.model
            setting = (
                KEEP_HEAD_SETTING if has else f"weights_head: keep in the file of model={option}"
            )
            text += f"; {setting} keeps a head that was trained for the same classes"
    if keep and given.classes not in (None, data.classes):
        text += f"; the head is that of other classes ({KEEP_HEAD_SETTING})"
    if loaded.missing_counters:
        text += f"; {len(loaded.missing_counters)} num_batches_tracked are not there and stay as they are"
    if told := list(_input_mismatches(spec, data, given.input_format)):
        text += f"; made for {given.input_format}, but {' and '.join(told)}"
    return InitialWeights(text, [given.content_hash, keeps])


def _describe_unloaded(
    name: str, own: Tensor, theirs: Tensor | None, classes: Sequence[str] | None
) -> str:
    if theirs is None:
        return f"{name} (not there)"
    if theirs.shape != own.shape:
        return f"{name} (there {tuple(theirs.shape)}, here {tuple(own.shape)})"
    return f"{name} ({NO_CLASS_NAMES if classes is None else 'other classes'})"


def _input_mismatches(spec: RunSpec, data: Data, inputs: InputFormat | None) -> list[str]:
    """Settings of the data that aren't as the weights would have them."""
    if inputs is None:
        return []
    found = []
    if "size" in spec.data and data.size[0] != inputs.size:
        found.append(f"data.size is {data.size[0]}")
    for key, own, theirs in (("mean", data.mean, inputs.mean), ("std", data.std, inputs.std)):
        if key in spec.data and len(own) == len(theirs):
            apart = max(abs(a - b) for a, b in zip(own, theirs, strict=True))
            if apart > NORMALIZATION_TOLERANCE:
                found.append(f"data.{key} is {list(own)}")
    return found


def _load_source(spec: RunSpec, bound: functools.partial[Any]) -> _SourceWeights:
    """Raises ValueError or SpecError for what can't be had."""
    source = spec.model["weights"]
    path = Path(source).expanduser()
    if path.is_file():
        if run := _find_run_dir(path):
            return _load_recorded_weights(path, source, run)
        return _SourceWeights(read_weights(path), _hash_file(path), source, None)
    found = find_library_weights(spec, bound)
    if found is not None:
        weights = _fetch_weights(found)
        content = hash_tensors(
            *(part for name in sorted(weights) for part in (name, weights[name]))
        )
        return _SourceWeights(
            weights, content, found.name, found.classes, found.head_modules, found.input_format
        )
    run = run_dirs.find(spec.output_path, source, "model.weights")
    return _load_recorded_weights(run / "model.safetensors", source, run)


def _load_recorded_weights(path: Path, source: str, run: Path) -> _SourceWeights:
    """Weights that a recorded run kept."""
    classes = run_dirs.read_classes(run, "model.weights")
    return _SourceWeights(
        read_weights(path), _hash_file(path), source, classes, (), _recorded_input_format(run)
    )


def _find_run_dir(path: Path) -> Path | None:
    """The folder of the recorded run that a file is in; None: of no run."""
    folder = path.resolve().parent
    return folder if all((folder / name).is_file() for name in ("run.json", "data.json")) else None


def _fetch_weights(found: LibraryWeights) -> Mapping[str, Tensor]:
    """Raises ValueError if they can't be had."""
    with rng.isolate_rng():
        try:
            return found.load()
        except Exception as error:  # a library's and the network's many ways to fail
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"{found.name} can't be fetched: {reason}; connect to the internet, or get "
                f"{found.source} elsewhere and give model.weights=<file>"
            ) from error


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
