"""What the audit costs: training loops with and without it, step by step in turn in one process.

    python benchmarks/audit_cost.py [rounds=5] [key=value ...]

Prints processor time with the audit over without it, for every pair and their median.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator

from recipe.audit.auditor import Audit
from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.training.build import build
from recipe.training.loop import train

QUIET = ("device=cpu", "device.threads=1", "tracking=none")


def loop(spec: RunSpec, *, audited: bool) -> Iterator[None]:
    """A step or an evaluation at a time; the audit's own preparations belong to the first."""
    run = build(spec)
    yield
    if audited:
        with Audit(spec, run) as audit:
            for point in train(run):
                audit.check(point)
                yield
    else:
        for _ in train(run):
            yield


def pair(spec: RunSpec, *, first: bool) -> float:
    """Processor time of the audited loop over that of the other, step by step in turn, which
    whatever else the machine does meets alike; `first`: whether the audited one begins."""
    order = (True, False) if first else (False, True)
    loops = {audited: loop(spec, audited=audited) for audited in order}
    took = dict.fromkeys(order, 0.0)
    for each in loops.values():
        next(each)  # builds it
    while loops:
        for audited, each in list(loops.items()):
            started = time.process_time()
            if next(each, END) is END:
                del loops[audited]
            took[audited] += time.process_time() - started
    print(f"{took[True]:.2f} s / {took[False]:.2f} s = {took[True] / took[False]:.3f}", flush=True)
    return took[True] / took[False]


END = object()


def main(arguments: list[str]) -> None:
    rounds = next((int(a.partition("=")[2]) for a in arguments if a.startswith("rounds=")), 5)
    overrides = [a for a in arguments if not a.startswith("rounds=")]
    with compose.composition_context():
        spec = compose.Job((*QUIET, *overrides), ()).to_spec()
    for _ in loop(spec, audited=False):
        pass  # the first run pays for what torch sets up
    ratios = [pair(spec, first=number % 2 == 1) for number in range(rounds)]
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
