"""Hydra's launchers for Ray and submitit (Slurm).

Each of their workers runs its jobs in a child process, so that a job that is killed loses only its
run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pkgutil
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.components.tracking.local import database_path
from recipe.config.instantiate import bind_component
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.formatting import pluralize
from recipe.mlflow_sync import client
from recipe.runner.console import Console
from recipe.store import stale_records, sweep_jobs
from recipe.sweep import hydra_plugins
from recipe.sweep.launchers import gpu_assignment, remote_job
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.remote_job import RemoteJob

LAUNCHER_PACKAGES = {"ray": "ray", "slurm": "submitit", "submitit_local": "submitit"}
"""Options of hydra/launcher that need the package hydra-<value>-launcher."""


def check_installed(overrides: Sequence[Override]) -> None:
    """Raises SpecError if the selected launcher is not installed or not supported."""
    for name in [o.value() for o in overrides if o.key_or_group == "hydra/launcher"]:
        if name == "joblib":
            raise SpecError(
                "hydra/launcher=joblib: joblib is not supported; leave it out, as the default "
                "launcher runs several jobs at a time on this machine (hydra.launcher.workers=2 "
                "sets how many)"
            )
        package = LAUNCHER_PACKAGES.get(str(name))
        if package is None:
            continue
        with contextlib.suppress(ImportError):
            if importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is not None:
                continue
        extra = "slurm" if package == "submitit" else package
        raise SpecError(
            f"hydra/launcher={name}: hydra-{package}-launcher isn't installed; "
            f"pip install 'torch-recipe[{extra}]'"
        )


class LauncherWrapper(Launcher):  # type: ignore[misc]
    """Runs jobs with Hydra's launcher, and runs again those whose worker was lost."""

    title: ClassVar[str]
    hydra_launcher: ClassVar[str]
    """The class of Hydra's launcher, `module:name`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def make_launcher(self) -> Launcher:
        return pkgutil.resolve_name(self.hydra_launcher)(**self.settings)

    @property
    @abstractmethod
    def threads(self) -> int:
        """The threads of each job."""

    def assign_gpus(self, sweep_dir: Path, device: DictConfig) -> GpuSlots | None:
        """The GPUs, unless the launcher assigns them."""
        return None

    def prepare_retry(self) -> bool:
        """Whether jobs that were lost with a worker can be started again; none runs by then."""
        return False

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(job_overrides[0])
        )
        gpus = self.assign_gpus(sweep, config.device)
        _create_database(config)
        sweep_dir = f"hydra.sweep.dir={_quote(str(sweep))}"
        jobs = {n: [*texts, sweep_dir] for n, texts in enumerate(job_overrides, initial_job_idx)}
        launcher = self.make_launcher()
        task = RemoteJob(str(Path.cwd()), tuple(sys.path), self.threads, gpus)
        launcher.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        with remote_job.forward_job_output(sweep):
            self._launch_with_retries(launcher, sweep, jobs)
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def _launch_with_retries(
        self, launcher: Launcher, sweep_dir: Path, job_overrides: dict[int, list[str]]
    ) -> None:
        """Retries lost jobs once, and again as long as some of them end."""
        left, n_failures = dict(job_overrides), 0
        while left:
            n_left, n_known = len(left), len(sweep_jobs.read_result_history(sweep_dir))
            for first, several in hydra_plugins.group_consecutive(left):
                try:
                    hydra_plugins.launch_jobs(launcher, several, first)
                except Exception as error:  # whatever it raises when it has lost a worker
                    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                    message = f"{self.title} lost a worker ({what})"
                    Console().print(message, style="red", soft_wrap=True)
            ended = {each.number for each in sweep_jobs.read_result_history(sweep_dir)[n_known:]}
            left = {number: texts for number, texts in left.items() if number not in ended}
            n_failures = 0 if len(left) < n_left else n_failures + 1
            if left and not (n_failures < 2 and self.prepare_retry()):
                stale_records.close_stale_records(sweep_dir.parent.parent)
                runs = f"{pluralize(len(left), 'run')} of {len(job_overrides)}"
                message = f"{self.title} lost {runs}; the same command runs what is missing"
                return Console().print(message, style="red", soft_wrap=True)


def _create_database(config: DictConfig) -> None:
    """Before the first worker starts, as several processes that create it at once corrupt it."""
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    spec = RunSpec.from_config(config, choices)
    tracking = bind_component(spec, "tracking")(spec.output_path)
    database = database_path(tracking.uri)
    if database and not database.exists():
        client.connect(tracking, spec.output_path)


class RayWrapper(LauncherWrapper):
    title = "Ray"
    hydra_launcher = "hydra_plugins.hydra_ray_launcher.ray_launcher:RayLauncher"

    @property
    def threads(self) -> int:
        return max(1, int(self.settings["remote"]["num_cpus"]))

    def make_launcher(self) -> Launcher:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        plain = {key: OmegaConf.create(dict(value)) for key, value in self.settings.items()}
        return pkgutil.resolve_name(self.hydra_launcher)(ray=OmegaConf.create(plain))

    def prepare_retry(self) -> bool:
        """Ray itself has tried each job `max_retries` times."""
        pkgutil.resolve_name("ray:shutdown")()
        return True


class SlurmWrapper(LauncherWrapper):
    title = "slurm"
    hydra_launcher = "hydra_plugins.hydra_submitit_launcher.submitit_launcher:SlurmLauncher"

    @property
    def threads(self) -> int:
        return int(self.settings["cpus_per_task"])


class LocalSubmititWrapper(SlurmWrapper):
    title = "local"
    hydra_launcher = "hydra_plugins.hydra_submitit_launcher.submitit_launcher:LocalLauncher"

    def __init__(self, gpus: Any, per_gpu: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.gpus, self.per_gpu = gpus, per_gpu

    def assign_gpus(self, sweep_dir: Path, device: DictConfig) -> GpuSlots | None:
        """All jobs are started at once and wait for a GPU, as submitit assigns none."""
        return gpu_assignment.assign_gpus(sweep_dir, self.gpus, self.per_gpu, [device])


def _quote(text: str) -> str:
    """A string in Hydra's grammar for overrides."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def register() -> None:
    for each in (RayWrapper, SlurmWrapper, LocalSubmititWrapper):
        hydra_plugins.register_plugin(each)
