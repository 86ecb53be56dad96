"""Caches the outputs of a run's frozen layers; decides in each epoch whether that is possible.

The cache changes no results, only the time they take. So whatever goes wrong, from a model that
can't be traced to a full disk, is a reason not to use it, which is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.data import readable_indices, worker
from recipe.errors import RecipeError
from recipe.formatting import format_bytes, format_percent
from recipe.nn.model_state import preserve_model_state
from recipe.training.frozen_cache import NotCacheable, cache_file, eviction, tensor_layout, verify
from recipe.training.frozen_cache import inputs as inputs_module
from recipe.training.frozen_cache import key as keys
from recipe.training.frozen_cache import split_model as splitting
from recipe.training.frozen_cache.cache_file import CachedOutputs
from recipe.training.frozen_cache.inputs import ModelInputs
from recipe.training.frozen_cache.subset import (
    CachedRun,
    Subset,
    compute_rows,
    read_samples,
    skip_unreadable,
    training_subset,
)
from recipe.training.frozen_cache.trace import named_tensors

TensorVersions = dict[str, tuple[Tensor, int]]


@dataclass
class _CacheEntry:
    """The cached outputs of a subset, and what they were computed with."""

    subset: Subset
    model_split: splitting.ModelSplit
    key: str
    model_inputs: ModelInputs
    tensor_versions: TensorVersions
    """Of the tensors of the trained model that the prefix reads."""
    verified_batch_sizes: set[int] = field(default_factory=set)


@dataclass
class _StatusHistory:
    """What is done from an epoch on, by its index from 0."""

    status_by_epoch: dict[int, str] = field(default_factory=dict)
    has_cached: bool = False

    def add(self, epoch: int, text: str, *, once: bool) -> None:
        self.has_cached = self.has_cached or once
        if text not in list(self.status_by_epoch.values())[-1:]:
            self.status_by_epoch[epoch] = text

    def format(self) -> str:
        start = min(self.status_by_epoch, default=0)
        return "; ".join(
            text if epoch == start else f"from epoch {epoch + 1} on {text}"
            for epoch, text in self.status_by_epoch.items()
        )


class FrozenCache:
    """The cache of one run."""

    def __init__(self, folder: Path, why_not: Mapping[str, str]) -> None:
        """`why_not` maps splits that can't be cached to the reason."""
        self.cache_dir, self.disabled_reasons = folder, why_not
        self._sample_inputs: dict[str, Tensor] = {}
        self._entries: dict[str, _CacheEntry | None] = {}
        self._frozen_names: frozenset[str] | None = None
        self._planned_split: tuple[frozenset[str], splitting.ModelSplit] | None = None
        self._status = {"train": _StatusHistory(), "val": _StatusHistory()}

    def training_inputs(self, run: CachedRun, epoch: int, order: Iterable[Tensor]) -> ModelInputs:
        """The model and split of an epoch of training with batches in this order."""
        part = training_subset(run)
        kept = self._update_entry(run, part, epoch, order)
        return kept.model_inputs if kept else inputs_module.uncached_inputs(part.model, part.data)

    def evaluation_inputs(self, run: CachedRun, epoch: int) -> ModelInputs:
        """The model and split of the evaluation after that epoch."""
        model = run.average.model
        part = Subset("val", model, False, run.data.val, run.eval_batch_size)
        batches = [chunk for _, chunk in part.index_batches()]
        kept = self._update_entry(
            run, part, epoch, batches if part.data.skips_unreadable else batches[-1:]
        )
        return kept.model_inputs if kept else inputs_module.uncached_inputs(part.model, part.data)

    def describe_plan(self, run: CachedRun) -> str | None:
        """How the frozen layers will be computed in the first epoch; None if nothing is frozen."""
        if not run.freeze_schedule.frozen_names:
            return None
        try:
            found = self._split_model(run, training_subset(run), 0)
        except NotCacheable as refused:
            return f"computed each time: {refused}"
        later = "; the cut moves as layers thaw" if run.freeze_schedule.scheduled_names else ""
        return _describe_split(found) + later

    def benchmark_functions(
        self, run: CachedRun, inputs: Tensor
    ) -> tuple[Callable[[], Any], Callable[[], Tensor]]:
        """Functions that compute the prefix and the tail for a batch of training inputs on the
        device: for timing, with the model in training mode."""
        try:
            found = self._split_model(run, training_subset(run), 0)
        except NotCacheable:
            return lambda: None, lambda: run.model(inputs)
        kept = found.run_prefix(inputs)
        return lambda: found.run_prefix(inputs), lambda: found.run_tail(len(inputs), *kept)

    def describe(self) -> str | None:
        """How the frozen layers were computed; None if nothing was frozen."""
        train, val = self._status["train"], self._status["val"]
        if not train.status_by_epoch:
            return None
        if val.status_by_epoch and train.has_cached != val.has_cached:
            return f"{train.format()}; in evaluation {val.format()}"
        return train.format()

    def _update_entry(
        self, run: CachedRun, part: Subset, epoch: int, batches: Iterable[Tensor]
    ) -> _CacheEntry | None:
        if not run.freeze_schedule.frozen_names:
            return None
        boundary = frozenset(run.freeze_schedule.frozen_names)
        if boundary != self._frozen_names:
            self._entries, self._frozen_names = {}, boundary
        kept = self._entries.get(part.name)
        new = part.name not in self._entries or (kept and kept.subset.model is not part.model)
        try:
            if new:
                kept = self._build_entry(run, part, epoch)
            elif kept and _has_changed(run, kept):
                kept = self._revalidate_entry(run, kept, epoch)
            if kept and (part.data.skips_unreadable or not kept.verified_batch_sizes):
                _check_batch_sizes(run, kept, batches)
            if kept and new:
                self._status[part.name].add(epoch, _describe_split(kept.model_split), once=True)
            if kept:
                _check_average(run, kept)
        except NotCacheable as refused:
            kept = None
            self._status[part.name].add(epoch, f"computed each time: {refused}", once=False)
        self._entries[part.name] = kept
        return kept

    def _revalidate_entry(self, run: CachedRun, kept: _CacheEntry, epoch: int) -> _CacheEntry:
        """The entry after a write to its tensors; it is built again if their values changed."""
        with _isolate_state(run, kept.subset, buffers=False):
            key = self._compute_key(run, kept.subset, kept.model_split)
        if key != kept.key:
            return self._build_entry(run, kept.subset, epoch)
        kept.tensor_versions = _tensor_versions(run.model, kept.model_split)
        return kept

    def _split_model(self, run: CachedRun, part: Subset, epoch: int) -> splitting.ModelSplit:
        """Splits the model and checks it with a few samples. Raises NotCacheable."""
        if not run.freeze_schedule.frozen_names:
            raise NotCacheable("nothing is frozen")
        if part.name in self.disabled_reasons:
            raise NotCacheable(self.disabled_reasons[part.name])
        if _count_cached_epochs(run, epoch, run.freeze_schedule.frozen_names) < 2:
            raise NotCacheable("it would be used in one epoch only")
        boundary = frozenset(run.freeze_schedule.frozen_names)
        if part.is_training and self._planned_split and self._planned_split[0] == boundary:
            return self._planned_split[1]
        trained = {
            name for name, p in run.model.named_parameters(remove_duplicate=False)
            if p.requires_grad
        }  # fmt: skip
        with _isolate_state(run, part), run.autocast():
            inputs = self._get_samples(run, part)
            moving = _find_modified_tensors(run, part, inputs)
            found = splitting.split_model(part.model, inputs, trained, moving)
        _check_samples(run, part, found, inputs)
        if part.is_training:
            self._planned_split = boundary, found
        return found

    def _build_entry(self, run: CachedRun, part: Subset, epoch: int) -> _CacheEntry:
        split = self._split_model(run, part, epoch)
        with _isolate_state(run, part):
            key = self._compute_key(run, part, split)
            there = self._load_or_compute(run, part, split, key).to(run.device)
            made = inputs_module.cached_inputs(
                split, there, part.data, lambda inputs: inputs.to(run.device, non_blocking=True)
            )
        return _CacheEntry(part, split, key, made, _tensor_versions(run.model, split))

    def _get_samples(self, run: CachedRun, part: Subset) -> Tensor:
        if part.name not in self._sample_inputs:
            self._sample_inputs[part.name] = read_samples(run, part)
        return self._sample_inputs[part.name]

    def _compute_key(self, run: CachedRun, part: Subset, split: splitting.ModelSplit) -> str:
        inputs = self._get_samples(run, part)
        with run.autocast():
            return keys.compute_cache_key(split, run.data, part.name, inputs, part.batch_size)

    def _load_or_compute(
        self, run: CachedRun, part: Subset, split: splitting.ModelSplit, key: str
    ) -> CachedOutputs:
        count = len(part.data)
        eviction.check_entry_size(split.bytes_per_sample * count)
        if run.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(run.device)
            if split.bytes_per_sample * count > free // 2:
                raise NotCacheable(
                    f"{format_bytes(split.bytes_per_sample * count)} would take too much of the GPU"
                )
        layouts = (
            (*split.layouts, tensor_layout.READABLE_FLAG_LAYOUT)
            if part.data.skips_unreadable
            else split.layouts
        )
        found = cache_file.load_cached_outputs(self.cache_dir, key, layouts, count)
        if found is None:
            found = cache_file.load_or_write_outputs(
                self.cache_dir, key, layouts, count, lambda: compute_rows(run, part, split)
            )
        if part.data.skips_unreadable:
            *rows, flags = found.tensors
            found.tensors = tuple(rows)
            skip_unreadable(part.data, flags)
        return found


def _describe_split(split: splitting.ModelSplit) -> str:
    return (
        f"computed once up to {split.last_layer} "
        f"({format_percent(split.multiply_add_share)} of the multiply-adds), "
        f"{format_bytes(split.bytes_per_sample)} a sample"
    )


def _count_cached_epochs(run: CachedRun, epoch: int, reads: Iterable[str]) -> int:
    """The number of epochs between the last change of the frozen layers and the next."""
    read = set(reads)
    starts = [e for e, names in run.freeze_schedule.unfreeze_schedule.items() if e <= epoch]
    ends = [
        e
        for e, names in run.freeze_schedule.unfreeze_schedule.items()
        if e > epoch and read & set(names)
    ]
    return min(ends, default=run.epochs) - max(starts, default=0)


@contextmanager
def _isolate_state(run: CachedRun, part: Subset, *, buffers: bool = True) -> Iterator[None]:
    """Sets the mode of the subset's model, and restores modes, random streams and (with `buffers`)
    buffers. Raises exceptions of the block as NotCacheable, except those for unreadable data."""
    try:
        with (
            preserve_model_state(run.model, buffers=buffers),
            preserve_model_state(part.model, buffers=buffers),
        ):
            part.model.train(part.is_training)
            yield
    except (NotCacheable, RecipeError):
        raise
    except OSError as error:
        raise NotCacheable(f"nothing can be kept ({error.strerror or error})") from error
    except Exception as error:
        if worker.has_worker_died(error):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise NotCacheable(f"{type(error).__name__}: {reason}") from error


def _find_modified_tensors(run: CachedRun, part: Subset, inputs: Tensor) -> set[str]:
    """Tensors that a forward pass changes, in training mode or in the subset's."""
    run.model.train()
    found = splitting.find_modified_tensors(run.model, inputs)
    part.model.train(part.is_training)
    return found | splitting.find_modified_tensors(part.model, inputs)


def _check_samples(
    run: CachedRun, part: Subset, split: splitting.ModelSplit, inputs: Tensor
) -> None:
    with _isolate_state(run, part):
        verify.check_bit_identical(
            part.model,
            lambda: part.model(inputs),
            lambda: split.run_tail(len(inputs), *split.run_prefix(inputs)),
            run.autocast,
            "a few samples",
        )


def _check_batch_sizes(run: CachedRun, kept: _CacheEntry, batches: Iterable[Tensor]) -> None:
    """Checks one batch of each size (without skipped samples) that wasn't checked before. Raises
    NotCacheable."""
    for batch in batches:
        left = torch.tensor(readable_indices(kept.subset.data, batch.tolist()), dtype=torch.int64)
        if len(left) and len(left) not in kept.verified_batch_sizes:
            with _isolate_state(run, kept.subset):
                _check_batch(run, kept.subset, kept.model_inputs, left)
            kept.verified_batch_sizes.add(len(left))


def _check_batch(run: CachedRun, part: Subset, made: ModelInputs, batch: Tensor) -> None:
    """Checks that the cached outputs of a batch give the same results as the model."""
    ((inputs, targets),) = part.data.batches([batch])
    if not torch.equal(targets, part.data.targets[batch]):
        raise NotCacheable("the data give other targets in a batch than they list")
    inputs, numbers = inputs.to(run.device, non_blocking=True), batch.to(run.device)
    verify.check_bit_identical(
        part.model, lambda: part.model(inputs), lambda: made.model(numbers), run.autocast,
        f"a batch of {len(batch)}",
    )  # fmt: skip


def _tensor_versions(model: nn.Module, split: splitting.ModelSplit) -> TensorVersions:
    found = named_tensors(model)
    return {name: (found[name], found[name]._version) for name in split.prefix_tensors}


def _has_changed(run: CachedRun, kept: _CacheEntry) -> bool:
    """Whether a tensor that the prefix reads was written to."""
    now = named_tensors(run.model)
    return any(
        now.get(name) is not tensor or tensor._version != version
        for name, (tensor, version) in kept.tensor_versions.items()
    )


def _check_average(run: CachedRun, kept: _CacheEntry) -> None:
    """Raises NotCacheable if frozen tensors of an averaged model differ from the trained ones."""
    if kept.subset.model is run.model:
        return
    mine, theirs = named_tensors(kept.subset.model), named_tensors(run.model)
    if not all(
        verify.is_bit_identical(mine[name], theirs[name])
        for name in kept.model_split.prefix_tensors
    ):
        raise NotCacheable("the average changes what is frozen")
