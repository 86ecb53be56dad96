"""Image files sorted into folders, one a class; read anew each time, never all held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipe.data import (
    Batch,
    Data,
    Mean,
    Std,
    digest,
    digest_files,
    memory,
    paths,
    stratified,
    worker,
)
from recipe.data.class_folders import Listing, listings
from recipe.errors import DataError, Problems
from recipe.images import ImageError, fit, normalise, read_image
from recipe.wording import listed, printable

WHOLE = 2**30  # bytes of all images together up to which the digest reads every one of them
Sample = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Files(Dataset[Sample | str]):
    """A split whose images are read from their files, by `workers` processes if above 0."""

    root: Path
    files: tuple[Path, ...]
    """Relative to `root`."""
    targets: Tensor
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample | str:
        """Input and target; or what is wrong with the file, as workers garble what they raise."""
        file = self.files[index]
        try:
            image = read_image(self.root / file, channels=self.channels)
        except ImageError as error:
            return f"{printable(file)} ({error.reason})"
        return normalise(fit(image, self.size), mean=self.mean, std=self.std), self.targets[index]

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """As Split.batches. Raises DataError naming the files of a batch that can't be read."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores
            loader = iter(
                DataLoader(
                    self,
                    batch_sampler=(indices.tolist() for indices in batches),
                    num_workers=self.workers,
                    collate_fn=_stacked,
                    generator=torch.Generator(),  # or it would draw from torch's global stream
                    worker_init_fn=worker.deaf,
                )
            )
        while True:
            try:
                batch = next(loader)
            except StopIteration:
                return
            except RuntimeError as error:
                if self.workers == 0:
                    raise
                raise worker.died(self.workers, error) from error
            if not isinstance(batch, tuple):
                raise DataError(
                    f"data.path: {len(batch)} of a batch's images in {printable(self.root)} can't "
                    f"be read: {listed(batch)}; mend or remove them, and start again"
                )
            yield batch


def image_folder(
    split: torch.Generator,
    *,
    path: str | None,
    val: Annotated[float, Field(gt=0, lt=1)] | None,
    size: PositiveInt,
    channels: Literal[1, 3],
    mean: list[Mean],
    std: list[Std],
    workers: NonNegativeInt,
) -> Data:
    """Images below `path`/<class>/, of which `val` are held out; or below `path`/train/<class>/
    and `path`/val/<class>/, and where there is one, `path`/test/<class>/.

    Classes are sorted by name. Each image is cut and resized by recipe.images.fit. Files without
    the suffix of an image are passed over; what else is wrong is told by recipe.data.class_folders,
    all at once, before the first step. Of each file only the head and the end are checked then
    (recipe.image_files says why); one that turns out to be damaged when its turn comes, or that
    is gone by then, is a DataError. For what the digest sees of files, recipe.data.digest_files.
    """
    problems = Problems()
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            problems.append(
                f"data.{name}: {values} does not have one value a channel, data.channels={channels}"
            )
    with problems.collect("data"):
        memory.check(8 * channels * size**2, "data.size", f"{size} is too large, use fewer pixels")
    with problems.collect("data"), paths.reported():
        root = paths.given(path, "a folder of images, such as data.path=/data/pets")
        found = listings(root, val)
        content = digest_files(
            root,
            sorted(file for part in found.values() for has in part.values() for file in has),
            whole=WHOLE,
        )
    problems.raise_any()
    names = tuple(found["train"])

    def files(listing: Listing) -> Files:
        return Files(
            root=root,
            files=tuple(file for name in names for file in listing[name]),
            targets=torch.tensor([i for i, name in enumerate(names) for _ in listing[name]]),
            channels=channels,
            size=(size, size),
            mean=tuple(mean),
            std=tuple(std),
            workers=workers,
        )

    parts = {part: files(listing) for part, listing in found.items()}
    if val is not None:
        every = parts["train"]
        train, held = stratified(every.targets, val, names, split)
        parts = {"train": _only(every, train), "val": _only(every, held)}
    listed = [str(each) for part, has in sorted(parts.items()) for each in (part, *has.files)]
    return Data(
        **parts,
        classes=names,
        channels=channels,
        size=(size, size),
        mean=tuple(mean),
        std=tuple(std),
        digest=digest(content, *listed, f"image_folder {channels} {size} {mean} {std}"),
    )


def _stacked(samples: list[Sample | str]) -> Batch | list[str]:
    """The samples as a batch, or everything that is wrong with them."""
    if wrong := [sample for sample in samples if isinstance(sample, str)]:
        return wrong
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(targets)


def _only(files: Files, indices: Tensor) -> Files:
    chosen = tuple(files.files[index] for index in indices.tolist())
    return replace(files, files=chosen, targets=files.targets[indices])
