"""A process of a shared run is killed: torchrun starts all of them again, and the run goes on.

All of it is long: `pytest -m long tests/integration/test_distributed_kill.py`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import commands
import multiprocess_runs
import psutil
import pytest

from recipe.store import journal

PARTS = """
import time

import torch


def clip(params):
    '''Measures, and takes its time, so that a signal comes in the middle.'''
    time.sleep(0.1)
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""

LINE = (
    *multiprocess_runs.HERE, "data.train_size=100", "data.batch_size=25", "epochs=8", "model=mlp",
    "model.hidden=[16]", "optimizer.momentum=0.9", "trust=[parts]", "clip=slow",
)  # fmt: skip
"""32 steps, 4 an epoch."""


def of_rank(launcher: int, rank: str) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(launcher).children()
        if child.environ().get("RANK") == rank
    )
    return found


@pytest.mark.long
def test_run_restarted_by_torchrun_ends_with_equal_losses(tmp_path: Path) -> None:
    folder = commands.project(
        tmp_path, {"parts.py": PARTS, "conf/clip/slow.yaml": "_target_: parts.clip\n"}
    )
    torchrun = multiprocess_runs.launch(folder, 2, *LINE, restarts=1)
    try:
        deadline = time.monotonic() + 200
        while not list(folder.glob("outputs/runs/*/checkpoints/step-*.ckpt")):
            assert time.monotonic() < deadline and torchrun.poll() is None, torchrun.communicate()
            time.sleep(0.05)
        of_rank(torchrun.pid, "1").send_signal(signal.SIGKILL)
        out, err = torchrun.communicate(timeout=600)
    finally:
        if torchrun.poll() is None:
            os.killpg(torchrun.pid, signal.SIGKILL)
    assert torchrun.returncode == 0, err
    (run,) = commands.run_dirs(folder)
    assert f"Resumes {run.name} after step" in out
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"
    kinds = [event["kind"] for event in commands.read_lines(run / "events.jsonl")]
    assert (kinds.count("started"), kinds.count("resumed")) == (1, 1)
    assert "Traceback" not in err
    done = commands.run(folder, *LINE)
    assert done.status == 0, done.err
    mine, whole = (journal.read_metrics(each)["train/loss"] for each in commands.run_dirs(folder))
    assert [*mine] == [*whole] == list(range(1, 33))
    assert all(abs(loss - whole[step]) < 1e-5 for step, loss in mine.items())
