"""What a search by Optuna tries in these tests: the factor that gradients are multiplied by."""

from __future__ import annotations

import commands

PARTS = {
    "parts.py": """
import os, pathlib, signal
from torch.nn.utils import get_total_norm

def scale(params, *, factor: float):
    norm = get_total_norm([p.grad for p in params])
    for p in params:
        p.grad.mul_(factor)
    if factor == 13.0 and pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return norm
""",
    "conf/clip/scale.yaml": "_target_: parts.scale\nfactor: 1.0  # what gradients are scaled by\n",
    "conf/project/default.yaml": "trust: [parts]\n",
}

LITTLE = (
    *commands.CPU, "model=mlp", "model.hidden=[8]", "data.train_size=50", "data.batch_size=10",
    "data.size=8", "epochs=3", "clip=scale",
)  # fmt: skip
"""A small network on 50 digits in 5 batches an epoch."""
