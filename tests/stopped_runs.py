"""Runs that are stopped in a step of one's choice, by a part of a user's own."""

from __future__ import annotations

from pathlib import Path

import commands

PARTS = '''
import os
import signal
from pathlib import Path

import torch

from recipe.errors import RecipeError

calls = 0


def clip(params):
    """Measures; and at the call that a file says, signals come in, or it raises an error."""
    global calls
    calls += 1
    order = Path("signals")
    if order.exists() and calls == int(order.read_text().split()[0]):
        names = order.read_text().split()[1:]
        order.unlink()
        for name in names:
            if name == "error":
                raise RecipeError("it is to fail")
            os.kill(os.getpid(), getattr(signal, name))
    return torch.nn.utils.get_total_norm([p.grad for p in params])
'''

SMALL = (
    *commands.CPU, "trust=[parts]", "clip=mine", "epochs=3", "data=random", "data.n_train=20",
    "data.n_val=10", "data.channels=1", "data.size=16", "data.classes=3", "data.batch_size=8",
    "data.eval_batch_size=4", "model.widths=[2,4]", "model.dropout=0.2",
    "optimizer.momentum=0.9", "average=ema",
)  # fmt: skip
"""9 steps, 3 an epoch."""

QUIET = (*SMALL, "tracking=none")


def project(folder: Path) -> Path:
    return commands.project(
        folder, {"parts.py": PARTS, "conf/clip/mine.yaml": "_target_: parts.clip\n"}
    )


def stopped(folder: Path, *arguments: str, at: int = 5, by: str = "SIGINT") -> Path:
    """A run that a signal stopped in this step."""
    project(folder)
    (folder / "signals").write_text(f"{at} {by}")
    done = commands.run(folder, *arguments)
    assert done.status == {"SIGINT": 130, "SIGTERM": 143}[by.split()[-1]], done.err
    return commands.run_dirs(folder)[-1]
