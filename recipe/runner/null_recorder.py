"""What the processes besides the first have in a Recorder's place: it keeps nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from recipe.store.journal import MetricHistory


class NullRecorder:
    run_id, run_dir = "", Path(os.devnull)

    def __init__(self) -> None:
        self.recorded_metrics: MetricHistory = {}

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def write_file(self, name: str, write: Callable[[Path], object]) -> None: ...

    def log_text(self, name: str, content: str) -> None: ...

    def log_artifact(self, name: str) -> None: ...

    def fsync(self) -> None: ...
