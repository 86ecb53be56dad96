"""A run that is killed between any two of its file operations is taken up by the same command, and
then is what it would have been. The long form, `-m long`, tries every state; the other some."""

from __future__ import annotations

import shutil
from pathlib import Path

import commands
import pytest
from kill_snapshots import killed
from run_equality import finished, in_mlflow, recorded_alike

SMALL = (
    *commands.CPU, "epochs=2", "data=random", "data.n_train=20", "data.n_val=10",
    "data.channels=1", "data.size=16", "data.classes=3", "data.batch_size=8",
    "data.eval_batch_size=4", "model.widths=[2,4]", "model.dropout=0.2",
)  # fmt: skip
"""6 steps, and two evaluations."""

KINDS = {
    "every second step": ["checkpoint.per=step", "checkpoint.every=2", "average=ema"],
    # the clip never bites, which is a part of the result
    "every epoch": ["checkpoint.keep=1", "clip=norm", "clip.max_norm=1000", "freeze=vgg_first2"],
}


def states_and_end(folder: Path, *arguments: str) -> tuple[list[Path], Path]:
    """The states in which a run isn't finished, and the run as it is when nobody kills it."""
    (folder / "run").mkdir()
    states = killed(folder / "run", folder / "states", *arguments)
    unfinished = [s for s in states if not _is_finished(s)]
    assert len(unfinished) > 40
    shutil.copytree(folder / "run", folder / "end")
    return unfinished, finished(folder / "end")


def _is_finished(state: Path) -> bool:
    return any(commands.read_json(p)["status"] == "FINISHED" for p in state.rglob("run.json"))


def every_state_ends_alike(folder: Path, step: int, *arguments: str) -> None:
    states, end = states_and_end(folder, *arguments)
    tracks = "tracking=none" not in arguments
    for state in states[::step]:
        shutil.rmtree(folder / "run" / "outputs")
        if (state / "outputs").exists():
            shutil.copytree(state / "outputs", folder / "run" / "outputs")
        # MLflow keeps a database open for as long as the process lives
        command = commands.spawn if tracks else commands.run
        done = command(folder / "run", *arguments)
        assert done.status == 0, (state.name, done.err)
        try:
            recorded_alike(finished(folder / "run"), end)
            if tracks:
                in_mlflow(finished(folder / "run"))
        except AssertionError as error:
            raise AssertionError(f"killed in state {state.name}: {error}") from error


def test_run_killed_between_sampled_file_operations_ends_identically(tmp_path: Path) -> None:
    every_state_ends_alike(tmp_path, 12, *SMALL, *KINDS["every epoch"], "tracking=none")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_run_killed_between_any_two_file_operations_ends_identically(
    tmp_path: Path, kind: str
) -> None:
    every_state_ends_alike(tmp_path, 1, *SMALL, *KINDS[kind], "tracking=none")


@pytest.mark.long
def test_run_killed_during_mlflow_upload_ends_identically(tmp_path: Path) -> None:
    every_state_ends_alike(tmp_path, 2, *SMALL, *KINDS["every epoch"])
