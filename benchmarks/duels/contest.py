"""The peers: every one that is installed does the same job, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from duels import turns, written
from duels.job import Job
from duels.results import installed, number
from duels.single import Rows
from duels.turns import SAME_LAYOUT, Took, in_turn, times, void

COLUMNS = ("peer", "job", "threads", "rounds", "process, processor time", "process", "its loop")

PEERS = {
    "accelerate": "accelerate",
    "fastai": "fastai",
    "ignite": "pytorch-ignite",
    "lightning": "lightning",
    "skorch": "skorch",
    "transformers": "transformers",
}
"""The module in duels.peers, and the distribution that it needs."""

TINY = ("data.channels=3", "model.widths=[4,8,12,16]", "data.train_size=512", "epochs=4")

LARGE = ("data.channels=3", "model.widths=[32,64,128,200]", "data.train_size=320", "epochs=2")


def tiny(folder: Path, rounds: int, threads: Sequence[int]) -> Rows:
    return table(folder, rounds, threads, TINY)


def large(folder: Path, rounds: int, threads: Sequence[int]) -> Rows:
    return table(folder, rounds, threads, LARGE)


def table(folder: Path, rounds: int, threads: Sequence[int], overrides: Sequence[str]) -> Rows:
    """How many times the plain loop's time each takes; none of them but recipe's second row
    records in MLflow."""
    path = written.write(folder / "job.pt", *overrides)
    job = Job.read(path)
    parameters = sum(parameter.numel() for parameter in job.network().parameters())
    what = f"{parameters:,} parameters, {job.steps} steps"
    rows = []
    for count in threads:
        took = in_turn(_contestants(path, overrides, folder / str(count), count), rounds)
        same = turns.recipe(
            *overrides, SAME_LAYOUT, "tracking=none", folder=folder / "same", threads=count
        )
        plain = took.pop("plain loop")
        rows.append(["plain loop", what, str(count), str(rounds), "1.00", "1.00", "1.00"])
        for name, theirs in took.items():
            ratios = [number(times(theirs, plain, kind)) for kind in ("processor", "wall")]
            loops = [Took(wall=each.said["loop"]) for each in theirs]
            plain_loops = [Took(wall=each.said["loop"]) for each in plain]
            ratios.append(number(times(loops, plain_loops, "wall")))
            if because := void(plain, [same] if name.startswith("recipe") else theirs):
                ratios = [f"void: {because}", "-", "-"]
            rows.append([name, what, str(count), str(rounds), *ratios])
    return rows


def _contestants(
    path: Path, overrides: Sequence[str], folder: Path, threads: int
) -> dict[str, Callable[[int], Took]]:
    def program(name: str, *given: str) -> Callable[[int], Took]:
        place = folder / "-".join((name.rpartition(".")[2], *given))
        return lambda _: turns.module(name, str(path), *given, folder=place, threads=threads)

    def recipe(number: int, tracking: str) -> Took:
        place = folder / f"recipe-{tracking}-{number}"
        return turns.recipe(*overrides, f"tracking={tracking}", folder=place, threads=threads)

    found = {"plain loop": program("duels.plain")}
    for name, distribution in PEERS.items():
        if version := installed(distribution):
            found[f"{distribution} {version}"] = program(f"duels.peers.{name}")
            found[f"{distribution}, lean"] = program(f"duels.peers.{name}", "lean")
    found["recipe, with no MLflow"] = partial(recipe, tracking="none")
    found["plain loop with MLflow per epoch"] = program("duels.plain", "mlflow")
    found["recipe, with MLflow per step"] = partial(recipe, tracking="local")
    return found
