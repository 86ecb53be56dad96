"""Checkpoints of a run, `<run>/checkpoints/step-<step>.ckpt`: all it takes to go on from there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recipe import atomic_write
from recipe.checkpoint.retention import list_checkpoints, list_removable_files
from recipe.checkpoint.state import RunState
from recipe.errors import RecipeError
from recipe.nn.weights import load_torch_file
from recipe.store import run_dirs
from recipe.training.loop import MetricsEvent
from recipe.training.run import Run

FORMAT_VERSION = 2
"""Of what is in the file; another one is not read."""


class Checkpoints:
    """The newest ones of a run are kept; a file that is there is whole."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """`settings` are `every` (None: never), `per`, `keep` and `keep_finished` of the spec's
        `checkpoint`."""
        self.checkpoint_dir = run_dir / "checkpoints"
        self._every, self._per, self._keep = settings["every"], settings["per"], settings["keep"]
        self._keep_finished = settings["keep_finished"]
        self.last_step = 0
        """At which the newest one was written, or the run went on."""
        self.damaged_files: list[str] = []
        """What `latest` could not read, each with the reason."""

    def is_due(self, point: MetricsEvent, run: Run) -> bool:
        """Whether one is to be written after this Point; only where the run stands at it, which on
        a GPU is after every so many steps."""
        if self._every is None or point.step != run.position.step:
            return False
        if self._per == "epoch":
            return point.is_epoch_end and point.epoch % self._every == 0
        return not point.is_epoch_end and point.step // self._every > self.last_step // self._every

    def save(self, state: RunState) -> Path:
        """Raises RecipeError if it can't be written; those before are as they were."""
        step = state["run"]["position"]["step"]
        path = self.checkpoint_dir / f"step-{step:09}.ckpt"
        buffer = io.BytesIO()  # torch can abort the process where a disk is full
        torch.save({"format": FORMAT_VERSION, **state}, buffer)
        before = self.paths()
        try:
            self.checkpoint_dir.mkdir(exist_ok=True)
            atomic_write.write_file(path, buffer.getbuffer())
            self._remove_old(path)
        except OSError as error:
            run, first = (
                self.checkpoint_dir.parent,
                "make room" if atomic_write.is_disk_full(error) else "fix that",
            )
            last = f"the last one is {before[-1].name}" if before else "there is none before it"
            raise RecipeError(
                f"checkpoint: {path} can't be written: {error.strerror}; {last}; {first}, then "
                + run_dirs.format_command(f"resume {run.name}", run.parent.parent)
            ) from error
        self.last_step = step
        return path

    def _remove_old(self, newest: Path) -> None:
        """Removes those before the last ones, and what is beyond the newest: it can't be read, or
        is of a way that was left."""
        older = [path for path in self.paths() if path < newest]
        beyond = [path for path in self.paths() if path > newest]
        for path in [*older[: max(0, len(older) + 1 - self._keep)], *beyond]:
            path.unlink()

    def remove_unneeded(self) -> None:
        """Removes what a run that has ended for good needs no more. Raises OSError."""
        for path in list_removable_files(self.checkpoint_dir.parent, self._keep_finished):
            path.unlink()

    def paths(self) -> list[Path]:
        """The oldest first."""
        return list_checkpoints(self.checkpoint_dir.parent)

    def load_latest(self) -> RunState | None:
        """The newest one that can be read; None if there is none."""
        found = self.load_latest_with_path()
        return found[1] if found else None

    def load_latest_with_path(self) -> tuple[Path, RunState] | None:
        """As `latest`, with its file."""
        for stray in self.checkpoint_dir.glob(".*.tmp"):  # its writer was killed
            stray.unlink()
        for path in reversed(self.paths()):
            try:
                return path, read_checkpoint(path)
            except ValueError as error:
                self.damaged_files.append(f"{path.name} can't be read: {error}")
        return None


def read_checkpoint(path: Path) -> RunState:
    """What a checkpoint holds, whole to the bit; nothing pickled is run. Raises ValueError for any
    other file."""
    try:
        state = load_torch_file(path)
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():  # torch doesn't look at the checksums
                raise ValueError(f"{damaged} is damaged")
    except Exception as error:  # the unpickler's many ways to refuse
        raise ValueError("it is damaged, or was cut off") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        raise ValueError("it is no checkpoint of this version of recipe")
    return state
