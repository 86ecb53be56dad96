"""A sweep before its first run: its jobs, checked as far as possible without training."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from recipe.formatting import format_bytes, pluralize
from recipe.runner.recorder import Status
from recipe.store import run_dirs, sweep_jobs, sweep_record
from recipe.sweep.launchers import gpu_assignment
from recipe.sweep.launchers.forkserver import TORCH_HELPER
from recipe.sweep.sweeper_arguments import is_hydra_override

MAX_PREFLIGHT_SEEDS = 3
"""Seeds with which components are built before a sweep starts, if none can be built."""


@dataclass(frozen=True)
class RunSize:
    weights_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of a sweep in the order in which they are run."""

    name: str
    first_spec: RunSpec
    jobs: Sequence[Job]
    extra_metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of sweep.json that only ablations or searches have."""

    preserved_keys: ClassVar[Collection[str]] = ()
    """Fields of sweep.json that stay when the sweep is resumed."""

    @property
    def preflight_jobs(self) -> Sequence[Job]:
        """The jobs whose components may be built before the first one is run."""
        return self.jobs

    @property
    def digest(self) -> str:
        """Identifies the sweep: a hash of its jobs, whatever launches them."""
        jobs = sorted(
            tuple(t for t in job.overrides if not is_hydra_override(t)) for job in self.jobs
        )
        identity = (self.extra_metadata["plan"], jobs) if self.extra_metadata else jobs
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def is_finished(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a sweep with this digest has nothing left to do, by its sweep.json."""
        return bool(metadata.get("end", {}).get("status") == "FINISHED")

    def find_unfinished(self, sweeps_dir: Path) -> Path | None:
        """The newest sweep with this digest, if it is neither finished nor running."""
        for folder in sorted(sweeps_dir.glob("*"), reverse=True):
            about = sweep_record.read_record(folder)
            if about.get("digest") == self.digest:
                return None if self.is_finished(about) or run_dirs.is_running(folder) else folder
        return None

    def prepare(self, sweep_dir: Path) -> None:
        """Called before the first job of a sweep. Raises SpecError."""

    def get_final_status(self, sweep_dir: Path) -> Status:
        """The status of a sweep that was not interrupted."""
        done = [each for each in sweep_jobs.read_results(sweep_dir) if each.status == "FINISHED"]
        return "FINISHED" if len(done) == sweep_record.read_record(sweep_dir)["jobs"] else "FAILED"

    def format_summary(self, sweep_dir: Path) -> str:
        """The description of the sweep in MLflow, as Markdown."""
        return sweep_jobs.format_markdown(sweep_dir)

    def to_metadata(self, command: Sequence[str]) -> dict[str, Any]:
        """The sweep.json of a new sweep."""
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
    """Every combination of the given values. Raises SpecError with all problems."""
    problems = Problems()
    specs: list[RunSpec] = []
    with compose.composition_context():
        wrong = find_value_problems(overrides)
        rest = [o for o in overrides if o.input_line not in wrong]
        swept = [o for o in rest if o.is_sweep_override() and not isinstance(o.value(), Glob)]
        wrong |= find_duplicate_problems(rest, [o.key_or_group for o in swept])
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
        problems += find_seed_problems(
            specs[0], [t for job in made for t in job.swept if _is_seed_override(t)]
        )
    problems.raise_if_any()
    name = " ".join(o.input_line for o in overrides if o.is_sweep_override())
    return SweepPlan(name or specs[0].label, specs[0], made)


def find_value_problems(overrides: Sequence[Override]) -> dict[str, str]:
    """The problems of sweeps that can't be enumerated, by the text of the override: an interval,
    and one without a value, which Hydra doesn't treat as a sweep."""
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


def find_duplicate_problems(
    overrides: Sequence[Override], keys: Collection[str], way_out: str = ""
) -> dict[str, str]:
    """The problems of keys given several times, of which Hydra would take the last, by the text of
    the override."""
    found: dict[str, str] = {}
    for key in dict.fromkeys(keys):
        texts = [o.input_line for o in overrides if o.key_or_group == key]
        if len(texts) > 1:
            lines = f"{', '.join(texts)}: {key} is given {len(texts)} times; give it once"
            found[texts[0]] = lines + way_out.format(key=key)
    return found


def format_disk_estimate(spec: RunSpec, n_jobs: int) -> str | None:
    """The disk space for runs of this and similar specs, and how much more a run needs while it
    trains; None without a helper process to measure it."""
    if not TORCH_HELPER.is_started:
        return None
    size: RunSize | None = TORCH_HELPER.call("recipe.sweep.preflight:measure_run_size", spec)
    if size is None:
        return None
    every, keep = spec.checkpoint["every"], spec.checkpoint["keep"]
    kept = min(keep, spec.checkpoint["keep_finished"]) if every is not None else 0
    copies = 2 if spec.options["tracking"] == "local" else 1
    each = copies * size.weights_bytes + kept * size.checkpoint_bytes
    parts = ["weights", *["their copy for MLflow"] * (copies - 1)]
    if kept:
        parts.append(pluralize(kept, "checkpoint"))
    text = (
        f"about {format_bytes(n_jobs * each)}: {format_bytes(each)} for each of "
        f"{pluralize(n_jobs, 'run')} ({', '.join(parts)})"
    )
    if every is not None and keep > kept:
        text += f", {format_bytes((keep - kept) * size.checkpoint_bytes)} more for each that trains"
    return text


def find_spec_problems(spec: RunSpec) -> list[str]:
    """The problems of a spec that are found without building anything."""
    static = TORCH_HELPER.call("recipe.training.param_groups:static_problems", spec)
    return [*find_run_setting_problems(vars(spec)), *itertools.chain(*static.values())]


def find_shared_problems(plan: SweepPlan) -> list[str]:
    """The problems that keep every job from running, found by building components: of one job
    after the other, until one can be built, so that each value in the sweep and a few seeds are
    tried. The jobs of a search aren't known in advance: only the problems that all tried ones have
    in common count. Call within `composition_context()`."""
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
        is_on_cpu = gpu_assignment.is_cpu_device(spec.device)
        lines = TORCH_HELPER.call("recipe.sweep.preflight:find_build_problems", spec, is_on_cpu)
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


def find_seed_problems(spec: RunSpec, texts: Iterable[str]) -> list[str]:
    """The problems of the seeds among overrides."""
    seeds: list[Any] = [o.value() for o in compose.parse_overrides(sorted(set(texts)))]
    return [
        line for seed in seeds for line in find_run_setting_problems(vars(replace(spec, seed=seed)))
    ]


def join_seeds(seed_overrides: Sequence[str]) -> str:
    """The seeds as one override."""
    return f"seed={','.join(text.removeprefix('seed=') for text in seed_overrides)}"
