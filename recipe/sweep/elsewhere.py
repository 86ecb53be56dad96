"""Hydra's other launchers, joblib, Ray and submitit: each starts processes, and each of those runs
its jobs in one of ours beside it, so that a job that is killed costs its run and nothing else.

What a job has said is left in the sweep's folder, `said/<number>.txt`, for the sweep's own process
to show: workers may be on other machines that share the folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from recipe import atomic, dead, mlflow_server
from recipe.errors import SpecError
from recipe.sweep import jobs, launcher, parent
from recipe.sweep.crew import Crew
from recipe.wording import counted

PACKAGES = {"joblib": "joblib", "ray": "ray", "slurm": "submitit", "submitit_local": "submitit"}
"""What each launcher is a launcher of; the package is called hydra-<that>-launcher."""

PAUSE = 0.3
"""Seconds between two looks at what jobs have said."""


def check(overrides: Sequence[Override]) -> None:
    """Raises SpecError where the launcher that a command line chooses isn't installed."""
    for name in [o.value() for o in overrides if o.key_or_group == "hydra/launcher"]:
        package = PACKAGES.get(str(name))
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


class Elsewhere(Launcher):  # type: ignore[misc]
    """Hands jobs to Hydra's launcher, and makes up for what that loses."""

    name = ""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def inner(self, threads: int) -> Launcher:
        """Hydra's launcher, for jobs of so many threads."""
        raise NotImplementedError

    def threads(self, sweep: Path, job_overrides: Sequence[Sequence[str]]) -> int:
        """Of each job."""
        raise NotImplementedError

    def again(self) -> bool:
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
        threads = self.threads(sweep, job_overrides)
        self._make_database(job_overrides[0])
        place = f"hydra.sweep.dir={_quoted(str(sweep))}"
        given = {n: [*o, place] for n, o in enumerate(job_overrides, initial_job_idx)}
        inner = self.inner(threads)
        task = Apart(str(Path.cwd()), tuple(sys.path), threads)
        inner.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        with _shown(sweep):
            self._launch(inner, sweep, given)
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in job_overrides]

    def _launch(self, inner: Launcher, sweep: Path, given: dict[int, list[str]]) -> None:
        """Starts what a worker that died took along once more, as long as that gets any further."""
        left = dict(given)
        while left:
            before, known = set(left), len(jobs.lines(sweep))
            for first, several in _in_a_row(left):
                try:
                    for done in inner.launch(several, initial_job_idx=first):
                        _: Any = done.return_value  # raises what the job raised
                except Exception as error:  # whatever it raises when it has lost a worker
                    self._tell(error)
            ended = {each.number for each in jobs.lines(sweep)[known:]}
            left = {number: texts for number, texts in left.items() if number not in ended}
            if left and not (set(left) < before and self.again()):
                dead.close_all(sweep.parent.parent)
                runs = f"{counted(len(left), 'run')} of {len(given)}"
                told = f"{self.name} lost {runs}; the same command goes on with what is missing"
                return Console(highlight=False, markup=False).print(
                    told, style="red", soft_wrap=True
                )

    def _tell(self, error: Exception) -> None:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        told = f"{self.name} lost a worker ({what})"
        Console(highlight=False, markup=False).print(told, style="red", soft_wrap=True)

    def _make_database(self, overrides: Sequence[str]) -> None:
        """Before the first worker starts, as several that make it at once break it."""
        from recipe.parts import part
        from recipe.spec import RunSpec

        config = self._config(overrides)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config["hydra"]
        spec = RunSpec.from_config(config, choices)
        tracking = part(spec, "tracking")(spec.output_path)
        made = str(tracking.uri).startswith("sqlite:///")
        if made and not Path(str(tracking.uri).removeprefix("sqlite:///")).exists():
            mlflow_server.connect(tracking, spec.output_path)

    def _config(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(overrides)
        )
        return config


class Joblib(Elsewhere):
    name = "joblib"

    def threads(self, sweep: Path, job_overrides: Sequence[Sequence[str]]) -> int:
        about = parent.read(sweep)
        device = self._config(job_overrides[0]).device
        share = launcher.share(
            [device], about["jobs"], self.settings["n_jobs"], about.get("threads")
        )
        if "threads" not in about:
            parent.note(sweep, threads=share.threads)
        self.settings["n_jobs"] = max(2, share.size)  # 1 would be this process
        return share.threads

    def inner(self, threads: int) -> Launcher:
        from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

        return JoblibLauncher(**self.settings)

    def again(self) -> bool:
        """Its pool ends whole when one of its processes does."""
        return True


class Ray(Elsewhere):
    name = "Ray"

    def threads(self, sweep: Path, job_overrides: Sequence[Sequence[str]]) -> int:
        return max(1, int(self.settings["remote"]["num_cpus"]))

    def inner(self, threads: int) -> Launcher:
        from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        plain = {key: OmegaConf.create(dict(value)) for key, value in self.settings.items()}
        return RayLauncher(ray=OmegaConf.create(plain))

    def again(self) -> bool:
        """It has tried each as often as `max_retries` says."""
        import ray

        ray.shutdown()
        return True


class Submitit(Elsewhere):
    name = "submitit"

    def threads(self, sweep: Path, job_overrides: Sequence[Sequence[str]]) -> int:
        return int(self.settings["cpus_per_task"])

    def inner(self, threads: int) -> Launcher:
        from hydra_plugins.hydra_submitit_launcher import submitit_launcher

        return getattr(submitit_launcher, f"{self.name.capitalize()}Launcher")(**self.settings)


class Slurm(Submitit):
    name = "slurm"


class Local(Submitit):
    name = "local"


@dataclass(frozen=True)
class Apart:
    """What the launcher's process is to do with a job."""

    folder: str
    """In which the sweep was started, and relative paths begin."""
    path: tuple[str, ...]
    """Where modules are looked for."""
    threads: int

    def __call__(self, config: DictConfig) -> None:
        os.chdir(self.folder)
        sys.path[:] = [*self.path, *(place for place in sys.path if place not in self.path)]
        hydra_config = HydraConfig.get()
        sweep, number = Path(hydra_config.sweep.dir), hydra_config.job.num
        whole = _plain(config)
        with open_dict(whole):
            whole["hydra"] = _plain(HydraConfig.instance().cfg.hydra)
        if not launcher.CREWS:
            # joblib's own method is none of Python's
            multiprocessing.set_start_method("spawn", force=True)
            launcher.CREWS.append(Crew(1, self.threads))
            # before multiprocessing waits for its children, which wait for more jobs
            Finalize(
                None, launcher.dismiss, (Console(highlight=False, markup=False),), exitpriority=1
            )
        died = launcher.Died(sweep)
        died.overrides[number] = list(hydra_config.overrides.task)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            launcher.CREWS[0].run(iter([(number, whole)]), died)
            # this process may be ended at any moment from now on
            for lacking in launcher.CREWS[0].settle():
                print(f"MLflow did not take all of {lacking}")
        (sweep / "said").mkdir(exist_ok=True)
        atomic.write(sweep / "said" / f"{number}.txt", said.getvalue().encode(), sync=False)


@contextlib.contextmanager
def _shown(sweep: Path) -> Iterator[None]:
    """Shows what jobs have said, each when it has ended."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(PAUSE):
            _show(sweep)

    _show(sweep)
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _show(sweep)


def _show(sweep: Path) -> None:
    for path in sorted((sweep / "said").glob("*.txt"), key=lambda path: path.stat().st_mtime_ns):
        sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))
        sys.stdout.flush()
        path.unlink()


def _in_a_row(jobs: dict[int, list[str]]) -> Iterator[tuple[int, list[list[str]]]]:
    """The jobs whose numbers follow each other, as launchers number them, and the first number."""
    numbers = sorted(jobs)
    starts = [number for number in numbers if number - 1 not in jobs]
    for start, following in zip(starts, [*starts[1:], numbers[-1] + 1], strict=True):
        yield start, [jobs[number] for number in numbers if start <= number < following]


def _plain(node: DictConfig) -> DictConfig:
    """Without the types that Hydra gives its own settings, which not every process can read."""
    content: Any = OmegaConf.to_container(node, resolve=False)
    return DictConfig(content)


def _quoted(text: str) -> str:
    """A text as Hydra reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def register() -> None:
    """Lets Hydra find the launchers, by names of the one package in which it looks for plugins."""
    plugins = Plugins.instance()
    for each in (Joblib, Ray, Slurm, Local):
        plugins.register(each)
        plugins.class_name_to_class[f"hydra_plugins.recipe.{each.__name__}"] = each
