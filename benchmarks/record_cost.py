"""What recording costs the loop: whole training loops that record nothing, on disk, and in MLflow
as well, taking turns in one process.

    python benchmarks/record_cost.py [rounds=5] [key=value ...]

Prints the time from the first point to the last, as a ratio to the loop that records nothing, for
every round and the medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from recipe import compose
from recipe.build import build
from recipe.parts import part
from recipe.record import Recorder
from recipe.spec import RunSpec
from recipe.train import train

QUIET = ("device=cpu", "device.threads=1")

KINDS = ("nothing", "none", "local")


def seconds(spec: RunSpec, outputs: Path) -> float:
    """From the first point to the last; what comes before and after is no part of the loop."""
    run, recorder = build(spec), None
    if spec.options["tracking"] != "nothing":
        recorder = Recorder(outputs, "cost", part(spec, "tracking")(outputs))
        recorder.parameters(spec.parameters())
        recorder.tags({"recipe.variant": spec.label})
        recorder.text("spec.yaml", spec.to_yaml())
    points = train(run)
    next(points)
    started = time.perf_counter()
    for point in points:
        if recorder:
            recorder.metrics(point.step, point.metrics)
    took = time.perf_counter() - started
    if recorder:
        waited = time.perf_counter()
        recorder.close("FINISHED")
        waited = time.perf_counter() - waited
        print(f"  {recorder.failure or ''} closed in {waited:.1f} s", end="")
    return took


def main(arguments: list[str]) -> None:
    rounds = next((int(a.partition("=")[2]) for a in arguments if a.startswith("rounds=")), 5)
    overrides = [a for a in arguments if not a.startswith("rounds=")]
    specs = {}
    with compose.menu_folder():
        for kind in KINDS:
            option = "none" if kind == "nothing" else kind
            specs[kind] = compose.Job((*QUIET, *overrides, f"tracking={option}"), ()).spec()
    specs["nothing"].options["tracking"] = "nothing"  # type: ignore[index]
    ratios: dict[str, list[float]] = {"none": [], "local": [], "local/none": []}
    with tempfile.TemporaryDirectory() as folder:
        seconds(specs["nothing"], Path(folder))  # the first run pays for what torch sets up
        for number in range(rounds):
            order = KINDS if number % 2 else KINDS[::-1]
            took = {kind: seconds(specs[kind], Path(folder) / str(number)) for kind in order}
            ratios["none"].append(took["none"] / took["nothing"])
            ratios["local"].append(took["local"] / took["nothing"])
            ratios["local/none"].append(took["local"] / took["none"])
            said = "  ".join(f"{kind} {ratio[-1]:.3f}" for kind, ratio in ratios.items())
            print(f"\n{took['nothing']:.2f} s: {said}", flush=True)
    for kind, found in ratios.items():
        print(f"median {kind} {statistics.median(found):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
