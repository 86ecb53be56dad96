"""One run against the plain loop: the whole process, and the loop alone.

The job is recipe's default one, made smaller: a VGG of 147,002 parameters on the handwritten
digits. The loop against the one "in the same layout" does the same arithmetic; the default run
has the channels last and keeps its memory, which are choices that anyone could make, if they
knew. What is done with memory is a whole process's, so that each of the two has one.
"""

from __future__ import annotations

import gc
import io
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from mlflow import MlflowClient
from rich.console import Console

from duels import plain, turns, written
from duels.job import Job
from duels.results import number, row, seconds
from duels.turns import SAME_LAYOUT, Took, in_turn, timed, times, void
from recipe.components import device
from recipe.config.instantiate import bind_component
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner import plan
from recipe.runner.fit import fit
from recipe.runner.recorder import Recorder
from recipe.training.build import build
from recipe.training.loop import train

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
    path = written.write(folder / "job.pt", *job)
    plainly, rows = Job.read(path), []
    for count in threads:
        settings = (*job, computing_with(count))
        contestants: dict[str, Callable[[int], Took]] = {
            "plain, channels last": partial(plain_loop, plainly, torch.channels_last),
            "recipe": partial(recorded, folder / f"loop-{count}", settings),
            "recipe, all of it": partial(entire, folder / f"entire-{count}", settings),
        }
        for run in contestants.values():
            run(-1)  # the first pays for what torch sets up
        took = in_turn(contestants, rounds)
        for what, against, ours in (
            ("the loop, every step recorded", "plain loop in the same layout that records nothing",
             "recipe"),
            ("the same with audit and checkpoints", "the same", "recipe, all of it"),
        ):  # fmt: skip
            rows.append(row(what, against, count, took["plain, channels last"], took[ours]))
        rows.append(_default(folder / f"default-{count}", rounds, count, path, job))
    return rows


def _default(folder: Path, rounds: int, threads: int, path: Path, job: Sequence[str]) -> list[str]:
    """The loops of two processes, as they tell the time themselves."""

    def ours(number: int, *settings: str) -> Took:
        return turns.recipe(*job, *settings, folder=folder / f"ours-{number}", threads=threads)

    def theirs(number: int) -> Took:
        return turns.module("duels.plain", str(path), folder=folder / "theirs", threads=threads)

    took = in_turn({"recipe": ours, "plain": theirs}, rounds)
    because = void(took["plain"], [ours(-1, SAME_LAYOUT)])
    loops = {
        name: [Took(wall=each.said["loop"]) for each in each_round]
        for name, each_round in took.items()
    }
    ratio = number(times(loops["plain"], loops["recipe"], "wall"))
    median = statistics.median(each.wall for each in loops["recipe"])
    what, against = "the default loop, every step recorded", "plain loop that keeps them in a list"
    return [what, against, str(threads), str(rounds), "-",
            f"void: {because}" if because else ratio, seconds(median)]  # fmt: skip


def computing_with(threads: int) -> str:
    """This process; the setting that says the same of a recipe."""
    device.set_environment(device.thread_environment(threads))
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
    run, (recorder, uploads) = build(spec), _recorder(folder / str(number))
    took, loss = Took(), 0.0
    gc.collect()
    with timed(took):
        for point in train(run):
            recorder.log_metrics(point.step, point.metrics)
            loss = point.metrics.get("val/loss", loss)
    took.losses = [loss]
    recorder.close("FINISHED")
    with uploads:
        uploads.wait([recorder.run_dir])
    return took


def entire(folder: Path, settings: Sequence[str], number: int) -> Took:
    """What a run does from its first step to its last: checkpoints, audit, progress."""
    spec = written.spec("device=cpu", f"output_dir={folder / str(number)}", *settings)
    run, (recorder, uploads) = build(spec), _recorder(folder / str(number))
    planned, took = plan.make_plan(spec, run), Took()
    gc.collect()
    with timed(took):
        outcome = fit(recorder, planned, Console(file=io.StringIO()))
    took.losses = [outcome.history["val/loss"][-1][1]]
    recorder.close("FINISHED")
    with uploads:
        uploads.wait([recorder.run_dir])
    return took


def _recorder(folder: Path) -> tuple[Recorder, UploadQueue]:
    """A recorder, and the queue of its uploads, whose process has created the run in MLflow."""
    tracked = written.spec("tracking=local", f"output_dir={folder}")
    recorder = Recorder(folder, "loop")
    recorder.log_params(tracked.to_parameters())
    uploads = UploadQueue(folder, bind_component(tracked, "tracking")(folder))
    uploads.request(recorder.run_dir)
    while uploads.get_mlflow_run_id(recorder.run_dir) is None:
        time.sleep(0.001)
    return recorder, uploads
