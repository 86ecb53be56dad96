"""Hydra's own launchers: a killed or failed job loses only its run, and is shown when it ends."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

import commands
import pytest
from sweep_records import statuses

PARTS = {
    "parts.py": """
import os, pathlib, signal
from torch.nn.utils import get_total_norm

def trouble(params, *, at: int, seed: int):
    if seed == at and pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == at + 1 and pathlib.Path("fail").exists():
        pathlib.Path("fail").unlink()
        raise RuntimeError(f"it is to fail, with {os.environ['OMP_NUM_THREADS']} thread")
    return get_total_norm([p.grad for p in params])
""",
    "conf/clip/trouble.yaml": "_target_: parts.trouble\nat: 1\nseed: ${seed}\n",
    "conf/project/default.yaml": "trust: [parts]\n",
}

LITTLE = (
    "-m", "device=cpu", "model=mlp", "model.hidden=[4]", "data.train_size=50",
    "data.batch_size=25", "epochs=2", "clip=trouble", "seed=0,1,2,3",
)  # fmt: skip

LAUNCHERS = {
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.init.num_cpus=2"),
}


def test_submitit_runs_the_same_jobs_as_a_single_process(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    folder = commands.project(tmp_path, PARTS)
    command = (*LITTLE[:-1], "seed=0,3", "tracking=none")
    done = commands.spawn(folder, *command, *LAUNCHERS["submitit_local"])
    assert (done.status, done.err) == (0, "")
    assert [f"[{n}/2] seed={3 * n - 3}" in done.out for n in (1, 2)] == [True] * 2
    alone = commands.sweep(folder, *command)
    assert alone.status == 0 and alone.out.count("finished before, as ") == 2
    assert statuses(folder) == ["FINISHED"] * 2


@pytest.mark.long
@pytest.mark.parametrize("name", LAUNCHERS)
def test_same_command_completes_sweep_after_launcher_job_is_killed(
    tmp_path: Path, name: str
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher")
    folder = commands.project(tmp_path, PARTS)
    (folder / "kill").touch()
    (folder / "fail").touch()
    done = commands.spawn(folder, *LITTLE, *LAUNCHERS[name])
    assert done.status == 1, done.err
    assert "its process was ended by SIGKILL; alone: python -m recipe device=cpu" in done.out
    assert "RuntimeError: it is to fail, with 1 thread" in done.out
    assert f"\nalone: python -m recipe {shlex.join(LITTLE[1:-1])} seed=2\n" in done.out
    assert [f"[{n}/4] seed={n - 1}" in done.out for n in range(1, 5)] == [True] * 4
    assert sorted(statuses(folder)) == ["FAILED", "FINISHED", "FINISHED", "KILLED"]
    again = commands.spawn(folder, *LITTLE, *LAUNCHERS[name])
    assert again.status == 0, again.err
    assert again.out.count("finished before, as ") == 2
    assert sorted(statuses(folder)) == ["FAILED"] + ["FINISHED"] * 4
    # MLflow has every run under the sweep's
    with sqlite3.connect(folder / "outputs" / "mlflow.db") as database:
        (number,) = database.execute("select count(*) from runs").fetchone()
    assert number == 1 + len(commands.run_dirs(folder))


def test_a_launcher_that_isnt_installed_is_reported_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", absent)
    done = commands.run(tmp_path, *LITTLE[:2], "seed=0,1", "hydra/launcher=slurm")
    assert done.status == 2
    assert done.problems == [
        "recipe: hydra/launcher=slurm: hydra-submitit-launcher isn't installed; "
        "pip install 'torch-recipe[slurm]'"
    ]


def test_joblib_is_refused_and_the_default_launcher_is_named(tmp_path: Path) -> None:
    done = commands.run(tmp_path, *LITTLE[:2], "seed=0,1", "hydra/launcher=joblib")
    assert done.status == 2 and not list(tmp_path.iterdir())
    assert done.problems == [
        "recipe: hydra/launcher=joblib: joblib is not supported; leave it out, as the default "
        "launcher runs several jobs at a time on this machine (hydra.launcher.workers=2 sets how "
        "many)"
    ]
