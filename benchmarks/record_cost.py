"""What recording costs the loop: in one training loop, blocks of steps that record nothing and
blocks that record every step, on disk and in MLflow, take turns.

    python benchmarks/record_cost.py [minutes=4] [block=4] [key=value ...]

In the blocks that record nothing, the uploader is suspended. Prints the time of a
step that is recorded over that of the blocks beside it, the median over the blocks and the ratio of
the sums; the loop's own part of that, which is writing; and the processor time of the
uploader, as a share of the time that passes. Evaluations are left out, the start-up and the end
as well: they are no part of the loop. On a machine with neighbours the ratios differ by more than
what is measured; the other two numbers don't.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from recipe.config import compose
from recipe.config.instantiate import bind_component
from recipe.config.spec import RunSpec
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder
from recipe.training.build import build
from recipe.training.loop import MetricsEvent, train

QUIET = ("device=cpu", "device.threads=1", "epochs=100000")

SETTLED = 15.0
"""Seconds after which MLflow is imported and has the beginning of the run."""


def find_uploader() -> psutil.Process:
    (found,) = psutil.Process().children()
    return found


def computed(process: psutil.Process) -> float:
    """Seconds of the processor."""
    times = process.cpu_times()
    return float(times.user + times.system)


class Blocks:
    """Of steps of one loop."""

    def __init__(self, spec: RunSpec, recorder: Recorder) -> None:
        self._points: Iterator[MetricsEvent] = iter(train(build(spec)))
        self._recorder = recorder
        self.writing: list[float] = []
        """Seconds that the loop itself wrote, step by step."""

    def one(self, seconds: float, *, recorded: bool) -> float:
        """Seconds of a step of a block that is so long."""
        took, steps, began = 0.0, 0, time.monotonic()
        while time.monotonic() - began < seconds:
            before = time.perf_counter()
            point = next(self._points)
            if recorded:
                writing = time.perf_counter()
                self._recorder.log_metrics(point.step, point.metrics)
                self.writing.append(time.perf_counter() - writing)
            if not point.is_epoch_end:
                took += time.perf_counter() - before
                steps += 1
        return took / steps


def measure(spec: RunSpec, outputs: Path, minutes: float, block: float) -> None:
    with compose.composition_context():
        tracked = compose.Job(("tracking=local",), ()).to_spec()
    recorder = Recorder(outputs, "costs")
    uploads = UploadQueue(outputs, bind_component(tracked, "tracking")(outputs))
    uploads.request(recorder.run_dir)
    recorder.log_params(spec.to_parameters())
    blocks, uploader = Blocks(spec, recorder), find_uploader()
    blocks.one(SETTLED, recorded=True)
    before, nothing, everything, passed = computed(uploader), [], [], 0.0
    blocks.writing.clear()
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        uploader.suspend()
        nothing.append(blocks.one(block, recorded=False))
        uploader.resume()
        began = time.monotonic()
        everything.append(blocks.one(block, recorded=True))
        passed += time.monotonic() - began
    share = (computed(uploader) - before) / passed
    recorder.close("FINISHED")
    ratios = [one / other for one, other in zip(everything, nothing, strict=True)]
    step = statistics.median(nothing)
    print(f"{1000 * step:.2f} ms a step, {len(nothing)} blocks of each")
    print(
        f"recorded: median {statistics.median(ratios):.4f}, of the sums "
        f"{sum(everything) / sum(nothing):.4f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )
    print(f"writing takes {100 * statistics.median(blocks.writing) / step:.2f} % of a step")
    print(f"the uploader computes {100 * share:.2f} % of the time")
    with uploads:
        failure = uploads.wait([recorder.run_dir]).get(recorder.run_dir)
    print(failure or "MLflow has all of it")


def main(arguments: list[str]) -> None:
    given = {"minutes": 4.0, "block": 4.0}
    for key in given:
        found = [a for a in arguments if a.startswith(f"{key}=")]
        given[key] = float(found[-1].partition("=")[2]) if found else given[key]
    overrides = [a for a in arguments if a.partition("=")[0] not in given]
    with compose.composition_context():
        spec = compose.Job((*QUIET, *overrides), ()).to_spec()
    with tempfile.TemporaryDirectory() as folder:
        measure(spec, Path(folder), **given)


if __name__ == "__main__":
    main(sys.argv[1:])
