"""What more processes give: of one run, of a sweep by each launcher, and of MLflow's server.

    python benchmarks/scaling.py [shared] [launchers] [record] [rounds=3] [uri=<address>]

`shared` is one run by one process and by two, a thread each, in turn: samples a second in the loop
(the median over the epochs but the first, over the rounds), and the ratio to one process. The batch
is that of the run, so two processes have half of it each: what the ratio lacks to 2 is what they
tell each other, and what each does for itself.

`launchers` is a sweep of 12 short runs by each launcher that is installed, a thread each, by one
worker and by two: seconds by the clock, and what a run costs beside its loop, in seconds of
processor time: all that the sweep took, less 12 times the loop of a run that has the machine for
itself. submitit's executor of this machine starts all 12 at once. Ray's processes are nobody's
children, so what they take isn't counted, nor told.

`record` is how many points a second MLflow takes, from one run and from four at a time: into the
database file, and by the server at `uri` if one is given.

It needs two idle cores: on a machine with neighbours two processes wait for one another at every
step, and the ratio says more of the neighbours.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from duels import turns
from duels.sweeps import SHORT

ONE_RUN = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=4", "data=random",
    "data.n_train=1024", "data.n_val=64", "checkpoint.every=null", "again=true",
)  # fmt: skip

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")

RUNS = 12

SWEEP = ("-m", "device=cpu", "device.threads=1", f"seed=range({RUNS})", *SHORT)

LAUNCHERS = {
    "workers": ("hydra.launcher.workers={}",),
    "basic": (),
    "ray": ("+hydra.launcher.init.num_cpus={}",),
    "submitit_local": (),
}
"""How each is told its number of workers; not at all: it has its own."""

POINTS = 20_000


def shared(rounds: int, uri: str) -> None:
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, speeds in found.items():
            speeds.append(_speed(processes))
    alone = statistics.median(found[1])
    print("\nprocesses  samples/s  ratio")
    for processes, speeds in found.items():
        median = statistics.median(speeds)
        print(f"{processes:9}  {median:9.0f}  {median / alone:5.2f}")


def _speed(processes: int) -> float:
    """Samples a second of one run, over its epochs but the first."""
    program = () if processes == 1 else (*TORCHRUN, str(processes), "-m")
    with tempfile.TemporaryDirectory() as folder:
        turns.process(["-m", *program, "recipe", *ONE_RUN], Path(folder), threads=1)
        (journal,) = Path(folder).glob("outputs/runs/*/metrics.jsonl")
        return statistics.median(turns.each_epoch(journal, "time/samples_per_s")[1:])


def launchers(rounds: int, uri: str) -> None:
    there = {name: own for name, own in LAUNCHERS.items() if _installed(name)}
    cases = [(name, own, count) for name, own in there.items() for count in (1, 2)[: 1 + len(own)]]
    took: dict[tuple[str, int], list[turns.Took]] = {}
    for _ in range(rounds):
        for name, own, count in cases:
            given = [f"hydra/launcher={name}", *(text.format(count) for text in own)]
            with tempfile.TemporaryDirectory() as folder:
                found = turns.recipe(*SWEEP, *given, folder=Path(folder), threads=None)
            assert len(found.losses) == RUNS, f"{name}: {len(found.losses)} runs"
            took.setdefault((name, count), []).append(found)
    loops = statistics.median(found.said["loop"] for found in took["basic", 1])
    print("\nlauncher        workers   wall s  beside its loop, s a run")
    for (name, count), each in took.items():
        wall = statistics.median(found.wall for found in each)
        beside = statistics.median(found.processor - loops for found in each) / RUNS
        told = "-" if name == "ray" else f"{beside:.2f}"
        workers = RUNS if name == "submitit_local" else count
        print(f"{name:15} {workers:7}  {wall:7.1f}  {told:>8}")


def _installed(launcher: str) -> bool:
    library = {"ray": "ray", "submitit_local": "submitit"}.get(launcher)
    return library is None or importlib.util.find_spec(library) is not None


RECORDING_PROGRAM = """
import sys
from pathlib import Path
from recipe.components.tracking import Tracking
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder

folder, name, uri, points = sys.argv[1:]
recorder = Recorder(Path(folder), name)
with UploadQueue(Path(folder), Tracking(uri, "scaling")) as uploads:
    uploads.request(recorder.run_dir)
    for step in range(int(points) // 4):
        recorder.log_metrics(step, {f"metric {n}": float(step) for n in range(4)})
    recorder.close("FINISHED")
    uploads.wait([recorder.run_dir])
"""


def record(rounds: int, uri: str) -> None:
    print("\nwhere      runs  points/s")
    for what, to in {"database": "", "server": uri}.items() if uri else [("database", "")]:
        for count in (1, 4):
            speeds = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    speeds.append(_taken(Path(folder), to, count))
            print(f"{what:9} {count:5}  {statistics.median(speeds):8.0f}", flush=True)


def _taken(folder: Path, uri: str, count: int) -> float:
    """Points a second from so many processes, beyond what starting them takes."""
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    _record_seconds(folder / "first", uri, 1, points=4)
    return (
        count
        * POINTS
        / (_record_seconds(folder, uri, count, POINTS) - _record_seconds(folder, uri, count, 4))
    )


def _record_seconds(folder: Path, uri: str, count: int, points: int) -> float:
    began = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RECORDING_PROGRAM, folder, f"run {number}", uri, str(points)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for number in range(count)
    ]
    assert not any(each.wait() for each in started)
    return time.perf_counter() - began


TABLES = {"shared": shared, "launchers": launchers, "record": record}


def main(arguments: Sequence[str]) -> None:
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    rounds, uri = int(given.pop("rounds", "3")), given.pop("uri", "")
    names = [a for a in arguments if "=" not in a] or list(TABLES)
    if unknown := [*given, *(name for name in names if name not in TABLES)]:
        sys.exit(f"{', '.join(unknown)}: no such table or argument; there are {', '.join(TABLES)}")
    for name in names:
        TABLES[name](rounds, uri)


if __name__ == "__main__":
    main(sys.argv[1:])
