"""What the processes besides the first have in a Recorder's place: it keeps nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from recipe.store.journal import Trace


class Unrecorded:
    id, folder = "", Path(os.devnull)

    def __init__(self) -> None:
        self.known: Trace = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def file(self, name: str, write: Callable[[Path], object]) -> None: ...

    def text(self, name: str, content: str) -> None: ...

    def artifact(self, name: str) -> None: ...

    def sync(self) -> None: ...
