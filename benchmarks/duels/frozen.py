"""What computing the frozen layers once saves: 10 epochs, keeping and evaluating included.

Against the loop that most people write with nothing frozen, and against the same run with
freeze.cache=off, which gives the same bits.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from duels import written
from duels.job import Job
from duels.results import row
from duels.single import Rows, computing_with, plain_loop
from duels.turns import Took, in_turn, timed
from recipe.training.build import build
from recipe.training.loop import train

JOB = (
    "epochs=10", "data=random", "data.channels=3", "data.size=32", "data.classes=10",
    "data.n_train=1280", "data.n_val=320",
)  # fmt: skip

FROZEN = {
    "2 of 4 blocks": ("freeze=by_name", "freeze.names=['*1_*','*2_*']"),
    "3 of 4 blocks": ("freeze=by_name", "freeze.names=['*1_*','*2_*','*3_*']"),
    "all but the head": ("freeze=all_but_head",),
}


def recipe(settings: Sequence[str], frozen: Sequence[str], number: int) -> Took:
    """The loop, with nothing kept from before; `said` has the trained weights."""
    took = Took()
    with tempfile.TemporaryDirectory() as folder:
        run = build(written.spec("device=cpu", *settings, *frozen, f"output_dir={folder}"))
        gc.collect()
        with timed(took):
            for point in train(run):
                losses = point.metrics.get("val/loss"), point.metrics.get("train/loss")
                took.losses += [loss for loss in losses if loss is not None]
        took.said = dict(run.model.state_dict())
    return took


def plainly(job: Job, number: int) -> Took:
    return plain_loop(job, torch.contiguous_format, number)


def table(folder: Path, rounds: int, threads: Sequence[int], job: Sequence[str] = JOB) -> Rows:
    nothing = Job.read(written.write(folder / "job.pt", *job))
    rows = []
    for count in threads:
        settings = (*job, computing_with(count))
        recipe(settings, ("epochs=2", "freeze=all_but_head"), -1)  # pays for what torch sets up
        for name, frozen in FROZEN.items():
            took = in_turn(
                {
                    "plain, nothing frozen": partial(plainly, nothing),
                    "recipe": partial(recipe, settings, frozen),
                    "cache off": partial(recipe, settings, (*frozen, "freeze.cache=off")),
                },
                rounds,
            )
            plain, once, each = took.values()
            what = f"{name} frozen, {nothing.epochs} epochs"
            because = "" if all(map(same_bits, once, each)) else "the bits differ"
            rows += [
                row(what, "plain loop, nothing frozen", count, plain, once, because=because),
                row(what, "`freeze.cache=off`", count, each, once, because=because),
            ]
    return rows


def same_bits(one: Took, other: Took) -> bool:
    """In every recorded loss and every weight."""
    return one.losses == other.losses and all(
        torch.equal(tensor, other.said[name]) for name, tensor in one.said.items()
    )
