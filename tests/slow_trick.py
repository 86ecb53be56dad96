"""Runs whose steps take a given time, so that something can happen during them."""

from __future__ import annotations

import commands

SLOW = {
    "slow.py": """
import os, time

def slowly(inputs, targets, generator):
    if not os.path.exists("hurry"):
        time.sleep(float(os.environ["EACH_STEP"]))
    return inputs, targets
""",
    "conf/augment/slow.yaml": "_target_: slow.slowly\n",
}
"""Changes nothing but the time that a step takes, until a file says that it may hurry."""


def command(epochs: int, *tracking: str) -> tuple[str, ...]:
    return (*commands.QUICK, f"epochs={epochs}", "augment=slow", "trust=[slow]", *tracking)
