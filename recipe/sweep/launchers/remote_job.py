"""A job in a process of another launcher's: what is done with it there, and how the sweep hears it.

What a job has said is left in the sweep's folder, `said/<number>.txt`, for the sweep's own process
to show: workers may be on other machines that share the folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import atomic_write, output
from recipe.errors import OutputClosedInterrupt, OutputError, TerminateInterrupt
from recipe.mlflow_sync.upload_queue import wait_for_runs
from recipe.runner.exit_status import discard_output
from recipe.sweep.launchers import pool_launcher
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.worker_pool import WorkerPool

POLL_SECONDS = 0.3
"""Seconds between two looks at what jobs have said."""


@dataclass(frozen=True)
class RemoteJob:
    """What the launcher's process is to do with a job."""

    working_dir: str
    """In which the sweep was started, and relative paths begin."""
    sys_path: tuple[str, ...]
    """Where modules are looked for."""
    threads: int
    gpus: GpuSlots | None
    host: str = field(default_factory=socket.gethostname)
    """The machine on which the sweep was started."""

    def __call__(self, config: DictConfig) -> None:
        os.chdir(self.working_dir)
        sys.path[:] = [*self.sys_path, *(place for place in sys.path if place not in self.sys_path)]
        hydra_config = HydraConfig.get()
        sweep, number = Path(hydra_config.sweep.dir), hydra_config.job.num
        whole = _to_plain_config(config)
        with open_dict(whole):
            whole["hydra"] = _to_plain_config(HydraConfig.instance().cfg.hydra)
        if not pool_launcher.ACTIVE_POOLS:
            pool_launcher.ACTIVE_POOLS.append(WorkerPool(1, self.threads, self.gpus, on_cpu=False))
            # before multiprocessing waits for its children, which wait for more jobs
            Finalize(None, pool_launcher.close_pools, exitpriority=1)
        died = pool_launcher.CrashRecorder(sweep)
        died.overrides_by_number[number] = list(hydra_config.overrides.task)
        message = io.StringIO()
        with contextlib.redirect_stdout(message), contextlib.redirect_stderr(message):
            pool_launcher.ACTIVE_POOLS[0].run_jobs(iter([(number, whole)]), died)
            if socket.gethostname() != self.host:  # where the sweep's uploader is not
                for run, missing in wait_for_runs(sweep.parent.parent, sweep.name).items():
                    output.print_text(f"MLflow did not take all of {run.name}: {missing}\n")
        (sweep / "job_output").mkdir(exist_ok=True)
        atomic_write.write_file(
            sweep / "job_output" / f"{number}.txt", message.getvalue().encode(), sync=False
        )


@contextlib.contextmanager
def forward_job_output(sweep_dir: Path) -> Iterator[None]:
    """Shows what jobs have said, each when it has ended."""
    over, closed = threading.Event(), threading.Event()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                _print_job_output(sweep_dir)
            except (BrokenPipeError, OutputError):
                discard_output()
                closed.set()
                os.kill(os.getpid(), signal.SIGTERM)  # ends what the launcher waits for
                return

    _print_job_output(sweep_dir)
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    except TerminateInterrupt as error:
        raise (OutputClosedInterrupt() if closed.is_set() else error) from None
    finally:
        over.set()
        thread.join()
        _print_job_output(sweep_dir)


def _print_job_output(sweep_dir: Path) -> None:
    for path in sorted(
        (sweep_dir / "job_output").glob("*.txt"), key=lambda path: path.stat().st_mtime_ns
    ):
        output.print_text(path.read_text(encoding="utf-8", errors="replace"))
        path.unlink()


def _to_plain_config(node: DictConfig) -> DictConfig:
    """Without the types that Hydra gives its own settings, which not every process can read."""
    content: Any = OmegaConf.to_container(node, resolve=False)
    return DictConfig(content)
