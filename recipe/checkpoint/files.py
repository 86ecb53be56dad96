"""Checkpoint files of a run, `<run_dir>/checkpoints/step-<step>.ckpt`."""

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


class Checkpoints:
    """Writes the checkpoints of a run atomically, and keeps the newest ones."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the spec's `checkpoint`."""
        self.checkpoint_dir = run_dir / "checkpoints"
        self._every, self._per, self._keep = settings["every"], settings["per"], settings["keep"]
        self._keep_finished = settings["keep_finished"]
        self.last_step = 0
        """The step of the newest checkpoint, or at which the run was resumed."""
        self.damaged_files: list[str] = []
        """Checkpoints that could not be read, each with the reason."""

    def is_due(self, point: MetricsEvent, run: Run) -> bool:
        """Whether to write a checkpoint after this event.

        Only if the run is still at the event's step: on a GPU, events are read in blocks.
        """
        if self._every is None or point.step != run.position.step:
            return False
        if self._per == "epoch":
            return point.is_epoch_end and point.epoch % self._every == 0
        return not point.is_epoch_end and point.step // self._every > self.last_step // self._every

    def save(self, state: RunState) -> Path:
        """Raises RecipeError if the file can't be written."""
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
            run = self.checkpoint_dir.parent
            first = "make room" if atomic_write.is_disk_full(error) else "fix that"
            last = f"the last one is {before[-1].name}" if before else "there is no earlier one"
            raise RecipeError(
                f"checkpoint: {path} can't be written: {error.strerror}; {last}; {first}, then "
                + run_dirs.format_command(f"resume {run.name}", run.parent.parent)
            ) from error
        self.last_step = step
        return path

    def _remove_old(self, newest: Path) -> None:
        """Removes all but the newest ones, and those of later steps, which are damaged or belong to
        an abandoned continuation."""
        older = [path for path in self.paths() if path < newest]
        beyond = [path for path in self.paths() if path > newest]
        for path in [*older[: max(0, len(older) + 1 - self._keep)], *beyond]:
            path.unlink()

    def remove_unneeded(self) -> None:
        """Removes the checkpoints that a finished run no longer needs. Raises OSError."""
        for path in list_removable_files(self.checkpoint_dir.parent, self._keep_finished):
            path.unlink()

    def paths(self) -> list[Path]:
        """The oldest first."""
        return list_checkpoints(self.checkpoint_dir.parent)

    def load_latest(self) -> RunState | None:
        """The newest checkpoint that can be read; None if there is none."""
        found = self.load_latest_with_path()
        return found[1] if found else None

    def load_latest_with_path(self) -> tuple[Path, RunState] | None:
        for stray in self.checkpoint_dir.glob(".*.tmp"):  # its writer was killed
            stray.unlink()
        for path in reversed(self.paths()):
            try:
                return path, read_checkpoint(path)
            except ValueError as error:
                self.damaged_files.append(f"{path.name} can't be read: {error}")
        return None


def read_checkpoint(path: Path) -> RunState:
    """The content of a checkpoint, verified by its checksums; no pickled code is run.

    Raises ValueError for any other file.
    """
    try:
        state = load_torch_file(path)
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():  # torch does not verify the checksums
                raise ValueError(f"{damaged} is damaged")
    except Exception as error:  # the unpickler's many ways to refuse
        raise ValueError("it is damaged or truncated") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        raise ValueError("it is not a checkpoint of this version of recipe")
    return state
