"""What the audit costs: whole training loops with and without it, taking turns in one process.

    python benchmarks/audit_cost.py [rounds=5] [key=value ...]

Prints processor time with the audit over without it, for every pair and their median.
"""

from __future__ import annotations

import statistics
import sys
import time

from recipe import compose
from recipe.audit import Audit
from recipe.build import build
from recipe.spec import RunSpec
from recipe.train import train

QUIET = ("device=cpu", "device.threads=1", "tracking=none")


def seconds(spec: RunSpec, *, audited: bool) -> float:
    """Processor time of the loop, the audit's own preparations included."""
    run = build(spec)
    started = time.process_time()
    if audited:
        with Audit(spec, run) as audit:
            for point in train(run):
                audit.look(point)
    else:
        for _ in train(run):
            pass
    return time.process_time() - started


def main(arguments: list[str]) -> None:
    rounds = next((int(a.partition("=")[2]) for a in arguments if a.startswith("rounds=")), 5)
    overrides = [a for a in arguments if not a.startswith("rounds=")]
    with compose.menu_folder():
        spec = compose.Job((*QUIET, *overrides), ()).spec()
    seconds(spec, audited=False)  # the first run pays for what torch sets up
    ratios = []
    for number in range(rounds):
        order = (True, False) if number % 2 else (False, True)
        took = {audited: seconds(spec, audited=audited) for audited in order}
        ratios.append(took[True] / took[False])
        print(f"{took[True]:.2f} s / {took[False]:.2f} s = {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
