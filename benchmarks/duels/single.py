"""One run against the plain loop: the whole process, and the loop alone.

The job is recipe's default one, made smaller: a VGG of 147,002 parameters on the handwritten
digits. The loop against the one "in the same layout" does the same arithmetic; the default run
has the channels last, which is a choice that anyone could make, if they knew.
"""

from __future__ import annotations

import gc
import io
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from mlflow import MlflowClient
from rich.console import Console

from duels import plain, turns, written
from duels.job import Job
from duels.results import row
from duels.turns import SAME_LAYOUT, Took, in_turn, timed, void
from recipe import device, plan
from recipe.build import build
from recipe.parts import part
from recipe.record import Recorder
from recipe.train import train
from recipe.training import train_recorded

Rows = list[list[str]]

SMALL = ("data.train_size=512", "epochs=3")
"""24 steps."""

LOOP = ("epochs=4",)
"""92 steps."""


def process(folder: Path, rounds: int, threads: Sequence[int], job: Sequence[str] = SMALL) -> Rows:
    """The whole process, MLflow included, whose database is there already."""
    written.write(folder / "job.pt", *job)
    empty_database(folder / "empty.db")
    what = f"a whole run of {Job.read(folder / 'job.pt').steps} steps, MLflow included"
    rows = []
    for count in threads:
        contestants = {
            "recipe": partial(_ours, folder, job, count),
            "plain loop": partial(_theirs, folder, count),
        }
        ours, theirs = in_turn(contestants, rounds).values()
        because = void(theirs, [_ours(folder, (*job, SAME_LAYOUT), count, -1)])
        rows.append(row(what, "plain loop, MLflow per epoch", count, theirs, ours, because=because))
    return rows


def _ours(folder: Path, job: Sequence[str], threads: int, number: int) -> Took:
    at = folder / f"ours-{threads}-{number}"
    copied(folder / "empty.db", at / "outputs" / "mlflow.db")
    return turns.recipe(*job, folder=at, threads=threads)


def _theirs(folder: Path, threads: int, number: int) -> Took:
    at = folder / f"theirs-{threads}-{number}"
    copied(folder / "empty.db", at / "mlflow.db")
    job = str(folder / "job.pt")
    return turns.module("duels.plain", job, "mlflow", folder=at, threads=threads)


def empty_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def copied(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, to)


def loop(folder: Path, rounds: int, threads: Sequence[int], job: Sequence[str] = LOOP) -> Rows:
    """The loop alone, after everything was imported and made."""
    plainly = Job.read(written.write(folder / "job.pt", *job))
    rows = []
    for count in threads:
        settings = (*job, computing_with(count))
        contestants: dict[str, Callable[[int], Took]] = {
            "plain": partial(plain_loop, plainly, torch.contiguous_format),
            "plain, channels last": partial(plain_loop, plainly, torch.channels_last),
            "recipe": partial(recorded, folder / f"loop-{count}", settings),
            "recipe, all of it": partial(entire, folder / f"entire-{count}", settings),
        }
        for run in contestants.values():
            run(-1)  # the first pays for what torch sets up
        took = in_turn(contestants, rounds)
        same = recorded(folder / f"same-{count}", (*settings, SAME_LAYOUT), 0)
        for what, against, ours, theirs in (
            ("the loop, every step recorded", "plain loop in the same layout that records nothing",
             "recipe", "plain, channels last"),
            ("the same with audit and checkpoints", "the same",
             "recipe, all of it", "plain, channels last"),
            ("the default loop, every step recorded", "plain loop that records nothing",
             "recipe", "plain"),
        ):  # fmt: skip
            because = void(took[theirs], [same]) if theirs == "plain" else None
            rows.append(row(what, against, count, took[theirs], took[ours], because=because))
    return rows


def computing_with(threads: int) -> str:
    """This process; the setting that says the same of a recipe."""
    device.apply(device.thread_environment(threads))
    torch.set_num_threads(threads)
    return f"device.threads={threads}"


def plain_loop(job: Job, layout: torch.memory_format, number: int) -> Took:
    """Losses of the step are read, as most loops do, and nothing is kept."""
    network, took = job.network().to(memory_format=layout), Took()  # type: ignore[call-overload]
    gc.collect()
    with timed(took):
        loss, _ = plain.train(job, network, None)
    took.losses = [loss]
    return took


def recorded(folder: Path, settings: Sequence[str], number: int) -> Took:
    """The loop and the record of its points, in MLflow as well, which is fed meanwhile."""
    spec = written.spec("device=cpu", f"output_dir={folder / str(number)}", *settings)
    run, recorder = build(spec), _recorder(folder / str(number))
    took, loss = Took(), 0.0
    gc.collect()
    with timed(took):
        for point in train(run):
            recorder.metrics(point.step, point.metrics)
            loss = point.metrics.get("val/loss", loss)
    took.losses = [loss]
    recorder.close("FINISHED")
    return took


def entire(folder: Path, settings: Sequence[str], number: int) -> Took:
    """What a run does from its first step to its last: checkpoints, audit, progress."""
    spec = written.spec("device=cpu", f"output_dir={folder / str(number)}", *settings)
    run, recorder = build(spec), _recorder(folder / str(number))
    planned, took = plan.make(spec, run), Took()
    gc.collect()
    with timed(took):
        outcome = train_recorded(recorder, planned, Console(file=io.StringIO()))
    took.losses = [outcome.history["val/loss"][-1][1]]
    recorder.close("FINISHED")
    return took


def _recorder(folder: Path) -> Recorder:
    """Whose process is there, and knows the run."""
    tracked = written.spec("tracking=local", f"output_dir={folder}")
    recorder = Recorder(folder, "loop", part(tracked, "tracking")(folder))
    recorder.parameters(tracked.parameters())
    while recorder.mlflow_run_id is None:
        assert recorder.failure is None, recorder.failure
    return recorder
