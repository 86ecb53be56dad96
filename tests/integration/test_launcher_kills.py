"""A worker of Ray or submitit itself is killed, as the kernel does where memory is short:
what that costs, launcher by launcher, as docs/many-runs.md says it."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
from sweep_records import statuses

pytestmark = pytest.mark.long

PARTS = {
    "parts.py": """
import os, pathlib, signal, time
from torch.nn.utils import get_total_norm

def orphan(params, *, seed: int):
    if seed == 1 and pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
    return get_total_norm([p.grad for p in params])
""",
    "conf/clip/orphan.yaml": "_target_: parts.orphan\nseed: ${seed}\n",
    "conf/project/default.yaml": "trust: [parts]\n",
}

SWEEP = (
    "-m", "device=cpu", "model=mlp", "model.hidden=[4]", "data.train_size=50",
    "data.batch_size=25", "epochs=4", "clip=orphan", "seed=0,1,2,3", "tracking=none",
)  # fmt: skip

LAUNCHERS = {
    "ray": ("hydra/launcher=ray", "+hydra.launcher.init.num_cpus=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
}


def killed(tmp_path: Path, name: str) -> tuple[Path, commands.Result]:
    """A sweep of four of which the worker of one was killed."""
    pytest.importorskip(f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher")
    folder = commands.project(tmp_path, PARTS)
    (folder / "kill").touch()
    done = commands.spawn(folder, *SWEEP, *LAUNCHERS[name])
    assert not (folder / "kill").exists()
    return folder, done


def test_jobs_of_a_lost_ray_worker_are_restarted(tmp_path: Path) -> None:
    folder, done = killed(tmp_path, "ray")
    assert done.status == 0, done.out + done.err
    assert statuses(folder) == ["FINISHED"] * 4


def test_same_command_completes_sweep_after_submitit_worker_is_killed(tmp_path: Path) -> None:
    folder, done = killed(tmp_path, "submitit_local")
    assert done.status == 1, done.err
    assert "local lost a worker (UncompletedJobError: " in done.out
    assert sorted(statuses(folder)) == ["FINISHED"] * 3 + ["KILLED"]
    again = commands.spawn(folder, *SWEEP, *LAUNCHERS["submitit_local"])
    assert again.status == 0, again.err
    assert statuses(folder) == ["FINISHED"] * 4
