"""What a step takes with an option, over what it takes without.

    python benchmarks/options.py [key=value ...] [-- with=it ...]

Two runs, of the first settings and of the same with one more, train by turns in one process, each
for blocks of steps; once for every setting after `--`, by default those of memory layout,
precision, compilation and optimizer. Prints the median over pairs of blocks, and their quartiles:
of the processor's time with one thread (OMP_NUM_THREADS=1), which neighbours hardly change, else
of the time that passes. Evaluations are left out.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from recipe.components import device
from recipe.config import compose
from recipe.training.build import build
from recipe.training.loop import MetricsEvent, train

OPTIONS = (
    "channels_last=false",
    "precision=bf16",
    "compile=true",
    "+optimizer.foreach=true",
    "+optimizer.fused=true",
    "optimizer=adam",
    "optimizer=adam +optimizer.foreach=true",
    "optimizer=adam +optimizer.fused=true",
)

PAIRS = 15

BLOCK = 0.4
"""Seconds."""


def steps(settings: tuple[str, ...]) -> Iterator[MetricsEvent]:
    with compose.composition_context():
        given = ("epochs=1000000", "device=cpu", *settings)
        return train(build(compose.Job(given, ()).to_spec()))


def block(running: Iterator[MetricsEvent], clock: Callable[[], float]) -> float:
    """Seconds of a step."""
    next(running)
    spent, done = 0.0, 0
    while spent < BLOCK:
        began = clock()
        if not next(running).is_epoch_end:
            spent, done = spent + clock() - began, done + 1
    return spent / done


def main() -> None:
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    settings, options = tuple(given[:cut]), given[cut + 1 :] or OPTIONS
    threads = device.thread_count("auto")
    clock = time.process_time if threads == 1 else time.perf_counter
    print(f"{device.cpu_name()}, {threads} threads, {' '.join(settings) or 'the default run'}")
    for option in options:
        base = [word for word in option.split() if word == "optimizer=adam"]
        without = (*settings, *base) if base != option.split() else settings
        both = steps(without), steps((*settings, *option.split()))
        for running in both:
            for _ in range(20):
                next(running)
        pairs = [[block(running, clock) for running in both] for _ in range(PAIRS)]
        low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        print(f"{option:45} {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main()
