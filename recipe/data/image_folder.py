"""Image files sorted into folders, one a class; read anew each time, never all held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipe.data import Batch, Data, digest, digest_files, stratified
from recipe.images import check_image, fit, image_files, normalise, read_image

WHOLE = 2**30  # bytes of all images together up to which the digest reads every one of them
Listing = dict[str, list[Path]]
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
        try:
            image = read_image(self.root / self.files[index], channels=self.channels)
        except ValueError as error:
            return f"data.path: {error}"
        return normalise(fit(image, self.size), mean=self.mean, std=self.std), self.targets[index]

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """As Split.batches. Raises ValueError naming the file that cannot be read."""
        for batch in DataLoader(
            self,
            batch_sampler=(indices.tolist() for indices in batches),
            num_workers=self.workers,
            collate_fn=_stacked,
            generator=torch.Generator(),  # or it would draw from torch's global stream
        ):
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch


def image_folder(
    split: torch.Generator,
    *,
    path: str | None,
    val: Annotated[float, Field(gt=0, lt=1)] | None,
    size: PositiveInt,
    channels: Literal[1, 3],
    mean: list[FiniteFloat],
    std: list[Annotated[FiniteFloat, Field(gt=0)]],
    workers: NonNegativeInt,
) -> Data:
    """Images below `path`/<class>/, of which `val` are held out; or below `path`/train/<class>/
    and `path`/val/<class>/, and where there is one, `path`/test/<class>/.

    Classes are sorted by name. Each image is cut and resized by recipe.images.fit. Files without
    the suffix of an image are passed over; any image that is hidden, outside a class or
    unreadable is a ValueError. For what the digest
    sees of them, recipe.data.digest_files.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(
                f"data.{name}: {values} does not have one value a channel, data.channels={channels}"
            )
    if path is None:
        raise ValueError("data.path: null; give a folder of images, such as data.path=/data/pets")
    root = Path(path).expanduser()
    listings = _listings(root, val)
    names = tuple(listings["train"])

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

    parts = {part: files(listing) for part, listing in listings.items()}
    if val is not None:
        every = parts["train"]
        train, held = stratified(every.targets, val, names, split)
        parts = {"train": _only(every, train), "val": _only(every, held)}
    listed = [str(each) for part, has in sorted(parts.items()) for each in (part, *has.files)]
    every_file = sorted(file for part in parts.values() for file in part.files)
    content = digest_files(root, every_file, whole=WHOLE)
    return Data(
        **parts,
        classes=names,
        channels=channels,
        size=(size, size),
        mean=tuple(mean),
        std=tuple(std),
        digest=digest(content, *listed, f"image_folder {channels} {size} {mean} {std}"),
    )


def _stacked(samples: list[Sample | str]) -> Batch | str:
    images, targets = [], []
    for sample in samples:
        if isinstance(sample, str):
            return sample
        images.append(sample[0])
        targets.append(sample[1])
    return torch.stack(images), torch.stack(targets)


def _only(files: Files, indices: Tensor) -> Files:
    chosen = tuple(files.files[index] for index in indices.tolist())
    return replace(files, files=chosen, targets=files.targets[indices])


def _listings(root: Path, val: float | None) -> dict[str, Listing]:
    """The files of each class of each part; the part is `train` where `val` is to divide it."""
    folders = _folders(root)
    divided = bool({"train", "val"} & set(folders))
    if not divided and val is None:
        raise ValueError(
            f"data.val: null needs folders train/ and val/ in {root}; give the fraction to validate"
            " on, such as data.val=0.2"
        )
    if divided and set(folders) | {"test"} != {"train", "val", "test"}:
        raise ValueError(
            f"data.path: {root} has the folders {', '.join(folders)}; either each is a class and"
            " none is named train or val, or they are train, val and perhaps test"
        )
    if divided and val is not None:
        raise ValueError(
            f"data.val: {val} would be ignored, {root} is divided into {', '.join(folders)}; use"
            " data.val=null"
        )
    parts = folders if divided else ["train"]
    listings: dict[str, Listing] = {
        part: {name: [] for name in _folders(root / part if divided else root)} for part in parts
    }
    for file in image_files(root):
        place = file.parts if divided else ("train", *file.parts)
        if any(name.startswith(".") for name in place):
            raise ValueError(f"data.path: {root / file} is a hidden image; remove or rename it")
        if len(place) < 3:
            raise ValueError(f"data.path: {root / file} is in no class folder; move it into one")
        listings[place[0]][place[1]].append(file)
    _check(listings, root, divided)
    return listings


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"data.path: {folder} is not a folder")
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _check(listings: dict[str, Listing], root: Path, divided: bool) -> None:
    classes = set(listings["train"])
    if len(classes) < 2:
        found = ", ".join(sorted(classes)) or "none"
        raise ValueError(f"data.path: {root} needs two folders of classes or more, found {found}")
    for part, listing in listings.items():
        if differing := sorted(classes ^ set(listing)):
            raise ValueError(
                f"data.path: class {differing[0]} is not in both train/ and {part}/ of {root}"
            )
        for name, files in listing.items():
            if not files:
                folder = root / part / name if divided else root / name
                raise ValueError(f"data.path: {folder} has no image in it; fill it or remove it")
            for file in files:
                try:
                    check_image(root / file)
                except ValueError as error:
                    raise ValueError(f"data.path: {error}") from error
