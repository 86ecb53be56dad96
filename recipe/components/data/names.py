"""The names of many files, kept small: 100,000 of them as objects take 50 MiB, here what they are
long. A process that reads files gets its copy of them without touching the page of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class PackedPaths(Sequence[str]):
    """Paths below a folder, with / between their parts; all of them Unicode."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        encoded = [(p if isinstance(p, str) else p.as_posix()).encode() for p in paths]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode()
