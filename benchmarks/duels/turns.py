"""Things that are run in turn, A B A B, and how their times compare."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BENCHMARKS = Path(__file__).parent.parent

TOLERANCE = 1e-4
"""By how much final losses may differ; beyond it the work wasn't the same."""


@dataclass
class Took:
    """Seconds, children that ended included, and what came of it."""

    processor: float = 0.0
    wall: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Final ones, in an order of their own; as many as runs."""
    said: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Took) -> Took:
        return Took(
            self.processor + other.processor, self.wall + other.wall, self.losses + other.losses
        )


@contextmanager
def timed(took: Took) -> Iterator[None]:
    """Adds what the block takes in this process and in its children."""
    wall, processor = time.perf_counter(), _processor()
    yield
    took.wall += time.perf_counter() - wall
    took.processor += _processor() - processor


def _processor() -> float:
    own = psutil.Process()
    here = own.cpu_times()
    ended = here.children_user + here.children_system
    going = [child.cpu_times() for child in own.children(recursive=True)]
    return time.process_time() + ended + sum(each.user + each.system for each in going)


def process(
    arguments: Sequence[str], folder: Path, threads: int | None, *, status: int = 0
) -> tuple[Took, str]:
    """`python <arguments>` in `folder`, and what it printed; no number of threads leaves it to the
    command. Raises RuntimeError if its exit status is another."""
    paths = os.pathsep.join(map(str, (BENCHMARKS, BENCHMARKS.parent)))
    # what the peers would fetch or report at the start is not their loop
    quiet = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {**quiet, "PYTHONPATH": paths}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "printed").open("w+") as out, (folder / "complained").open("w+") as err:
        wall = time.perf_counter()
        started = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=out, stderr=err
        )
        _, ended, used = os.wait4(started.pid, 0)
        wall = time.perf_counter() - wall
        started.returncode = os.waitstatus_to_exitcode(ended)
        out.seek(0)
        err.seek(0)
        if started.returncode != status:
            told = err.read()[-2000:]
            raise RuntimeError(f"{' '.join(arguments)}: status {started.returncode}\n{told}")
        return Took(used.ru_utime + used.ru_stime, wall), out.read()


def module(name: str, *arguments: str, folder: Path, threads: int) -> Took:
    """A contestant that tells its Record in its last line."""
    took, printed = process(["-m", name, *arguments], folder, threads)
    took.said = json.loads(printed.splitlines()[-1])
    took.losses = took.said["val_loss"][-1:]
    return took


def recipe(*arguments: str, folder: Path, threads: int | None, status: int = 0) -> Took:
    """`python -m recipe <arguments>`; of its runs the final losses, by their names."""
    took, _ = process(["-m", "recipe", *arguments], folder, threads, status=status)
    ends = sorted((folder / "outputs" / "runs").glob("*/metrics.jsonl"), key=_name)
    for path in ends:
        values = last_epoch(path)
        took.losses.append(values["val/loss"])
        took.said["loop"] = took.said.get("loop", 0.0) + sum(map(float, each_epoch(path)))
    return took


def _name(path: Path) -> str:
    """A run's, which is made of what differs."""
    return str(json.loads((path.parent / "run.json").read_text())["name"])


def last_epoch(path: Path) -> dict[str, float]:
    """The metrics of the last evaluation in a journal."""
    return [values for values in _metrics(path) if "val/loss" in values][-1]


def each_epoch(path: Path, metric: str = "time/epoch_s") -> list[float]:
    """Its values in a journal."""
    return [values[metric] for values in _metrics(path) if metric in values]


def _metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in path.read_text().splitlines()]


def in_turn(contestants: Mapping[str, Callable[[int], Took]], rounds: int) -> dict[str, list[Took]]:
    """Each as often as there are rounds; it is told the number of the round."""
    took: dict[str, list[Took]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            took[name].append(run(number))
            last = took[name][-1]
            print(f"  {name}: {last.wall:.2f} s, processor {last.processor:.2f} s", flush=True)
    return took


def times(theirs: Sequence[Took], ours: Sequence[Took], what: str) -> float:
    """The median of how many times as long they took, round by round."""
    pairs = zip(theirs, ours, strict=True)
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs))


SAME_LAYOUT = "channels_last=false"
"""With it a recipe does the arithmetic of the others, which say nothing of a layout: in another one
the last bits differ, max pooling then takes another of two near values here and there, and after a
few steps the losses have gone apart. Whether the work is the same is seen with it."""


def void(theirs: Sequence[Took], ours: list[Took]) -> str:
    """Why two did not do the same work; empty if they did. One that is ours stands for all."""
    for a, b in zip(theirs, ours if len(ours) > 1 else ours * len(theirs), strict=True):
        if len(a.losses) != len(b.losses):
            return f"{len(a.losses)} final losses against {len(b.losses)}"
        apart = [abs(one - other) for one, other in zip(a.losses, b.losses, strict=True)]
        if not all(each <= TOLERANCE for each in apart):  # NaN isn't, either
            return f"final losses differ by {max(apart):.1e}"
    return ""
