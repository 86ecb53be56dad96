"""What recording costs the loop: in one training loop, blocks of steps that record nothing, that
record on disk, and that record in MLflow as well take turns.

    python benchmarks/record_cost.py [minutes=4] [block=5] [key=value ...]

Prints the time a step takes on disk and in MLflow, over that of the blocks beside it that record
nothing: the median over the blocks, and the ratio of the sums. Evaluations are left out, the
start-up and the end as well: they are no part of the loop. On a machine with neighbours the ratios
differ by more than what is measured; then the last two lines say more: what the loop itself spends
on writing, and what the thread computes, of which a second costs the loop one to two.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recipe import compose, mlflow_feed
from recipe.build import build
from recipe.parts import part
from recipe.record import Recorder
from recipe.spec import RunSpec
from recipe.train import Point, train

QUIET = ("device=cpu", "device.threads=1", "epochs=100000")

KINDS = ("nothing", "disk", "mlflow")


@dataclass
class Recorders:
    disk: Recorder
    mlflow: Recorder
    open: threading.Event
    """MLflow is fed."""
    computed: list[float]
    """Seconds that the thread computed, piece by piece."""
    writing: list[float] = field(default_factory=list)
    """Seconds that the loop itself wrote, point by point."""

    @classmethod
    def make(cls, spec: RunSpec, outputs: Path) -> Recorders:
        made = []
        for kind in ("none", "local"):
            with compose.menu_folder():
                tracked = compose.Job((f"tracking={kind}",), ()).spec()
            recorder = Recorder(outputs, kind, part(tracked, "tracking")(outputs))
            recorder.parameters(spec.parameters())
            made.append(recorder)
        gate, feed = threading.Event(), made[1]._feed
        assert feed is not None
        piece = feed._sending.piece

        computed: list[float] = []

        def gated() -> bool:
            gate.wait()
            before = time.thread_time()
            more = piece()
            computed.append(time.thread_time() - before)
            return more

        feed._sending.piece = gated  # type: ignore[method-assign]
        return cls(made[0], made[1], gate, computed)


def blocks(spec: RunSpec, recorders: Recorders, minutes: float, block: float) -> Iterator[float]:
    """Seconds a step took, block after block, in the order of KINDS."""
    points: Iterator[Point] = iter(train(build(spec)))
    next(points)
    end = time.monotonic() + 60 * minutes
    for kind in itertools.cycle(KINDS):
        recorder = getattr(recorders, kind, None)
        (recorders.open.set if kind == "mlflow" else recorders.open.clear)()
        took, steps, began = 0.0, 0, time.monotonic()
        while time.monotonic() - began < block:
            before = time.perf_counter()
            point = next(points)
            if recorder:
                writing = time.perf_counter()
                recorder.metrics(point.step, point.metrics)
                recorders.writing.append(time.perf_counter() - writing)
            if not point.ends_epoch:
                took += time.perf_counter() - before
                steps += 1
        yield took / steps
        if kind == "mlflow" and time.monotonic() > end:
            return


def main(arguments: list[str]) -> None:
    given = {"minutes": 4.0, "block": 5.0}
    for key in given:
        found = [a for a in arguments if a.startswith(f"{key}=")]
        given[key] = float(found[-1].partition("=")[2]) if found else given[key]
    overrides = [a for a in arguments if a.partition("=")[0] not in given]
    with compose.menu_folder():
        spec = compose.Job((*QUIET, *overrides), ()).spec()
    mlflow_feed.SHARE /= len(KINDS)  # its rests go on while the others have their turn
    with tempfile.TemporaryDirectory() as folder:
        recorders = Recorders.make(spec, Path(folder))
        took = list(blocks(spec, recorders, **given))
        share = sum(recorders.computed) / (len(took) / len(KINDS) * given["block"])
        recorders.open.set()
        waited = time.perf_counter()
        for recorder in (recorders.disk, recorders.mlflow):
            recorder.close("FINISHED")
        waited = time.perf_counter() - waited
    nothing = took[::3]
    print(f"{1000 * statistics.median(nothing):.3f} ms a step, {len(nothing)} blocks of each")
    for index, kind in enumerate(KINDS[1:], start=1):
        # the block that records nothing lies before, and the next one after
        beside = [(a + b) / 2 for a, b in zip(nothing, [*nothing[1:], nothing[-1]], strict=True)]
        ratios = [one / other for one, other in zip(took[index::3], beside, strict=True)]
        whole = sum(took[index::3]) / sum(beside)
        print(
            f"{kind:8} median {statistics.median(ratios):.4f}  of the sums {whole:.4f}  "
            f"from {min(ratios):.3f} to {max(ratios):.3f}"
        )
    writing = statistics.median(recorders.writing) / statistics.median(nothing)
    print(f"writing took {100 * writing:.2f} % of a step; the thread computed {100 * share:.2f} %")
    print(f"MLflow had all of it {waited:.1f} s after the end; {recorders.mlflow.failure or ''}")


if __name__ == "__main__":
    main(sys.argv[1:])
