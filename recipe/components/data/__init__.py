"""Data: made once, before the model.

A part is called as `part(split, **settings) -> Data`; `split` is the random stream
that may decide which samples train and which validate. Three settings of every option
are the engine's own and never reach the part: `batch_size`, `eval_batch_size`, and
`classes`, the number of classes the other groups are built for (`auto`: as many as are found).
Settings named `channels` and `size` say what the inputs are to become.

What is wrong with data is found before the first step where it can be, and then is a ValueError,
or a SpecError that tells all of it. A split whose samples can't be read later raises DataError.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from recipe.components.contract import PlannedRun, check
from recipe.nn import memory_limit

Mean = Annotated[float, Field(ge=0, le=1)]
"""Of a channel, black being 0 and white 1; one on a scale of 0 to 255 is refused."""
Std = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
"""Of a channel, on the same scale; by less, inputs would be divided into infinity."""
Batch = tuple[Tensor, Tensor]
"""Inputs (n, channels, height, width) float32, normalised; class indices (n,) int64."""


class Split(Protocol):
    """Samples that are served by index."""

    @property
    def targets(self) -> Tensor:
        """Class index of every sample, shape (n,), int64."""
        ...

    def __len__(self) -> int: ...

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """The samples of each tensor of indices, in that order, as one batch each."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A split whose samples fit in memory, indexed a batch at a time."""

    inputs: Tensor
    """Shape (n, channels, height, width)."""
    targets: Tensor
    """Shape (n,), int64."""
    transform: Callable[[Tensor], Tensor] | None = None
    """From stored inputs (say, bytes) to normalised float32, a batch at a time."""

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            inputs = self.inputs[indices]
            yield (self.transform(inputs) if self.transform else inputs), self.targets[indices]


@dataclass(frozen=True)
class Data:
    """What a run learns from, and what it takes to treat a new image the same way."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    """Class names; a target is an index into them."""
    channels: int
    size: tuple[int, int]
    """Height and width of an input, in pixels."""
    mean: tuple[float, ...]
    """Per channel, on the scale where black is 0 and white is 1; subtracted first."""
    std: tuple[float, ...]
    """Per channel; divided by next."""
    digest: str = ""
    """A hash of everything above: inputs, targets and how they were split. Of what a user's part
    returns it is computed by recipe.components.data.validation.content_digest, which adds to what is given
    here."""
    test: Split | None = None
    has_known_white: bool = True
    """Whether mean and std are on that scale; if not, new images can't be treated the same way."""


def first_samples_batch(split: Split, count: int) -> Batch:
    """So many samples, the first ones that can be read; from a smaller split each again and again,
    unless it leaves some out."""
    return next(iter(split.batches([first_readable_indices(split, count)])))


def first_readable_indices(split: Split, count: int) -> Tensor:
    """The numbers of the samples that `few` gives."""
    if is_skipping_unreadable(split):
        found: Tensor = split.first_readable_indices(count)  # type: ignore[attr-defined]
        return found
    return torch.arange(count) % len(split)


def is_skipping_unreadable(split: Split) -> bool:
    """Whether samples that can't be read are left out of the split, and not an error."""
    return getattr(split, "on_bad_file", "stop") == "skip"


def iterate_readable_inputs(
    split: Split, batches: Iterable[Tensor]
) -> Iterator[tuple[list[int], Tensor]]:
    """The numbers of those samples of each batch that can be read, and their inputs."""
    if is_skipping_unreadable(split):
        yield from split.iterate_readable_inputs(batches)  # type: ignore[attr-defined]
        return
    listed = list(batches)
    for indices, (inputs, _) in zip(listed, split.batches(listed), strict=True):
        yield indices.tolist(), inputs


def unreadable_samples(split: Split) -> dict[int, str]:
    """By their numbers the samples that are left out, as they can't be read, and why not."""
    found: dict[int, str] = getattr(split, "unreadable", {})
    return found


def readable_indices(split: Split, samples: Iterable[int]) -> list[int]:
    """Those of the numbers that aren't left out."""
    return [sample for sample in samples if sample not in unreadable_samples(split)]


def hash_tensors(*parts: Tensor | str) -> str:
    """A SHA-256 of tensors (values, shape and type) and strings, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            sha.update(part.encode())
        sha.update(b"\0")
    return sha.hexdigest()


def hash_files(
    root: Path, files: Iterable[Path], *, full_hash_limit: int, with_unreadable: bool = False
) -> str:
    """A SHA-256 of the names below `root`, the sizes and the bytes of files; dates don't count.

    Of files that are larger than `whole` bytes together, only the first and last 4 KiB of each
    are read, so that starting stays quick: a change in the middle that keeps the size is missed.
    Raises OSError for a file that can't be read, which with `unread` counts as one without bytes.
    """
    sizes = {file: _file_size(root / file, unread=with_unreadable) for file in files}
    all_bytes = sum(sizes.values()) <= full_hash_limit
    sha = hashlib.sha256(b"whole" if all_bytes else b"ends")
    for file, size in sizes.items():
        sha.update(f"{file.as_posix()}\0{size}\0".encode())
        if size < 0:
            continue
        with (root / file).open("rb") as stream:
            if not all_bytes and size > 2 * 4096:
                sha.update(stream.read(4096))
                stream.seek(-4096, os.SEEK_END)
            sha.update(stream.read())
    return sha.hexdigest()


def _file_size(path: Path, *, unread: bool) -> int:
    """In bytes; -1 for a file that can't be read, or would never end, if `unread` takes those."""
    try:
        found = path.stat()
        if unread and not (stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK)):
            return -1
        return found.st_size
    except OSError:
        if not unread:
            raise
        return -1


def stratified_split(
    targets: Tensor, fraction: float, names: Sequence[str], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices to train and to validate on, each ascending; every index is in exactly one.

    From each class `fraction` of its samples, rounded to whole ones (half up), are drawn for
    validation. Raises ValueError where a class would be missing on one side.
    """
    counts = targets.bincount(minlength=len(names))
    held = (counts * fraction + 0.5).long()
    lacking = ((held < 1) | (held >= counts)).nonzero().flatten().tolist()
    if lacking:
        count, val = int(counts[lacking[0]]), int(held[lacking[0]])
        more = f" (and so on for {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
        way_out = "use another fraction" if count > 1 else "add samples, or leave the class out"
        raise ValueError(
            f"data.val: {fraction} of the {count} samples of class {names[lacking[0]]} rounds to"
            f" {val}, which leaves none to {'train' if val else 'validate'} on{more}; {way_out}"
        )
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    validates = rank < held[targets[shuffled]]
    return shuffled[~validates].sort().values, shuffled[validates].sort().values


def balanced_subset(targets: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Ascending indices of `size` samples, drawn so that classes differ by one sample at most.

    Where a class has too few samples the others make up for it. From equal streams a smaller
    choice is part of every larger one.
    """
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    return shuffled[rank.argsort(stable=True)[:size]].sort().values


def _shuffle_with_class_ranks(targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All indices in random order, and how many of its own class stand before each of them."""
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = targets[shuffled].argsort(stable=True)
    counts = targets.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(targets)) - starts
    return shuffled, rank


def channel_mean_and_std(inputs: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, black being 0 and white 1 (255 for bytes)."""
    mean, std = [], []
    for channel in inputs.unbind(1):
        if channel.dtype == torch.uint8:  # by counting: exact, and without a copy as floats
            share = channel.flatten().bincount(minlength=256).double() / channel.numel()
            values = torch.arange(256, dtype=torch.float64) / 255
            centre = (share * values).sum()
            variance = (share * (values - centre) ** 2).sum()
        else:
            variance, centre = torch.var_mean(channel.double(), correction=0)
        mean.append(centre.item())
        std.append(variance.sqrt().item())
    return tuple(mean), tuple(std)


@check("data")
def check_data_settings(planned: PlannedRun) -> Iterator[str]:
    """A batch must be there to be drawn, and the other groups be built for these data."""
    size, samples = planned.settings("data")["batch_size"], len(planned.data.train)
    if size > samples:
        yield (
            f"data.batch_size is {size}, but there are {samples} samples to train on; use "
            f"data.batch_size={samples} or less"
        )
    height, width = planned.data.size
    try:
        memory_limit.check_free_memory(
            4 * size * planned.data.channels * height * width,
            "data.batch_size", "use smaller batches",
        )  # fmt: skip
    except ValueError as error:
        yield str(error)
    facts = {
        "channels": planned.data.channels,
        "classes": len(planned.data.classes),
        "size": planned.data.size[0],
    }
    for group in ("model", "augment", "loss"):
        settings = planned.settings(group)
        ours = str(settings.get("_target_")).startswith("recipe.")  # a user's may differ
        for key, fact in facts.items():
            stated = settings.get(key, "auto")
            if ours and stated not in ("auto", fact):
                yield (
                    f"{group}.{key} is {stated}, but the data have {fact}; leave it out, or use "
                    f"{group}.{key}={fact}"
                )
