"""A sweep before its first run: its jobs, checked as far as can be without making anything."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.types import Glob, Override

from recipe.config import compose
from recipe.config.compose import Job
from recipe.config.overrides import check_overrides, describe_interval_problem
from recipe.config.schema import find_run_setting_problems
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.runner.recorder import Status
from recipe.store import run_dirs, sweep_jobs, sweep_record
from recipe.sweep.launchers import forkserver, gpu_assignment

MAX_PREFLIGHT_SEEDS = 3
"""Seeds with which the parts of jobs are made before a sweep starts, if none can be."""


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of a sweep in the order in which they are run."""

    name: str
    first_spec: RunSpec
    jobs: Sequence[Job]
    extra_metadata: Mapping[str, Any] = field(default_factory=dict)
    """What an ablation's or a search's sweep.json says besides."""

    preserved_keys: ClassVar[Collection[str]] = ()
    """What sweep.json says that stays where a sweep is gone on with."""

    @property
    def preflight_jobs(self) -> Sequence[Job]:
        """The jobs of which the parts may be made before the first is run."""
        return self.jobs

    @property
    def digest(self) -> str:
        """Of the command lines, less how the jobs are launched: what makes it the same sweep."""
        jobs = sorted(
            tuple(t for t in job.overrides if not is_hydra_override(t)) for job in self.jobs
        )
        what = (self.extra_metadata["plan"], jobs) if self.extra_metadata else jobs
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def is_finished(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a sweep of these command lines has nothing left to do, as its sweep.json says."""
        return bool(metadata.get("end", {}).get("status") == "FINISHED")

    def find_unfinished(self, sweeps_dir: Path) -> Path | None:
        """The newest sweep of the same command lines, if it isn't done and nobody is running it."""
        for folder in sorted(sweeps_dir.glob("*"), reverse=True):
            about = sweep_record.read_record(folder)
            if about.get("digest") == self.digest:
                return None if self.is_finished(about) or run_dirs.is_running(folder) else folder
        return None

    def prepare(self, sweep_dir: Path) -> None:
        """What is to be done before the first job of a sweep. Raises SpecError."""

    def get_final_status(self, sweep_dir: Path) -> Status:
        """How a sweep ended that was not interrupted."""
        done = [each for each in sweep_jobs.read_results(sweep_dir) if each.status == "FINISHED"]
        return "FINISHED" if len(done) == sweep_record.read_record(sweep_dir)["jobs"] else "FAILED"

    def format_summary(self, sweep_dir: Path) -> str:
        """The sweep's page in MLflow, as Markdown."""
        return sweep_jobs.format_markdown(sweep_dir)

    def to_metadata(self, command: Sequence[str]) -> dict[str, Any]:
        """What sweep.json says when the sweep begins."""
        return {
            "name": self.first_spec.name or self.name,
            "command": list(command),
            "swept": sorted({text.split("=")[0] for job in self.jobs for text in job.swept}),
            "jobs": len(self.jobs),
            "planned": [list(job.swept) for job in self.jobs],
            "digest": self.digest,
            **self.extra_metadata,
        }


def plan_grid(overrides: Sequence[Override]) -> SweepPlan:
    """Every combination of the values given. Raises SpecError with all that is wrong."""
    problems = Problems()
    specs: list[RunSpec] = []
    with compose.composition_context():
        wrong = find_value_problems(overrides)
        wrong |= find_duplicate_problems([o for o in overrides if o.input_line not in wrong])
        problems += wrong.values()
        checked = check_overrides([o for o in overrides if o.input_line not in wrong])
        problems += checked.problems
        made = compose.expand_sweep(checked.overrides)
        seen = set()
        for job in made:
            # seeds are many and all alike
            alike = tuple(text for text in job.overrides if not text.startswith("seed="))
            if alike not in seen:
                seen.add(alike)
                with problems.collect("sweep"):
                    specs.append(job.to_spec())
    for spec in specs:
        problems += find_spec_problems(spec)
    if specs:
        problems += find_seed_problems(specs[0], made)
    problems.raise_if_any()
    name = " ".join(o.input_line for o in overrides if o.is_sweep_override())
    return SweepPlan(name or specs[0].label, specs[0], made)


def find_value_problems(overrides: Sequence[Override]) -> dict[str, str]:
    """What is wrong with the sweeps that can't be listed, by what was typed: an interval, and one
    without a value, which Hydra takes for no sweep at all."""
    found = {}
    for override in overrides:
        text = override.input_line
        if not override.is_sweep_override() or isinstance(override.value(), Glob):
            continue
        if override.is_interval_sweep():
            found[text] = describe_interval_problem(override, "values")
        elif next(iter(override.sweep_string_iterator()), None) is None:
            found[text] = f"{text}: there is no value in it; give one at least"
    return found


def find_duplicate_problems(overrides: Sequence[Override]) -> dict[str, str]:
    """What is swept over and given several times, of which Hydra takes the last, by what was
    typed."""
    found: dict[str, str] = {}
    for override in overrides:
        text, key = override.input_line, override.key_or_group
        if not override.is_sweep_override() or isinstance(override.value(), Glob):
            continue
        others = [o.input_line for o in overrides if o.key_or_group == key and o is not override]
        if others and not any(line in found for line in others):
            lines = ", ".join([text, *others])
            found[text] = f"{lines}: {key} is given {len(others) + 1} times; give it once"
    return found


def is_hydra_override(text: str) -> bool:
    """Whether an override is of Hydra's own node."""
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def find_spec_problems(spec: RunSpec) -> list[str]:
    """What is wrong with a spec, told without making anything."""
    return [
        *find_run_setting_problems(vars(spec)),
        *forkserver.call_in_helper(_find_static_problems, spec),
    ]


def _find_static_problems(spec: RunSpec) -> list[str]:
    from recipe.training.param_groups import static_problems

    return [line for lines in static_problems(spec).values() for line in lines]


def find_shared_problems(plan: SweepPlan) -> list[str]:
    """What keeps every job from running, found by making their parts: of one after the other until
    those of one can be made, so that each value that is swept over is tried, and a few seeds. The
    jobs of a search are not known before: only what all that are tried have in common counts. Call
    within `menu_folder()`."""
    found: list[list[str]] = []
    seen: set[str] = set()
    seeds: list[str] = []
    variants: set[tuple[str, ...]] = set()
    for job in plan.preflight_jobs:
        seeds += [text for text in job.swept if _is_seed_override(text) and text not in seeds]
        values = {text for text in job.swept if text not in seeds[MAX_PREFLIGHT_SEEDS:]}
        if plan.jobs and found and values <= seen:
            continue
        spec = job.to_spec()
        question = functools.partial(
            _find_build_problems, on_cpu=gpu_assignment.is_cpu_device(spec.device)
        )
        lines = forkserver.call_in_helper(question, spec)
        if not lines:
            return []
        seen |= values
        found.append(lines)
        variants.add(_drop_seed(job))
    if found and variants == set(map(_drop_seed, plan.jobs)):
        return list(dict.fromkeys(line for lines in found for line in lines))
    return [line for line in found[0] if all(line in lines for lines in found)] if found else []


def _drop_seed(job: Job) -> tuple[str, ...]:
    return tuple(text for text in job.swept if not _is_seed_override(text))


def _is_seed_override(text: str) -> bool:
    return text.startswith("seed=")


def _find_build_problems(spec: RunSpec, *, on_cpu: bool) -> list[str]:
    from recipe.runner import prepare

    with prepare.preserve_environment():
        return prepare.find_problems(spec, is_on_cpu=on_cpu)


def find_seed_problems(spec: RunSpec, jobs: Sequence[Job]) -> list[str]:
    """What is wrong with the seeds given, each looked at once."""
    texts = {text for job in jobs for text in job.swept if text.startswith("seed=")}
    seeds: list[Any] = [override.value() for override in compose.parse_overrides(sorted(texts))]
    return [
        line for seed in seeds for line in find_run_setting_problems(vars(replace(spec, seed=seed)))
    ]
