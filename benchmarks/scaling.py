"""What a second process gives: one run by one process and shared by two, a thread each, in turn.

    python benchmarks/scaling.py [rounds=3] [key=value ...]

Prints samples a second in the loop (the median over the epochs but the first, over the rounds), and
the ratio to one process. The batch is that of the run, so two processes have half of it each: the
work is the same, and what the ratio lacks to 2 is what they tell each other, and what each does for
itself. It needs two idle cores; on a machine with neighbours two processes wait for one another at
every step, and the ratio says more of the neighbours.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LINE = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=4", "data=random",
    "data.n_train=1024", "data.n_val=64", "checkpoint.every=null", "again=true",
)  # fmt: skip

PROGRAMS = {
    1: ("-m", "recipe"),
    2: ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recipe"),
}


def speed(processes: int, line: tuple[str, ...]) -> float:
    """Samples a second of one run, over its epochs but the first."""
    with tempfile.TemporaryDirectory() as outputs:
        subprocess.run(
            [sys.executable, *PROGRAMS[processes], *line, f"output_dir={outputs}"],
            check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        (journal,) = Path(outputs).glob("runs/*/metrics.jsonl")
        metrics = [json.loads(line)["metrics"] for line in journal.read_text().splitlines()]
    found = [each["time/samples_per_s"] for each in metrics if "time/samples_per_s" in each]
    return statistics.median(found[1:])


def main(arguments: list[str]) -> None:
    own = dict(argument.split("=", 1) for argument in arguments if argument.startswith("rounds="))
    line = (*LINE, *(argument for argument in arguments if not argument.startswith("rounds=")))
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(int(own.get("rounds", 3))):
        for processes, speeds in found.items():
            speeds.append(speed(processes, line))
    alone = statistics.median(found[1])
    print("processes  samples/s  ratio")
    for processes, speeds in found.items():
        median = statistics.median(speeds)
        print(f"{processes:9}  {median:9.0f}  {median / alone:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
