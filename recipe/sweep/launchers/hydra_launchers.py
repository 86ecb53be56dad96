"""Hydra's launchers for Ray and submitit (Slurm).

Each of their workers runs its jobs in a child process, so that a job that is killed loses its run
and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.components.tracking.local import database_path
from recipe.errors import SpecError
from recipe.formatting import pluralize
from recipe.mlflow_sync import client
from recipe.runner.console import Console
from recipe.store import stale_records, sweep_jobs
from recipe.sweep.launchers import gpu_assignment, plugins, remote_job
from recipe.sweep.launchers.gpu_assignment import GpuSlots

LAUNCHER_PACKAGES = {"ray": "ray", "slurm": "submitit", "submitit_local": "submitit"}
"""By the name of the option; the package is called hydra-<value>-launcher."""


def check_installed(overrides: Sequence[Override]) -> None:
    """Raises SpecError if the chosen launcher is not installed, or is joblib's."""
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
    """Hands jobs to Hydra's launcher, and makes up for what that loses."""

    name = ""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def make_launcher(self) -> Launcher:
        """Hydra's launcher."""
        raise NotImplementedError

    def allocate_resources(
        self, sweep_dir: Path, device: DictConfig
    ) -> tuple[int, GpuSlots | None]:
        """The threads of each job, and the GPUs where it isn't the launcher that hands them out."""
        raise NotImplementedError

    def prepare_retry(self) -> bool:
        """Whether what was lost with a worker can be started anew; nothing else runs by then."""
        return False

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        threads, places = self.allocate_resources(
            sweep, self._compose_config(job_overrides[0]).device
        )
        self._create_database(job_overrides[0])
        place = f"hydra.sweep.dir={_quote(str(sweep))}"
        given = {n: [*o, place] for n, o in enumerate(job_overrides, initial_job_idx)}
        inner = self.make_launcher()
        task = remote_job.RemoteJob(str(Path.cwd()), tuple(sys.path), threads, places)
        inner.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        with remote_job.forward_job_output(sweep):
            self._launch_with_retries(inner, sweep, given)
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def _launch_with_retries(
        self, hydra_launcher: Launcher, sweep_dir: Path, job_overrides: dict[int, list[str]]
    ) -> None:
        """Starts what a worker that died took along once more, and again as long as that gets any
        further."""
        left, idle = dict(job_overrides), 0
        while left:
            before, known = set(left), len(sweep_jobs.read_result_history(sweep_dir))
            for first, several in plugins.group_consecutive(left):
                try:
                    plugins.launch_jobs(hydra_launcher, several, first)
                except Exception as error:  # whatever it raises when it has lost a worker
                    self._print_worker_loss(error)
            ended = {each.number for each in sweep_jobs.read_result_history(sweep_dir)[known:]}
            left = {number: texts for number, texts in left.items() if number not in ended}
            idle = 0 if set(left) < before else idle + 1
            if left and not (idle < 2 and self.prepare_retry()):
                stale_records.close_stale_records(sweep_dir.parent.parent)
                runs = f"{pluralize(len(left), 'run')} of {len(job_overrides)}"
                message = f"{self.name} lost {runs}; the same command runs what is missing"
                return Console().print(message, style="red", soft_wrap=True)

    def _print_worker_loss(self, error: Exception) -> None:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        message = f"{self.name} lost a worker ({what})"
        Console().print(message, style="red", soft_wrap=True)

    def _create_database(self, overrides: Sequence[str]) -> None:
        """Before the first worker starts, as several that make it at once break it."""
        from recipe.config.instantiate import bind_component
        from recipe.config.spec import RunSpec

        config = self._compose_config(overrides)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config["hydra"]
        spec = RunSpec.from_config(config, choices)
        tracking = bind_component(spec, "tracking")(spec.output_path)
        database = database_path(tracking.uri)
        if database and not database.exists():
            client.connect(tracking, spec.output_path)

    def _compose_config(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(overrides)
        )
        return config


class RayWrapper(LauncherWrapper):
    name = "Ray"

    def allocate_resources(
        self, sweep_dir: Path, device: DictConfig
    ) -> tuple[int, GpuSlots | None]:
        return max(1, int(self.settings["remote"]["num_cpus"])), None

    def make_launcher(self) -> Launcher:
        from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        plain = {key: OmegaConf.create(dict(value)) for key, value in self.settings.items()}
        return RayLauncher(ray=OmegaConf.create(plain))

    def prepare_retry(self) -> bool:
        """It has tried each as often as `max_retries` says."""
        import ray

        ray.shutdown()
        return True


class SubmititWrapper(LauncherWrapper):
    name = "submitit"

    def allocate_resources(
        self, sweep_dir: Path, device: DictConfig
    ) -> tuple[int, GpuSlots | None]:
        return int(self.settings["cpus_per_task"]), None

    def make_launcher(self) -> Launcher:
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher

        return getattr(submitit_launcher, f"{self.name.capitalize()}Launcher")(**self.settings)


class SlurmWrapper(SubmititWrapper):
    name = "slurm"


class LocalSubmititWrapper(SubmititWrapper):
    name = "local"

    def __init__(self, gpus: Any, per_gpu: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.gpus, self.per_gpu = gpus, per_gpu

    def allocate_resources(
        self, sweep_dir: Path, device: DictConfig
    ) -> tuple[int, GpuSlots | None]:
        """All jobs are started at once; each waits for a place, as submitit hands out none."""
        threads, _ = super().allocate_resources(sweep_dir, device)
        return threads, gpu_assignment.assign_gpus(sweep_dir, self.gpus, self.per_gpu, [device])


def _quote(text: str) -> str:
    """A text as Hydra reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def register() -> None:
    for each in (RayWrapper, SlurmWrapper, LocalSubmititWrapper):
        plugins.register_plugin(each)
