"""Hashes of a run: its fingerprint, and its initial state.

The fingerprint is a hash of everything that can change a run's numbers, and of nothing else: on the
CPU, runs with equal fingerprints are bit-identical. Runs with the same seed share the initial
state, whichever tricks they use, and only runs that share it are compared as pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from recipe import __version__
from recipe.components.data import hash_tensors
from recipe.config import source_hash
from recipe.config.groups import FINGERPRINT_EXCLUDED_FIELDS, FINGERPRINT_EXCLUDED_SETTINGS, GROUPS
from recipe.config.spec import RunSpec
from recipe.nn import rng
from recipe.training.run import Run, epoch_batches

HASHED_PARTS = ("weights", "split", "order", "augmentation", "dropout")

NUM_RANDOM_SAMPLES = 16
"""Generators that agree on this many numbers are considered equal."""


def compute(spec: RunSpec, run: Run) -> str:
    """Returns 64 hexadecimal digits; `run` was built from the spec, and may be trained.

    Included: settings, data, the content of initial weights, versions, the code of the user's
    packages, device and threads. Not included: the names of options, runs and packages, paths,
    tracking, the index of a GPU. Raises SpecError if weights or code can't be read.
    """
    content: dict[str, Any] = {
        "settings": _collect_settings(spec, run),
        "data": run.data.digest,
        "weights": run.initial_weights.fingerprint if run.initial_weights else None,
        "versions": {"recipe": __version__, "torch": torch.__version__},
        "code": get_code_versions(spec, run),
        "device": _describe_device(run.device),
    }
    if run.collectives.world_size > 1:  # sums in another order
        content["processes"] = run.collectives.world_size
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def get_code_versions(spec: RunSpec, run: Run) -> dict[str, str]:
    """The version or a hash of the files of every package that the run uses, except recipe and
    torch. If one trusted package is used, all of them are included."""
    used = {
        target.partition(".")[0] for target in _iter_targets([getattr(spec, g) for g in GROUPS])
    }
    used |= {type(module).__module__.partition(".")[0] for module in run.model.modules()}
    if used.intersection(spec.trust):
        used.update(spec.trust)
    used |= run.data.train.packages
    return source_hash.compute_source_ids(used, exclude=frozenset(("recipe", "torch", "builtins")))


def _collect_settings(spec: RunSpec, run: Run) -> dict[str, Any]:
    """The settings that can change the numbers, with the data's properties instead of `auto`."""
    facts = {
        "channels": run.data.channels,
        "classes": len(run.data.classes),
        "size": run.data.size[0],
        "counts": run.data.train.targets.bincount(minlength=len(run.data.classes)).tolist(),
        "mean": list(run.data.mean),
        "std": list(run.data.std),
    }
    written = spec.with_normalized_numbers
    content = {
        field.name: getattr(written, field.name)
        for field in dataclasses.fields(spec)
        if field.name not in FINGERPRINT_EXCLUDED_FIELDS
    }
    for group in GROUPS:
        if group in content:
            content[group] = {
                key: facts[key] if key in facts and value == "auto" else value
                for key, value in content[group].items()
                if key not in FINGERPRINT_EXCLUDED_SETTINGS.get(group, ())
            }
    if run.collectives.world_size == 1:
        del content["distributed"]  # it has no effect
    if str(content["device"].get("_target_")).startswith("recipe."):
        del content["device"]
    return content


def _describe_device(device: torch.device) -> dict[str, Any]:
    """The device, the number of threads and the CPU instructions, which change the last bits."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "name": name,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _iter_targets(node: Any) -> Iterator[str]:
    """Every `_target_` in settings."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _iter_targets(item)


def hash_initial_state(run: Run) -> dict[str, str]:
    """Returns 16 hexadecimal digits for each of HASHED_PARTS, for a run that isn't trained yet.

    `weights`: the model's parameters and buffers by name. `split`: the samples of training and
    validation data. `order`: the order of the samples in the first epoch, for any batch size.
    `augmentation`, `dropout`: the first numbers of their random-number generators.
    """
    with rng.isolate_rng():
        rng.seed_global_rng(run.seed, "dropout")
        dropout = torch.rand(NUM_RANDOM_SAMPLES)
    augmentation = torch.rand(
        NUM_RANDOM_SAMPLES, generator=rng.make_generator(run.seed, "augmentation")
    )
    state = {k: v for k, v in run.model.state_dict().items() if isinstance(v, torch.Tensor)}
    found = {
        "weights": hash_tensors(*(part for pair in state.items() for part in pair)),
        "split": run.data.digest,
        "order": hash_tensors(torch.cat(list(epoch_batches(run, 0)))),
        "augmentation": hash_tensors(augmentation),
        "dropout": hash_tensors(dropout),
    }
    return {name: found[name][:16] for name in HASHED_PARTS}
