"""Command lines that several processes share, started by torchrun on this machine.

A launch takes ten seconds, so one serves many command lines, each to its end in every process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import commands

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

HERE = ("device=cpu", "tracking=none")


def shared(folder: Path, size: int, *lines: tuple[str, ...]) -> list[list[commands.Result]]:
    """What became of each command line, in each of `size` processes by rank; `folder` is their
    working directory."""
    done = folder / "done"
    done.mkdir(exist_ok=True)
    ended = subprocess.run(
        [*TORCHRUN, str(size), __file__, str(done), json.dumps(lines)],
        cwd=folder, env=_environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    by_rank = [json.loads((done / f"{rank}.json").read_text()) for rank in range(size)]
    return [[commands.Result(*each) for each in line] for line in zip(*by_rank, strict=True)]


def tags(run: Path) -> dict[str, str]:
    """What was recorded of a run besides numbers and settings."""
    events = commands.read_lines(run / "events.jsonl")
    return {k: v for event in events if event["kind"] == "tags" for k, v in event.items()}


def launch(folder: Path, size: int, *arguments: str, restarts: int = 0) -> subprocess.Popen[str]:
    """`torchrun -m recipe <arguments>` as a person gives it, in a process group of its own."""
    options = (str(size), "--max-restarts", str(restarts), "-m", "recipe")
    return subprocess.Popen(
        [*TORCHRUN, *options, *arguments], cwd=folder, env=_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(map(str, (commands.CHECKOUT, commands.CHECKOUT / "tests")))
    return commands.environment(PYTHONPATH=paths)


def _all(done: Path, lines: list[list[str]]) -> None:
    found = []
    for line in lines:
        status = commands.run(Path.cwd(), *line)
        found.append([status.status, status.out, status.err])
    (done / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _all(Path(sys.argv[1]), json.loads(sys.argv[2]))
