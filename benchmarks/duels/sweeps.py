"""A sweep of 12 runs, clip x scheduler x seed, against the same runs of template.py: in 12
processes in turn, and in one, as Hydra's own -m runs them. All record in MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from duels import turns, written
from duels.results import row
from duels.single import Rows, copied, empty_database
from duels.turns import BENCHMARKS, SAME_LAYOUT, Took, in_turn, void

TEMPLATE = str(BENCHMARKS / "duels" / "template.py")

GRID = {"clip": ("none", "norm"), "scheduler": ("constant", "exponential"), "seed": ("0", "1", "2")}

SHORT = ("epochs=2", "data.train_size=512")
"""A run of 16 steps, about two seconds on one thread."""

LONG = ("epochs=10", "data.train_size=512")


@dataclass(frozen=True)
class Sweep:
    """Of one job, in a folder with a job file for each seed."""

    what: str
    job: Sequence[str]
    frozen: Sequence[str] = ()
    blocks: int = 0
    """So many blocks of the network are frozen, for template.py."""
    grid: Mapping[str, Sequence[str]] = field(default_factory=lambda: GRID)

    @property
    def swept(self) -> list[str]:
        return [f"{key}={','.join(values)}" for key, values in self.grid.items()]

    @property
    def points(self) -> list[list[str]]:
        """The overrides of each run."""
        chosen = product(*self.grid.values())
        return [[f"{k}={v}" for k, v in zip(self.grid, each, strict=True)] for each in chosen]

    def write(self, folder: Path) -> None:
        for seed in self.grid["seed"]:
            written.write(folder / f"{seed}.pt", *self.job, f"seed={seed}")
        empty_database(folder / "empty.db")

    def ours(self, folder: Path, number: int, *more: str) -> Took:
        """Which shares out the machine by itself."""
        at = folder / f"ours-{number}"
        copied(folder / "empty.db", at / "outputs" / "mlflow.db")
        given = ("-m", *self.job, *self.frozen, *self.swept, *more)
        return turns.recipe(*given, folder=at, threads=None)

    def processes(self, folder: Path, threads: int, number: int) -> Took:
        took = Took()
        for place, point in enumerate(self.points):
            took += self._template(folder, threads, f"processes-{number}", place, *point)
        return took

    def one_process(self, folder: Path, threads: int, number: int) -> Took:
        return self._template(folder, threads, f"process-{number}", 0, "-m", *self.swept)

    def _template(self, folder: Path, threads: int, name: str, place: int, *given: str) -> Took:
        at = folder / f"{threads}-{name}"
        if place == 0:
            copied(folder / "empty.db", at / "mlflow.db")
        return template(
            *given, f"job={folder}", f"frozen={self.blocks}", folder=at, threads=threads
        )


def sweep(folder: Path, rounds: int, threads: Sequence[int]) -> Rows:
    return table(folder, rounds, threads, Sweep("a sweep of 12 runs", SHORT))


def head(folder: Path, rounds: int, threads: Sequence[int]) -> Rows:
    what = "a sweep of 12 runs, all but the head frozen"
    return table(folder, rounds, threads, Sweep(what, LONG, ("freeze=all_but_head",), 4))


def blocks(folder: Path, rounds: int, threads: Sequence[int]) -> Rows:
    names = ("freeze=by_name", "freeze.names=['*1_*','*2_*','*3_*']")
    what = "a sweep of 12 runs, 3 of 4 blocks frozen"
    return table(folder, rounds, threads, Sweep(what, LONG, names, 3))


def table(folder: Path, rounds: int, threads: Sequence[int], made: Sweep) -> Rows:
    made.write(folder)
    rows = []
    for count in threads:
        contestants = {
            "recipe -m": partial(made.ours, folder / str(count)),
            f"{len(made.points)} processes": partial(made.processes, folder, count),
            "one process": partial(made.one_process, folder, count),
        }
        copied(folder / "empty.db", folder / str(count) / "empty.db")
        took = in_turn(contestants, rounds)
        ours = took.pop("recipe -m")
        same = made.ours(folder / str(count), -1, SAME_LAYOUT)
        for against, theirs in took.items():
            said = f"Hydra and MLflow, {against}"
            because = void(theirs, [same])
            rows.append(row(made.what, said, count, theirs, ours, because=because))
    return rows


def template(*arguments: str, folder: Path, threads: int) -> Took:
    """Runs of template.py, and each one's final loss."""
    took, printed = turns.process([TEMPLATE, *arguments], folder, threads)
    lines = [line.split() for line in printed.splitlines() if line.startswith("epoch ")]
    ends = [line for line, after in zip(lines, [*lines[1:], ["", "1:"]], strict=True)
            if after[1] == "1:"]  # fmt: skip
    took.losses = [float(line[3].rstrip(",")) for line in ends]
    return took
