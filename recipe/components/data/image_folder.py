"""Image files in one folder per class, read from disk in each epoch."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipe.components.contract import has_complete_digest
from recipe.components.data import (
    Batch,
    ChannelMean,
    ChannelStd,
    Data,
    hash_files,
    hash_tensors,
    paths,
    read_monitor,
    stratified_split,
    worker,
)
from recipe.components.data.class_folders import SKIP_HINT, FilesByClass, list_class_files
from recipe.components.data.image_files import PackedPaths, decoder_packages
from recipe.components.data.image_reading import ImageError, normalise, read_resized_image
from recipe.errors import DataError, Problems
from recipe.formatting import escape_unprintable, format_list, pluralize
from recipe.nn import memory_limit

MAX_FULL_DIGEST_BYTES = 2**30


class UnreadableFile(NamedTuple):
    sample: int
    reason: str
    """Includes the name of the file."""


class ReadBatch(NamedTuple):
    inputs: Tensor
    targets: Tensor
    unreadable: list[UnreadableFile]


@dataclass(frozen=True)
class ImageFileSplit(Dataset[tuple[Tensor, Tensor] | UnreadableFile]):
    """A split that reads its images from files.

    With `workers` above 0, as many processes prefetch two batches each; the batches don't depend on
    their number. If CUDA is in use, batches are in pinned memory.
    """

    root: Path
    file_names: PackedPaths
    """Relative to `root`."""
    targets: Tensor
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_pixels: int
    workers: int
    on_bad_file: Literal["stop", "skip"]
    slow_after: float
    unreadable: dict[int, str] = field(default_factory=dict)
    """The reason for each sample skipped so far, by index."""

    @property
    def skips_unreadable(self) -> bool:
        return self.on_bad_file == "skip"

    @property
    def packages(self) -> set[str]:
        return decoder_packages(self.file_names)

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | UnreadableFile:
        """Returns input and target; errors are returned, too, as workers change exceptions."""
        path = self.root / self.file_names[index]
        try:
            with read_monitor.report_slow_read(self.slow_after, path):
                image = read_resized_image(
                    path, channels=self.channels, size=self.size, max_pixels=self.max_pixels
                )
        except ImageError as error:
            return UnreadableFile(
                index, f"{escape_unprintable(self.file_names[index])} ({error.reason})"
            )
        return normalise(image, mean=self.mean, std=self.std), self.targets[index]

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """See Split.batches.

        Raises DataError with the unreadable files of a batch; with on_bad_file=skip only if all
        files of a batch are unreadable.
        """
        for indices, read in self._read_batches(batches):
            found = dict(read.unreadable)
            if self.skips_unreadable and not len(read.targets):
                found = {index: self.unreadable[index] for index in indices}
            if found and (not self.skips_unreadable or not len(read.targets)):
                every = "all" if not len(read.targets) else len(found)
                skip = "" if self.skips_unreadable else f", or {SKIP_HINT}"
                raise DataError(
                    f"data.path: {every} of a batch's images in {escape_unprintable(self.root)} "
                    f"can't be read: {format_list(list(found.values()))}; repair or remove them, "
                    f"and start again{skip}"
                )
            yield read.inputs, read.targets

    def iterate_readable_inputs(
        self, batches: Iterable[Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        for indices, read in self._read_batches(batches):
            yield [index for index in indices if index not in self.unreadable], read.inputs

    def first_readable_indices(self, count: int) -> Tensor:
        found: list[int] = []
        for index in range(len(self)):
            if isinstance(sample := self[index], UnreadableFile):
                self.unreadable[index] = sample.reason
            else:
                found.append(index)
            if len(found) == count:
                break
        if not found:
            raise DataError(
                f"data.path: none of {pluralize(len(self), 'image')} in "
                f"{escape_unprintable(self.root)} can be read: "
                f"{format_list(list(self.unreadable.values()))}; repair or replace them"
            )
        return torch.tensor(found, dtype=torch.int64)

    def _read_batches(self, batches: Iterable[Tensor]) -> Iterator[tuple[list[int], ReadBatch]]:
        """Yields the indices of each batch, and the batch that was read."""
        requested: deque[Tensor] = deque()
        for read in self._load_batches(self._readable_batches(batches, requested)):
            if self.skips_unreadable:
                self.unreadable.update(read.unreadable)
            yield requested.popleft().tolist(), read

    def _readable_batches(
        self, batches: Iterable[Tensor], requested: deque[Tensor]
    ) -> Iterator[list[int]]:
        for indices in batches:
            requested.append(indices)
            yield [index for index in indices.tolist() if index not in self.unreadable]

    def _load_batches(self, wanted: Iterator[list[int]]) -> Iterator[ReadBatch]:
        """Raises DataError if a worker process dies."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # too many workers
            loader = iter(
                DataLoader(
                    self,
                    batch_sampler=wanted,
                    num_workers=self.workers,
                    collate_fn=_collate,
                    pin_memory=torch.cuda.is_initialized(),
                    generator=torch.Generator(),  # instead of torch's global stream
                    worker_init_fn=worker.ignore_interrupts,
                )
            )
        while True:
            try:
                read = next(loader)
            except StopIteration:
                return
            except RuntimeError as error:
                if self.workers == 0:
                    raise
                raise worker.worker_died_error(self.workers, error) from error
            yield read


@has_complete_digest
def image_folder(
    split: torch.Generator,
    *,
    path: str | None,
    val: Annotated[float, Field(gt=0, lt=1)] | None,
    size: PositiveInt,
    channels: Literal[1, 3],
    mean: list[ChannelMean],
    std: list[ChannelStd],
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)],
    workers: NonNegativeInt,
    on_bad_file: Literal["stop", "skip"],
    slow_after: Annotated[float, Field(gt=0, allow_inf_nan=False)],
) -> Data:
    """Returns the images in `path`/<class>/, of which the share `val` is held out for validation;
    or in `path`/train/<class>/, `path`/val/<class>/ and optionally `path`/test/<class>/.

    Classes are sorted by name. Images are read by recipe.components.data.image_reading.read_image,
    then cropped and resized by recipe.components.data.image_reading.crop_and_resize. JPEGs with
    more than `max_pixels` pixels are decoded at a reduced size; Pillow reads no image with more
    than 178,956,970 pixels. Files without an image suffix are ignored. All other problems are
    reported at once before the first step: for this, the header and the end of each file are
    checked (see recipe.components.data.image_files). An image that is found to be damaged or
    missing later raises DataError. With on_bad_file=skip, files aren't checked at the start, and an
    unreadable image is removed from its batch and all later ones. The digest covers file names,
    sizes and contents (see recipe.components.data.digest.hash_files).
    """
    problems = Problems()
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            problems.append(
                f"data.{name} must have one value per channel, got {values}; give {channels}, or "
                "change data.channels"
            )
    with problems.collect("data"):
        memory_limit.check_free_memory(
            8 * channels * size**2, "data.size", f"use a size below {size}"
        )
    with problems.collect("data"), paths.translate_os_errors():
        root = paths.require_path(path, "a folder of images, such as data.path=/data/pets")
        found = list_class_files(root, val, check=on_bad_file == "stop", max_pixels=max_pixels)
        content = hash_files(
            root,
            sorted(file for part in found.values() for has in part.values() for file in has),
            full_hash_limit=MAX_FULL_DIGEST_BYTES,
            with_unreadable=on_bad_file == "skip",
        )
    problems.raise_if_any()
    names = tuple(found["train"])

    def files(listing: FilesByClass) -> ImageFileSplit:
        return ImageFileSplit(
            root=root,
            file_names=PackedPaths(file for name in names for file in listing[name]),
            targets=torch.tensor([i for i, name in enumerate(names) for _ in listing[name]]),
            channels=channels,
            size=(size, size),
            mean=tuple(mean),
            std=tuple(std),
            max_pixels=max_pixels,
            workers=workers,
            on_bad_file=on_bad_file,
            slow_after=slow_after,
        )

    parts = {part: files(listing) for part, listing in found.items()}
    if val is not None:
        every = parts["train"]
        train, held = stratified_split(every.targets, val, names, split)
        parts = {"train": _select_files(every, train), "val": _select_files(every, held)}
    listed = [each for part, has in sorted(parts.items()) for each in (part, *has.file_names)]
    return Data(
        train=parts["train"],
        val=parts["val"],
        test=parts.get("test"),
        classes=names,
        channels=channels,
        size=(size, size),
        mean=tuple(mean),
        std=tuple(std),
        digest=hash_tensors(
            content, *listed, f"image_folder {channels} {size} {mean} {std} {max_pixels}"
        ),
    )


def _collate(samples: list[tuple[Tensor, Tensor] | UnreadableFile]) -> ReadBatch:
    good = [sample for sample in samples if not isinstance(sample, UnreadableFile)]
    unread = [sample for sample in samples if isinstance(sample, UnreadableFile)]
    if not good:
        return ReadBatch(torch.empty(0), torch.empty(0, dtype=torch.int64), unread)
    images, targets = zip(*good, strict=True)
    return ReadBatch(torch.stack(images), torch.stack(targets), unread)


def _select_files(files: ImageFileSplit, indices: Tensor) -> ImageFileSplit:
    chosen = PackedPaths(files.file_names[index] for index in indices.tolist())
    return replace(files, file_names=chosen, targets=files.targets[indices], unreadable={})
