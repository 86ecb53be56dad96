"""How many threads pay for a model, alone and beside a busy process.

    python benchmarks/threads.py [key=value ...]

In one training loop blocks of steps with one thread and with as many as there are cores take
turns; once more with one process that computes without pause. Prints, for several models, the
multiply-adds of a step's forward pass, the time of a step with one thread, and the time with all of
them over that, medians of the blocks; alone, and beside the busy process. With key=value the model
is the one of these settings.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from recipe.components.device import count_available_cores, thread_environment

MODELS = (
    ("model=mlp", "model.hidden=[32]"),
    ("model=mlp",),
    ("model.widths=[4,8]",),
    ("model.widths=[4,8]", "data.batch_size=16"),
    ("model.widths=[8,16]",),
    ("model.widths=[8,16,32]",),
    (),
    ("model=resnet",),
)

BLOCKS = 12
"""Of either kind."""

BLOCK = 0.25
"""Seconds."""


LINE = "{:45} {:>13} {:>15} {:>9} {:>22}"


def measured(settings: tuple[str, ...], counts: tuple[int, ...]) -> None:
    """In a process of its own, whose environment has the threads."""
    import torch

    from recipe.config import compose
    from recipe.runner import plan
    from recipe.training.build import build
    from recipe.training.loop import train

    with compose.composition_context():
        given = ("epochs=1000000", "device=cpu", f"device.threads={max(counts)}", *settings)
        run = build(compose.Job(given, ()).to_spec())
    adds = (plan.summarize_model(run).multiply_adds or 0) * run.batch_size
    steps = train(run)
    for _ in range(50):
        next(steps)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(BLOCKS):
        for count in counts:
            torch.set_num_threads(count)
            next(steps)
            began, done = time.perf_counter(), 0
            while time.perf_counter() < began + BLOCK or done < 3:
                done += not next(steps).is_epoch_end
            times[count].append((time.perf_counter() - began) / done)
    one, all_ = (statistics.median(times[count]) for count in counts)
    print(f"{adds:.3g} {1000 * one:.2f} {all_ / one:.2f}")


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        return measured(tuple(sys.argv[2:]), (1, count_available_cores()))
    models = (tuple(sys.argv[1:]),) if sys.argv[1:] else MODELS
    heads = (
        "multiply-adds",
        "ms, one thread",
        f"{count_available_cores()} over 1",
        "beside a busy process",
    )
    print(LINE.format("", *heads))
    for settings in models:
        told = []
        for neighbours in (0, 1):
            with busy(neighbours):
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", *settings],
                    env=os.environ | thread_environment(count_available_cores()),
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
            told.append(done.stdout.split())
        (adds, one, alone), (_, _, beside) = told
        name = " ".join(settings) or "the default"
        print(LINE.format(name, adds, one, alone, beside), flush=True)


if __name__ == "__main__":
    main()
