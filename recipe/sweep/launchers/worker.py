"""A process of a worker pool, which runs jobs of a sweep one after the other."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import output
from recipe.components.device import thread_environment
from recipe.runner.signals import install_signal_handlers
from recipe.sweep.launchers import forkserver
from recipe.sweep.launchers.gpu_assignment import GpuSlots


class Task(NamedTuple):
    """A job, and where what it prints goes."""

    job_number: int
    config: DictConfig
    """As Hydra composed it, with Hydra's own node."""
    stdout_path: Path
    stderr_path: Path


def run_worker(
    connection: Connection, environment: dict[str, str], threads: int, gpus: GpuSlots | None
) -> None:
    """Runs what comes until nothing more can, or a signal ends a job. `environment` is the
    sweep's."""
    output.configure_streams()
    os.setsid()  # the sweep hands on what the terminal sends
    install_signal_handlers()
    forkserver.unblock_signals()
    gc.freeze()  # what is imported by now stays, so no collection need look at it
    os.environ.update(environment | thread_environment(threads))
    # nobody would hand the job's end on; the run is left as SIGTERM leaves one
    forkserver.watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    place = gpus.acquire_slot() if gpus else contextlib.nullcontext()
    with contextlib.suppress(EOFError, KeyboardInterrupt), place:
        while True:
            task: Task = connection.recv()
            _run_task(task)
            connection.send(task.job_number)
    for number in (signal.SIGINT, signal.SIGTERM):  # all that is left is to end
        signal.signal(number, signal.SIG_IGN)


def _run_task(task: Task) -> None:
    from recipe.sweep.job import run_job

    for path, stream in ((task.stdout_path, sys.stdout), (task.stderr_path, sys.stderr)):
        stream.flush()
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, stream.fileno())
        os.close(file)
    # not set_config, which wants Hydra's own types, and not every launcher's process can send those
    HydraConfig.instance().cfg = kept = OmegaConf.masked_copy(task.config, "hydra")
    kept.hydra._set_parent(task.config)  # it refers to the rest
    variables = {str(k): str(v) for k, v in task.config.hydra.job.env_set.items()}
    with env_override(variables):
        with open_dict(task.config):
            del task.config["hydra"]
        try:
            run_job(task.config)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
