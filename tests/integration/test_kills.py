"""SIGKILL at any instant: the same command takes the run up, and it ends bit for bit the same.

The long form, `pytest -m long tests/integration/test_kills.py`, kills 100 times.
"""

from __future__ import annotations

import functools
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import pytest
from run_equality import alike, finished, in_mlflow

BASE = (
    *commands.CPU, "data.train_size=200", "data.batch_size=20", "data.eval_batch_size=50",
    "model.widths=[8,16]", "model.dropout=0.2", "checkpoint.per=step", "checkpoint.every=3",
    "epochs=4",
)  # fmt: skip
"""10 steps an epoch, and an evaluation that takes about as long as they do."""

KINDS = {
    "gradual": [
        "freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*2_*']},{epoch: 2, names: ['*1_*']}]",
        "average=ema", "scheduler=plateau", "scheduler.patience=0", "augment=flip_crop",
    ],
    "groups": [
        "freeze=vgg_first2", "param_groups=head_faster", "clip=norm", "scheduler=one_cycle",
        "scheduler.per=step", "optimizer=adamw", "average=swa",
    ],
}  # fmt: skip

PHASES = ("start", "steps", "evaluation", "checkpoint")


class Killer:
    """Starts a command again and again, each time killing it in the phase that is asked for."""

    def __init__(self, folder: Path, *arguments: str, seed: int) -> None:
        self.folder, self.arguments = folder, arguments
        self.random = random.Random(seed)
        self.phases: Counter[str] = Counter()

    def kill(self, phase: str) -> bool:
        """Whether it could be killed; not if it was done before."""
        started = commands.start(self.folder, *self.arguments)
        try:
            self._wait_for(phase, started)
            done = started.poll() is not None
            started.send_signal(signal.SIGKILL)
        finally:
            started.communicate(timeout=60)
        if not done:
            self.phases[self._was_in()] += 1
        return not done

    def _wait_for(self, phase: str, started: subprocess.Popen[str]) -> None:
        known = self._lines()
        if phase == "start":
            time.sleep(self.random.uniform(0, 4))
            return
        wait = self.random.randint(1, 8)
        for _ in self._watched(started):
            lines = self._lines()
            if len(lines) < len(known) + wait:
                continue
            if phase == "steps":
                time.sleep(self.random.uniform(0, 0.02))
                return
            if phase == "evaluation" and self._evaluates(lines):
                return
            if phase == "checkpoint" and self._writes():
                return

    def _watched(self, started: subprocess.Popen[str]) -> Iterator[None]:
        while started.poll() is None:
            yield
            time.sleep(0.0005)

    @property
    def run(self) -> Path | None:
        found = commands.run_dirs(self.folder)
        return found[-1] if found else None

    def _lines(self) -> list[str]:
        path = self.run / "metrics.jsonl" if self.run else None
        return path.read_text().splitlines() if path and path.is_file() else []

    def _evaluates(self, lines: list[str]) -> bool:
        steps = [line for line in lines if "train/loss" in line]
        return len(steps) % 10 == 0 and "train/loss" in lines[-1]

    def _writes(self) -> bool:
        return self.run is not None and any((self.run / "checkpoints").glob(".*.tmp"))

    def _was_in(self) -> str:
        lines = self._lines()
        if self._writes():
            return "checkpoint"
        if not any("train/loss" in line for line in lines):
            return "start"
        return "evaluation" if self._evaluates(lines) else "steps"


def ended(folder: Path, *arguments: str) -> Path:
    """The run after the command, unless it was killed too late for that to go on with it."""
    states = [commands.read_json(path)["status"] for path in folder.rglob("run.json")]
    done = commands.run(folder, *(["sync"] if "FINISHED" in states else arguments))
    assert done.status == 0, done.err
    if "MLflow did not take all of it" in done.out:  # it isn't waited for where others compute, too
        done = commands.run(folder, "sync")
        assert done.status == 0, done.err
    return finished(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of a kind that nobody kills."""

    @functools.cache
    def made(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        assert commands.run(folder, *BASE, *KINDS[kind], "tracking=none").status == 0
        return finished(folder)

    return made


def test_run_killed_twice_gives_identical_results(
    tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    killer = Killer(tmp_path, *BASE, *KINDS["gradual"], seed=0)
    for phase in ("steps", "checkpoint"):
        assert killer.kill(phase), phase
    run = ended(tmp_path, *killer.arguments)
    alike(run, undisturbed("gradual"))
    in_mlflow(run)


@pytest.mark.long
def test_repeated_kills_leave_results_identical(
    tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    draw = random.Random(1)
    phases: Counter[str] = Counter()
    number = 0
    while phases.total() < 100:
        kind, tracking = draw.choice(sorted(KINDS)), draw.choice(["none", "none", "local"])
        folder = tmp_path / str(number)
        folder.mkdir()
        killer = Killer(folder, *BASE, *KINDS[kind], f"tracking={tracking}", seed=number)
        for _ in range(draw.randint(2, 6)):
            if not killer.kill(draw.choice(PHASES)):
                break
        run = ended(folder, *killer.arguments)
        alike(run, undisturbed(kind))
        if tracking == "local":
            in_mlflow(run)
        phases += killer.phases
        shutil.rmtree(folder)
        number += 1
        print(f"{number} runs ({kind}, {tracking}), killed in {dict(phases)}", flush=True)
    assert all(phases[phase] >= 10 for phase in PHASES), phases
