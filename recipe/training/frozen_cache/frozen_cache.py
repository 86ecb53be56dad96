"""Whether the frozen part of a run is computed once: decided anew at each epoch, and said why not.

Nothing here changes a number, only how long it takes; so whatever goes wrong, from a model that
can't be traced to a disk that is full, is a reason to compute everything each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recipe.components.data import (
    Split,
    first_samples,
    readable,
    served,
    skips,
    unread,
    worker,
)
from recipe.errors import RecipeError
from recipe.formatting import bytes_, percent
from recipe.nn import rng
from recipe.nn.placement import placed
from recipe.nn.preserve import preserved
from recipe.training.frozen_cache import (
    cache_file,
    eviction,
    tensor_layout,
    verify,
)
from recipe.training.frozen_cache import (
    inputs as feed,
)
from recipe.training.frozen_cache import key as keys
from recipe.training.frozen_cache import split_model as splitting
from recipe.training.frozen_cache.cache_file import Rows, Store
from recipe.training.frozen_cache.inputs import Feed
from recipe.training.frozen_cache.not_cacheable import Refused
from recipe.training.frozen_cache.tensor_layout import COUNTS
from recipe.training.frozen_cache.trace import tensors

if TYPE_CHECKING:
    from recipe.training.run import Run

Versions = dict[str, tuple[Tensor, int]]


@dataclass(frozen=True)
class _Part:
    """Samples, and the model that is called with them in one of its two modes."""

    name: str
    model: nn.Module
    training: bool
    data: Split
    size: int
    """Samples in a batch."""

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """All samples in batches, by their first one. Training batches are all full, as nearly all
        that a sample may come in are; those of an evaluation are its own."""
        count = len(self.data)
        for first in range(0, count, self.size):
            end = min(first + self.size, count)
            first = max(0, end - self.size) if self.training else first
            yield first, torch.arange(first, end)


@dataclass
class _Kept:
    """What is kept of a part, and what it was made with."""

    part: _Part
    split: splitting.Split
    key: str
    feed: Feed
    versions: Versions
    """Of the trained model's tensors that the prefix reads."""
    sizes: set[int] = field(default_factory=set)
    """Numbers of samples in a batch for which it was found to be right."""


@dataclass
class _Said:
    """By epoch, from 0: what is done from there on."""

    stages: dict[int, str] = field(default_factory=dict)
    once: bool = False

    def add(self, epoch: int, text: str, *, once: bool) -> None:
        self.once = self.once or once
        if text not in list(self.stages.values())[-1:]:
            self.stages[epoch] = text

    def text(self) -> str:
        start = min(self.stages, default=0)
        return "; ".join(
            text if epoch == start else f"from epoch {epoch + 1} on {text}"
            for epoch, text in self.stages.items()
        )


class Prefix:
    """The frozen prefix of one run."""

    def __init__(self, folder: Path, why_not: Mapping[str, str]) -> None:
        """`folder` is where outputs are kept; `why_not` what rules each part of the data out."""
        self.folder, self.why_not = folder, why_not
        self._few: dict[str, Tensor] = {}
        self._kept: dict[str, _Kept | None] = {}
        self._boundary: frozenset[str] | None = None
        self._foreseen: tuple[frozenset[str], splitting.Split] | None = None
        self._said = {"train": _Said(), "val": _Said()}

    def training(self, run: Run, epoch: int, order: Iterable[Tensor]) -> Feed:
        """What an epoch of training, in batches of this order, reads and calls."""
        part = _training(run)
        kept = self._current(run, part, epoch, order)
        return kept.feed if kept else feed.whole(part.model, part.data)

    def evaluation(self, run: Run, epoch: int) -> Feed:
        """What the evaluation after that epoch reads and calls."""
        model = run.average.model
        part = _Part("val", model, False, run.data.val, run.eval_batch_size)
        batches = [chunk for _, chunk in part.chunks()]
        kept = self._current(run, part, epoch, batches if skips(part.data) else batches[-1:])
        return kept.feed if kept else feed.whole(part.model, part.data)

    def foresee(self, run: Run) -> str | None:
        """What will be done with the prefix at first, in words; None: nothing is frozen."""
        if not run.frozen.names:
            return None
        try:
            found = self._split(run, _training(run), 0)
        except Refused as refused:
            return f"computed each time: {refused}"
        later = "; the cut moves as layers thaw" if run.frozen.later else ""
        return _once(found) + later

    def ahead(self, run: Run, inputs: Tensor) -> tuple[Callable[[], Any], Callable[[], Tensor]]:
        """What will be done once, and what each time, with a batch of training inputs on the
        device: to be timed, with the model in training mode."""
        try:
            found = self._split(run, _training(run), 0)
        except Refused:
            return lambda: None, lambda: run.model(inputs)
        kept = found.prefix(inputs)
        return lambda: found.prefix(inputs), lambda: found.tail(len(inputs), *kept)

    def said(self) -> str | None:
        """What was done with the prefix, in words; None: nothing was frozen."""
        train, val = self._said["train"], self._said["val"]
        if not train.stages:
            return None
        if val.stages and train.once != val.once:
            return f"{train.text()}; in evaluation {val.text()}"
        return train.text()

    def _current(
        self, run: Run, part: _Part, epoch: int, batches: Iterable[Tensor]
    ) -> _Kept | None:
        if not run.frozen.names:
            return None
        boundary = frozenset(run.frozen.names)
        if boundary != self._boundary:
            self._kept, self._boundary = {}, boundary
        kept = self._kept.get(part.name)
        new = part.name not in self._kept or (kept and kept.part.model is not part.model)
        try:
            if new:
                kept = self._made(run, part, epoch)
            elif kept and _touched(run, kept):
                kept = self._again(run, kept, epoch)
            if kept and (skips(part.data) or not kept.sizes):
                _check_sizes(run, kept, batches)
            if kept and new:
                self._said[part.name].add(epoch, _once(kept.split), once=True)
            if kept:
                _check_average(run, kept)
        except Refused as refused:
            kept = None
            self._said[part.name].add(epoch, f"computed each time: {refused}", once=False)
        self._kept[part.name] = kept
        return kept

    def _again(self, run: Run, kept: _Kept, epoch: int) -> _Kept:
        """As `kept`, of which tensors were written to; if they became others, kept anew."""
        with _quietly(run, kept.part, buffers=False):
            key = self._key(run, kept.part, kept.split)
        if key != kept.key:
            return self._made(run, kept.part, epoch)
        kept.versions = _versions(run.model, kept.split)
        return kept

    def _split(self, run: Run, part: _Part, epoch: int) -> splitting.Split:
        """The model in two, tried with a few samples. Raises Refused."""
        if not run.frozen.names:
            raise Refused("nothing is frozen")
        if part.name in self.why_not:
            raise Refused(self.why_not[part.name])
        if _uses(run, epoch, run.frozen.names) < 2:
            raise Refused("it would be used in one epoch only")
        boundary = frozenset(run.frozen.names)
        if part.training and self._foreseen and self._foreseen[0] == boundary:
            return self._foreseen[1]
        trained = {
            name for name, p in run.model.named_parameters(remove_duplicate=False)
            if p.requires_grad
        }  # fmt: skip
        with _quietly(run, part), run.autocast():
            inputs = self._samples(run, part)
            moving = _moving(run, part, inputs)
            found = splitting.split(part.model, inputs, trained, moving)
        _check_few(run, part, found, inputs)
        if part.training:
            self._foreseen = boundary, found
        return found

    def _made(self, run: Run, part: _Part, epoch: int) -> _Kept:
        """Raises Refused."""
        split = self._split(run, part, epoch)
        with _quietly(run, part):
            key = self._key(run, part, split)
            there = self._stored(run, part, split, key).to(run.device)
            made = feed.tail(split, there, part.data, lambda inputs: placed(inputs, run.device))
        return _Kept(part, split, key, made, _versions(run.model, split))

    def _samples(self, run: Run, part: _Part) -> Tensor:
        if part.name not in self._few:
            self._few[part.name] = _samples(run, part)
        return self._few[part.name]

    def _key(self, run: Run, part: _Part, split: splitting.Split) -> str:
        inputs = self._samples(run, part)
        with run.autocast():
            return keys.key(split, run.data, part.name, inputs, part.size)

    def _stored(self, run: Run, part: _Part, split: splitting.Split, key: str) -> Store:
        count = len(part.data)
        eviction.check(split.bytes * count)
        if run.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(run.device)
            if split.bytes * count > free // 2:
                raise Refused(f"{bytes_(split.bytes * count)} would take too much of the GPU")
        layouts = (*split.layouts, tensor_layout.FLAG) if skips(part.data) else split.layouts
        found = cache_file.find(self.folder, key, layouts, count)
        if found is None:
            found = cache_file.make(
                self.folder, key, layouts, count, lambda: _rows(run, part, split)
            )
        if skips(part.data):
            *rows, flags = found.tensors
            found.tensors = tuple(rows)
            _leave_out(part.data, flags)
        return found


def _training(run: Run) -> _Part:
    return _Part("train", run.model, True, run.data.train, run.batch_size)


def _once(split: splitting.Split) -> str:
    return (
        f"computed once up to {split.last} ({percent(split.share)} of the multiply-adds), "
        f"{bytes_(split.bytes)} a sample"
    )


def _uses(run: Run, epoch: int, reads: Iterable[str]) -> int:
    """Epochs from the last change of the boundary, at or before this one, to the next."""
    read = set(reads)
    starts = [e for e, names in run.frozen.timetable.items() if e <= epoch]
    ends = [e for e, names in run.frozen.timetable.items() if e > epoch and read & set(names)]
    return min(ends, default=run.epochs) - max(starts, default=0)


@contextmanager
def _quietly(run: Run, part: _Part, *, buffers: bool = True) -> Iterator[None]:
    """With the part's model in its mode; leaves no trace, if `buffers` not even in them. What goes
    wrong within is Refused, but for data that can't be read, which no other way could either."""
    try:
        with preserved(run.model, buffers=buffers), preserved(part.model, buffers=buffers):
            part.model.train(part.training)
            yield
    except (Refused, RecipeError):
        raise
    except OSError as error:
        raise Refused(f"nothing can be kept ({error.strerror or error})") from error
    except Exception as error:
        if str(error).startswith(worker.MESSAGE):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise Refused(f"{type(error).__name__}: {reason}") from error


def _samples(run: Run, part: _Part) -> Tensor:
    """A few inputs; raises Refused if they aren't the same each time."""
    few = first_samples(part.data, max(COUNTS))
    few = few[torch.arange(max(COUNTS)) % len(few)]
    before = rng.standing()
    (one, _), (other, _) = part.data.batches([few, few])
    if rng.standing() != before or not verify.same_bits(one, other):
        raise Refused("the data are not the same each time they are read")
    return placed(one, run.device)


def _moving(run: Run, part: _Part, inputs: Tensor) -> set[str]:
    """Tensors that a forward pass changes, in training or in this part's mode."""
    run.model.train()
    found = splitting.moved(run.model, inputs)
    part.model.train(part.training)
    return found | splitting.moved(part.model, inputs)


def _check_few(run: Run, part: _Part, split: splitting.Split, inputs: Tensor) -> None:
    with _quietly(run, part):
        verify.check(
            part.model,
            lambda: part.model(inputs),
            lambda: split.tail(len(inputs), *split.prefix(inputs)),
            run.autocast,
            "a few samples",
        )


def _check_sizes(run: Run, kept: _Kept, batches: Iterable[Tensor]) -> None:
    """Checks a batch of each size that these have without the samples that are left out, unless
    one of that size was checked before. Raises Refused."""
    for batch in batches:
        left = torch.tensor(readable(kept.part.data, batch.tolist()), dtype=torch.int64)
        if len(left) and len(left) not in kept.sizes:
            with _quietly(run, kept.part):
                _check_batch(run, kept.part, kept.feed, left)
            kept.sizes.add(len(left))


def _leave_out(data: Split, flags: Tensor) -> None:
    """Has the samples left out that could not be read when the others were kept."""
    samples = (flags[:, 0] == 0).nonzero().flatten().tolist()
    if not data.leave_out(sample for sample in samples if sample not in unread(data)):  # type: ignore[attr-defined]
        raise Refused("a file that could not be read before can be read now")


def _check_batch(run: Run, part: _Part, made: Feed, batch: Tensor) -> None:
    """That a batch of what is kept gives what the model makes of the same samples."""
    ((inputs, targets),) = part.data.batches([batch])
    if not torch.equal(targets, part.data.targets[batch]):
        raise Refused("the data give other targets in a batch than they list")
    inputs, numbers = placed(inputs, run.device), batch.to(run.device)
    verify.check(
        part.model, lambda: part.model(inputs), lambda: made.model(numbers), run.autocast,
        f"a batch of {len(batch)}",
    )  # fmt: skip


def _rows(run: Run, part: _Part, split: splitting.Split) -> Iterator[tuple[int, Rows]]:
    """What is to be kept, in the mode and with the gradient mode it is computed in otherwise."""
    chunks = list(part.chunks())
    read = served(part.data, (chunk for _, chunk in chunks))
    for (start, chunk), (samples, inputs) in zip(chunks, read, strict=True):
        rows: Rows = ()
        if samples:
            with torch.inference_mode(not part.training), run.autocast():
                values = split.prefix(placed(inputs, run.device))
            pairs = zip(split.layouts, values, strict=True)
            rows = tuple(each.rows(value).cpu() for each, value in pairs)
        if skips(part.data):
            places = torch.tensor(samples, dtype=torch.int64) - start
            rows = _spread(rows, split, places, len(chunk))
        yield start, rows


def _spread(rows: Rows, split: splitting.Split, places: Tensor, count: int) -> Rows:
    """Rows of the samples at these places among `count`, zeros for the others, and the flags."""
    spread = [torch.zeros(count, each.numbers, dtype=each.dtype) for each in split.layouts]
    for complete, given in zip(spread, rows, strict=False):
        complete[places] = given
    flags = torch.zeros(count, 1, dtype=tensor_layout.FLAG.dtype)
    flags[places] = 1
    return (*spread, flags)


def _versions(model: nn.Module, split: splitting.Split) -> Versions:
    found = tensors(model)
    return {name: (found[name], found[name]._version) for name in split.reads}


def _touched(run: Run, kept: _Kept) -> bool:
    """Whether anything the prefix reads was written to."""
    now = tensors(run.model)
    return any(
        now.get(name) is not tensor or tensor._version != version
        for name, (tensor, version) in kept.versions.items()
    )


def _check_average(run: Run, kept: _Kept) -> None:
    """Raises Refused if an averaged model has other frozen numbers than the trained one."""
    if kept.part.model is run.model:
        return
    mine, theirs = tensors(kept.part.model), tensors(run.model)
    if not all(verify.same_bits(mine[name], theirs[name]) for name in kept.split.reads):
        raise Refused("the average changes what is frozen")
