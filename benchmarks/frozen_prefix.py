"""What computing the frozen prefix once saves: whole training loops taking turns in one process.

    python benchmarks/frozen_prefix.py [rounds=3] [key=value ...]

Processor time of 10 epochs, keeping and evaluating included, against the same run with
freeze.cache=off and against the loop that most people write, which freezes nothing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from recipe import compose
from recipe.build import build
from recipe.spec import RunSpec
from recipe.train import train

QUIET = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=10", "data=random",
    "data.channels=3", "data.size=32", "data.classes=10", "data.n_train=1280", "data.n_val=320",
)  # fmt: skip

FROZEN = {
    "2 of 4 blocks": "freeze.names=['*1_*','*2_*']",
    "3 of 4 blocks": "freeze.names=['*1_*','*2_*','*3_*']",
    "all but the head": "freeze.names=['*1_*','*2_*','*3_*','*4_*']",
}


def spec(*overrides: str) -> RunSpec:
    with compose.menu_folder():
        return compose.Job((*QUIET, *overrides), ()).spec()


def ours(*overrides: str) -> float:
    """Seconds of the loop, with nothing kept from before."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(spec(*overrides, f"output_dir={folder}"))
        started = time.process_time()
        for _ in train(run):
            pass
        return time.process_time() - started


def plain(*overrides: str) -> float:
    """Seconds of a loop over a DataLoader, nothing frozen."""
    run = build(spec(*overrides))
    parts = [
        next(iter(part.batches([torch.arange(len(part))])))
        for part in (run.data.train, run.data.val)
    ]
    started = time.process_time()
    learns = DataLoader(TensorDataset(*parts[0]), run.batch_size, shuffle=True)
    looks = DataLoader(TensorDataset(*parts[1]), run.eval_batch_size)
    for _ in range(run.epochs):
        run.model.train()
        for inputs, targets in learns:
            run.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(run.model(inputs), targets)
            loss.backward()
            run.optimizer.step()
            loss.item()
        run.model.eval()
        with torch.no_grad():
            for inputs, targets in looks:
                (run.model(inputs).argmax(1) == targets).sum().item()
    return time.process_time() - started


def main(arguments: list[str]) -> None:
    rounds = next((int(a.partition("=")[2]) for a in arguments if a.startswith("rounds=")), 3)
    given = [a for a in arguments if not a.startswith("rounds=")]
    ours(*given, "epochs=2", "freeze=all_but_head")  # the first run pays for what torch sets up
    for name, names in FROZEN.items():
        frozen = (*given, "freeze=by_name", names)
        took = [
            (plain(*given), ours(*frozen), ours(*frozen, "freeze.cache=off")) for _ in range(rounds)
        ]
        loop, once, each = (statistics.median(times) for times in zip(*took, strict=True))
        print(
            f"{name}: {once:.2f} s; {loop / once:.1f} times less than a loop that freezes nothing,"
            f" {each / once:.1f} times less than freeze.cache=off",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
