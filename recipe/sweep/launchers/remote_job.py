"""A job in a process of Hydra's launchers for Ray and submitit, and how its output gets back.

The output of a job is written to `job_output/<number>.txt` in the folder of the sweep, whose
process prints it: workers may be on other machines that share the folder.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import atomic_write, output
from recipe.errors import OutputClosedInterrupt, OutputError, TerminateInterrupt
from recipe.mlflow_sync.upload_queue import wait_for_runs
from recipe.runner.exit_status import discard_output
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.pool_launcher import CrashRecorder
from recipe.sweep.launchers.worker_pool import WorkerPool

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class RemoteJob:
    """The function that the processes of Hydra's launcher call with the config of a job."""

    working_dir: str
    """The sweep's, to which paths are relative."""
    sys_path: tuple[str, ...]
    threads: int
    gpus: GpuSlots | None
    host: str = field(default_factory=socket.gethostname)
    """The machine on which the sweep was started."""

    def __call__(self, config: DictConfig) -> None:
        os.chdir(self.working_dir)
        sys.path[:] = [*self.sys_path, *(place for place in sys.path if place not in self.sys_path)]
        hydra_config = HydraConfig.get()
        sweep, number = Path(hydra_config.sweep.dir), hydra_config.job.num
        complete_config = _to_plain_config(config)
        with open_dict(complete_config):
            complete_config["hydra"] = _to_plain_config(HydraConfig.instance().cfg.hydra)
        crashes = CrashRecorder(sweep)
        crashes.overrides_by_number[number] = list(hydra_config.overrides.task)
        message = io.StringIO()
        with contextlib.redirect_stdout(message), contextlib.redirect_stderr(message):
            pool = _get_worker_pool(self.threads, self.gpus)
            pool.run_jobs(iter([(number, complete_config)]), crashes)
            if socket.gethostname() != self.host:  # the sweep's uploader is on another machine
                for run, missing in wait_for_runs(sweep.parent.parent, sweep.name).items():
                    output.print_text(f"MLflow did not take all of {run.name}: {missing}\n")
        (sweep / "job_output").mkdir(exist_ok=True)
        atomic_write.write_file(
            sweep / "job_output" / f"{number}.txt", message.getvalue().encode(), sync=False
        )


@functools.cache
def _get_worker_pool(threads: int, gpus: GpuSlots | None) -> WorkerPool:
    """The worker persists from job to job of the launcher's process."""
    return WorkerPool(1, threads, gpus, on_cpu=False)


@contextlib.contextmanager
def forward_job_output(sweep_dir: Path) -> Iterator[None]:
    """Prints the output of each job when it has ended."""
    done, closed = threading.Event(), threading.Event()

    def follow() -> None:
        while not done.wait(POLL_SECONDS):
            try:
                _print_job_output(sweep_dir)
            except (BrokenPipeError, OutputError):
                discard_output()
                closed.set()
                os.kill(os.getpid(), signal.SIGTERM)  # interrupts the launcher
                return

    _print_job_output(sweep_dir)
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    except TerminateInterrupt as error:
        raise (OutputClosedInterrupt() if closed.is_set() else error) from None
    finally:
        done.set()
        thread.join()
        _print_job_output(sweep_dir)


def _print_job_output(sweep_dir: Path) -> None:
    for path in sorted(
        (sweep_dir / "job_output").glob("*.txt"), key=lambda path: path.stat().st_mtime_ns
    ):
        output.print_text(path.read_text(encoding="utf-8", errors="replace"))
        path.unlink()


def _to_plain_config(node: DictConfig) -> DictConfig:
    """Without Hydra's structured types, which not every process can unpickle."""
    content: Any = OmegaConf.to_container(node, resolve=False)
    return DictConfig(content)
