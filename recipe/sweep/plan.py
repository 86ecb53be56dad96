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
from recipe.config.overrides import check, interval_problem
from recipe.config.schema import root_problems
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.runner.recorder import Status
from recipe.store import run_dirs, sweep_jobs, sweep_record
from recipe.sweep.launchers import forkserver, gpu_assignment

SEEDS_TRIED = 3
"""Seeds with which the parts of jobs are made before a sweep starts, if none can be."""


@dataclass(frozen=True)
class Planned:
    """The jobs of a sweep in the order in which they are run."""

    name: str
    first: RunSpec
    jobs: Sequence[Job]
    about: Mapping[str, Any] = field(default_factory=dict)
    """What an ablation's or a search's sweep.json says besides."""

    keeps: ClassVar[Collection[str]] = ()
    """What sweep.json says that stays where a sweep is gone on with."""

    @property
    def tried(self) -> Sequence[Job]:
        """The jobs of which the parts may be made before the first is run."""
        return self.jobs

    @property
    def digest(self) -> str:
        """Of the command lines, less how the jobs are launched: what makes it the same sweep."""
        jobs = sorted(tuple(t for t in job.overrides if not is_hydras(t)) for job in self.jobs)
        what = (self.about["plan"], jobs) if self.about else jobs
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def is_done(self, about: Mapping[str, Any]) -> bool:
        """Whether a sweep of these command lines has nothing left to do, as its sweep.json says."""
        return bool(about.get("end", {}).get("status") == "FINISHED")

    def unfinished(self, sweeps: Path) -> Path | None:
        """The newest sweep of the same command lines, if it isn't done and nobody is running it."""
        for folder in sorted(sweeps.glob("*"), reverse=True):
            about = sweep_record.read(folder)
            if about.get("digest") == self.digest:
                return None if self.is_done(about) or run_dirs.alive(folder) else folder
        return None

    def open(self, sweep: Path) -> None:
        """What is to be done before the first job of a sweep. Raises SpecError."""

    def status(self, sweep: Path) -> Status:
        """How a sweep ended that was not interrupted."""
        done = [each for each in sweep_jobs.read(sweep) if each.status == "FINISHED"]
        return "FINISHED" if len(done) == sweep_record.read(sweep)["jobs"] else "FAILED"

    def note(self, sweep: Path) -> str:
        """The sweep's page in MLflow, as Markdown."""
        return sweep_jobs.markdown(sweep)

    def content(self, command: Sequence[str]) -> dict[str, Any]:
        """What sweep.json says when the sweep begins."""
        return {
            "name": self.first.name or self.name,
            "command": list(command),
            "swept": sorted({text.split("=")[0] for job in self.jobs for text in job.swept}),
            "jobs": len(self.jobs),
            "planned": [list(job.swept) for job in self.jobs],
            "digest": self.digest,
            **self.about,
        }


def grid(overrides: Sequence[Override]) -> Planned:
    """Every combination of the values given. Raises SpecError with all that is wrong."""
    problems = Problems()
    specs: list[RunSpec] = []
    with compose.menu_folder():
        wrong = value_problems(overrides)
        wrong |= repetition_problems([o for o in overrides if o.input_line not in wrong])
        problems += wrong.values()
        checked = check([o for o in overrides if o.input_line not in wrong])
        problems += checked.problems
        made = compose.jobs(checked.overrides)
        seen = set()
        for job in made:
            # seeds are many and all alike
            alike = tuple(text for text in job.overrides if not text.startswith("seed="))
            if alike not in seen:
                seen.add(alike)
                with problems.collect("sweep"):
                    specs.append(job.spec())
    for spec in specs:
        problems += spec_problems(spec)
    if specs:
        problems += seed_problems(specs[0], made)
    problems.raise_any()
    name = " ".join(o.input_line for o in overrides if o.is_sweep_override())
    return Planned(name or specs[0].label, specs[0], made)


def value_problems(overrides: Sequence[Override]) -> dict[str, str]:
    """What is wrong with the sweeps that can't be listed, by what was typed: an interval, and one
    without a value, which Hydra takes for no sweep at all."""
    found = {}
    for override in overrides:
        text = override.input_line
        if not override.is_sweep_override() or isinstance(override.value(), Glob):
            continue
        if override.is_interval_sweep():
            found[text] = interval_problem(override, "values")
        elif next(iter(override.sweep_string_iterator()), None) is None:
            found[text] = f"{text}: there is no value in it; give one at least"
    return found


def repetition_problems(overrides: Sequence[Override]) -> dict[str, str]:
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


def is_hydras(text: str) -> bool:
    """Whether an override is of Hydra's own node."""
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def spec_problems(spec: RunSpec) -> list[str]:
    """What is wrong with a spec, told without making anything."""
    return [*root_problems(vars(spec)), *forkserver.asked(_static, spec)]


def _static(spec: RunSpec) -> list[str]:
    from recipe.training.param_groups import static_problems

    return [line for lines in static_problems(spec).values() for line in lines]


def shared_problems(planned: Planned) -> list[str]:
    """What keeps every job from running, found by making their parts: of one after the other until
    those of one can be made, so that each value that is swept over is tried, and a few seeds. The
    jobs of a search are not known before: only what all that are tried have in common counts. Call
    within `menu_folder()`."""
    found: list[list[str]] = []
    seen: set[str] = set()
    seeds: list[str] = []
    variants: set[tuple[str, ...]] = set()
    for job in planned.tried:
        seeds += [text for text in job.swept if _is_seed(text) and text not in seeds]
        values = {text for text in job.swept if text not in seeds[SEEDS_TRIED:]}
        if planned.jobs and found and values <= seen:
            continue
        spec = job.spec()
        question = functools.partial(_made, on_cpu=gpu_assignment.is_cpu(spec.device))
        lines = forkserver.asked(question, spec)
        if not lines:
            return []
        seen |= values
        found.append(lines)
        variants.add(_variant(job))
    if found and variants == set(map(_variant, planned.jobs)):
        return list(dict.fromkeys(line for lines in found for line in lines))
    return [line for line in found[0] if all(line in lines for lines in found)] if found else []


def _variant(job: Job) -> tuple[str, ...]:
    return tuple(text for text in job.swept if not _is_seed(text))


def _is_seed(text: str) -> bool:
    return text.startswith("seed=")


def _made(spec: RunSpec, *, on_cpu: bool) -> list[str]:
    from recipe.runner import execute

    with execute.rehearsal():
        return execute.problems(spec, on_cpu=on_cpu)


def seed_problems(spec: RunSpec, jobs: Sequence[Job]) -> list[str]:
    """What is wrong with the seeds given, each looked at once."""
    texts = {text for job in jobs for text in job.swept if text.startswith("seed=")}
    seeds: list[Any] = [override.value() for override in compose.parse(sorted(texts))]
    return [line for seed in seeds for line in root_problems(vars(replace(spec, seed=seed)))]
