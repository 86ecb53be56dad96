"""Several jobs of a sweep at a time: what each leaves behind is what it would have left alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import psutil
import pytest
import servers
from mlflow.tracking import MlflowClient
from sweep_records import statuses

from recipe.components import device
from recipe.store import run_dirs
from recipe.sweep.launchers.pool_launcher import allocate_workers

PARTS = {
    "parts.py": """
import os, pathlib, signal, time
from torch.nn.utils import get_total_norm

def kill_once(params):
    if pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return get_total_norm([p.grad for p in params])

def wait(params):
    while pathlib.Path("wait").exists():
        pathlib.Path(f"waiting-{os.getpid()}").touch()
        time.sleep(0.05)
    return get_total_norm([p.grad for p in params])
""",
    "conf/clip/killing.yaml": "_target_: parts.kill_once\n",
    "conf/clip/waiting.yaml": "_target_: parts.wait\n",
}

SWEEP = ("-m", *commands.QUICK, "trust=[parts]")
TWO = (*SWEEP, "hydra.launcher.workers=2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return commands.project(tmp_path, PARTS)


def waits(started: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Waits until `number` processes wait in a step."""
    while len(list(folder.glob("waiting-*"))) < number:
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)


@pytest.mark.integration
def test_workers_run_the_same_jobs_as_a_single_process(folder: Path) -> None:
    grid = ("clip=none,norm", "seed=0,1", "tracking=none")
    done = commands.spawn(folder, *TWO, *grid)
    assert (done.status, done.err) == (0, "")
    assert "2 at a time, 1 thread each" in done.out
    assert [f"[{n}/4]" in done.out for n in range(1, 5)] == [True] * 4
    alone = commands.sweep(folder, *SWEEP, *grid)
    assert alone.status == 0 and alone.out.count("finished before, as ") == 4
    assert len(commands.run_dirs(folder)) == 4


RUN = """
import sys
from recipe.cli import main
status = main.run_command_line(sys.argv[1:])
print("torch:", "torch" in sys.modules)
sys.exit(status)
"""


@pytest.mark.integration
def test_the_process_of_the_sweep_does_not_import_torch(folder: Path) -> None:
    given = ("-c", RUN, *TWO[:-1], "seed=0,1", "tracking=none")
    done = commands.spawn(folder, *given, program=(sys.executable,))
    assert (done.status, done.err) == (0, "")
    assert "2 at a time" in done.out and "torch: False" in done.out


@pytest.mark.integration
@pytest.mark.parametrize("after", [0.0, 0.5, 1.5])
def test_ctrl_c_while_the_command_line_is_checked_prints_one_line(
    folder: Path, after: float
) -> None:
    started = commands.start(folder, *TWO[:-1], "seed=0,1", "tracking=none")
    family = psutil.Process(started.pid)
    while not family.children():  # what imports torch meanwhile
        assert started.poll() is None
        time.sleep(0.01)
    time.sleep(after)
    reached = [*family.children(recursive=True), family]
    for process in reached:  # as a terminal does
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "recipe: interrupted\n")
    assert not psutil.wait_procs(reached, timeout=10)[1]


@pytest.mark.integration
@pytest.mark.parametrize("after", [0.5, 3.0])
def test_killing_the_sweep_at_its_start_ends_all_its_processes(folder: Path, after: float) -> None:
    (folder / "wait").touch()  # so that no run ends before the sweep is killed
    started = commands.start(folder, *TWO[:-1], "clip=waiting", "seed=0,1", "tracking=none")
    family = psutil.Process(started.pid)
    while not family.children():
        assert started.poll() is None
        time.sleep(0.01)
    time.sleep(after)
    others = family.children(recursive=True)
    started.kill()
    (folder / "wait").unlink()
    started.communicate()
    gone, alive = psutil.wait_procs(others, timeout=30)
    assert gone and not alive


@pytest.mark.integration
def test_a_killed_worker_loses_only_its_run_and_the_same_command_runs_it_again(
    folder: Path,
) -> None:
    command = (*TWO, "clip=killing", "seed=0,1,2,3", "tracking=none")
    (folder / "kill").touch()
    done = commands.spawn(folder, *command)
    assert done.status == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("its process was ended")]
    assert "by SIGKILL; alone: python -m recipe device=cpu" in line and "seed=" in line
    assert sorted(statuses(folder)) == ["FINISHED"] * 3 + ["KILLED"]
    again = commands.spawn(folder, *command)
    assert again.status == 0, again.err
    assert "resuming" in again.out and again.out.count("finished before, as ") == 3
    assert statuses(folder) == ["FINISHED"] * 4


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_every_job_after_its_step_and_the_same_command_resumes_them(
    folder: Path, number: signal.Signals, status: int
) -> None:
    command = (*TWO, "clip=waiting", "seed=0,1,2", "tracking=none")
    (folder / "wait").touch()
    started = commands.start(folder, *command)
    waits(started, folder, 2)
    started.send_signal(number)
    time.sleep(0.5)
    (folder / "wait").unlink()
    started.communicate(timeout=120)
    assert started.returncode == status
    assert statuses(folder) == ["KILLED", "KILLED"]
    assert all(list((run / "checkpoints").glob("step-*")) for run in commands.run_dirs(folder))
    again = commands.spawn(folder, *command)
    assert again.status == 0, again.err
    assert statuses(folder) == ["FINISHED"] * 3


@pytest.mark.integration
def test_killing_the_sweep_ends_its_workers_and_leaves_no_run_running(folder: Path) -> None:
    (folder / "wait").touch()
    command = (*TWO, "clip=waiting", "seed=0,1,2", "tracking=none")
    started = commands.start(folder, *command)
    waits(started, folder, 2)
    workers = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    (folder / "wait").unlink()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert gone and not alive
    assert statuses(folder) == ["KILLED", "KILLED"]
    started.communicate()


KILL_IDLE = """
import os, signal, sys
from recipe.cli import main
from recipe.sweep.launchers import pool_launcher

composed = pool_launcher.PoolLauncher._compose_job

def kill_idle(self, known, job):  # when the second job is about to be handed out
    for each in self._pool._workers if job[0] == 1 else ():
        if each.task is None:
            print("killed")
            os.kill(each.process.pid, signal.SIGKILL)
            each.process.join()
    return composed(self, known, job)

pool_launcher.PoolLauncher._compose_job = kill_idle
if __name__ == "__main__":
    sys.exit(main.run_command_line(sys.argv[1:]))
"""


@pytest.mark.integration
def test_a_worker_killed_between_two_jobs_loses_none(folder: Path) -> None:
    commands.project(folder, {"kill_idle.py": KILL_IDLE})
    given = ("kill_idle.py", *TWO, "seed=0,1", "tracking=none")
    done = commands.spawn(folder, *given, program=(sys.executable,))
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines().count("killed") == 1
    assert statuses(folder) == ["FINISHED"] * 2


@pytest.mark.integration
def test_a_sweep_whose_output_is_closed_stops_its_jobs_and_ends(folder: Path) -> None:
    (folder / "wait").touch()
    command = (*TWO, "clip=waiting", "seed=0,1,2,3", "tracking=none")
    started = commands.start(folder, *command)
    waits(started, folder, 2)
    assert started.stdout is not None and started.stderr is not None
    started.stdout.close()
    (folder / "wait").unlink()
    assert started.wait(timeout=120) == 1
    expected = "recipe: the reader of the output has exited; the same command resumes the sweep\n"
    assert started.stderr.read() == expected
    assert set(statuses(folder)) <= {"FINISHED", "KILLED"} and len(statuses(folder)) < 4
    started.stderr.close()


@pytest.mark.integration
@pytest.mark.long
def test_one_process_uploads_the_runs_of_all_workers(folder: Path) -> None:
    (folder / "wait").touch()
    started = commands.start(folder, *TWO, "clip=waiting", "seed=0,1,2")
    waits(started, folder, 2)
    children = psutil.Process(started.pid).children(recursive=True)
    feeders = [
        each for each in children if any(text.startswith("follow=") for text in each.cmdline())
    ]
    # it starts others for a moment, which are called as it is at first
    assert [each.ppid() for each in feeders if each.parent() not in feeders] == [started.pid]
    (folder / "wait").unlink()
    _, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (0, "")
    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    assert len(commands.run_dirs(folder)) == 3
    for run in commands.run_dirs(folder):
        there = str(run_dirs.read_info(run, "run").mlflow_run_id)
        assert client.get_run(there).info.status == "FINISHED"
        assert servers.points(client, there) == servers.journal(run)


CPU, GPU = (
    {"_target_": target}
    for target in ("recipe.components.device.cpu.Cpu", "recipe.components.device.gpu.Gpu")
)


def test_workers_times_threads_do_not_exceed_the_cores() -> None:
    cores = device.count_available_cores()
    assert allocate_workers([CPU | {"threads": 1}], 100, "auto")[:2] == (cores, 1)
    assert allocate_workers([CPU | {"threads": cores}], 100, "auto") == (1, cores, True)
    assert allocate_workers([CPU | {"threads": 1}], 1, "auto") == (1, 1, True)


def test_one_gpu_runs_one_job_at_a_time_in_the_process_of_the_sweep() -> None:
    assert allocate_workers([GPU | {"threads": 3}], 100, "auto") == (1, 3, True)
    assert allocate_workers([CPU | {"threads": 3}, GPU | {"threads": 3}], 100, "auto") == (
        1,
        3,
        True,
    )


def test_little_memory_limits_the_number_of_workers() -> None:
    asked = ([CPU | {"threads": 1}], 100)
    assert allocate_workers(*asked, "auto", memory_bytes=2**30)[:2] == (1, 1)
    assert allocate_workers(*asked, 3, memory_bytes=2**30)[:2] == (3, 1)


def test_a_resumed_sweep_keeps_its_number_of_threads() -> None:
    cores = device.count_available_cores()
    assert allocate_workers([CPU | {"threads": "auto"}], 100, "auto", stored_threads=cores)[:2] == (
        1,
        cores,
    )
    assert allocate_workers([CPU | {"threads": "auto"}], 100, 1, stored_threads=cores + 1) == (
        1,
        cores + 1,
        False,
    )
