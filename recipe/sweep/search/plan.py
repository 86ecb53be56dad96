"""The plan of a search as a sweep."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from recipe.config.compose import Job
from recipe.runner.recorder import Status
from recipe.store import sweep_jobs
from recipe.sweep.plan import MAX_PREFLIGHT_SEEDS, SweepPlan, join_seeds
from recipe.sweep.search import dimension, outcome
from recipe.sweep.search.arguments import SearchArguments
from recipe.sweep.search.study import SweepStudy

MAX_PREFLIGHT_JOBS = 20
"""Jobs whose components are built before a search starts, if none can be built."""


@dataclass(frozen=True)
class SearchPlan(SweepPlan):
    """The jobs are planned while the search runs."""

    preserved_keys: ClassVar[Collection[str]] = ("planned", "variants", "trials", "jobs")

    @property
    def digest(self) -> str:
        """The same for another number of trials."""
        search = {
            k: v for k, v in self.extra_metadata["search"].items() if k not in ("trials", "batch")
        }
        identity = (search, self.extra_metadata["seeds"], sorted(self.extra_metadata["fixed"]))
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    @property
    def preflight_jobs(self) -> Sequence[Job]:
        """All first values, all last ones, and all middle ones; every boundary value of one
        dimension with the first values of the others; all first values with other seeds. None if
        these are more than MAX_PREFLIGHT_JOBS."""
        dimensions = dimension.load_dimensions(self.extra_metadata)
        seeds = self.extra_metadata["seeds"]
        firsts = {d.key: d.boundary_overrides[0] for d in dimensions}
        points = [firsts, {d.key: d.boundary_overrides[-1] for d in dimensions}]
        points.append({d.key: d.middle_override for d in dimensions})
        points += [{**firsts, d.key: text} for d in dimensions for text in d.boundary_overrides[1:]]
        swept = [(*point.values(), seeds[0]) for point in points]
        swept += [(*firsts.values(), seed) for seed in seeds[1:MAX_PREFLIGHT_SEEDS]]
        if len(swept) > MAX_PREFLIGHT_JOBS:
            return []
        return [
            Job((*self.extra_metadata["fixed"], *texts), texts) for texts in dict.fromkeys(swept)
        ]

    def is_finished(self, metadata: Mapping[str, Any]) -> bool:
        """False if it has fewer trials than this plan."""
        wanted = self.extra_metadata["search"]["trials"]
        return (
            super().is_finished(metadata) and metadata.get("search", {}).get("trials", 0) >= wanted
        )

    def prepare(self, sweep_dir: Path) -> None:
        SweepStudy.load_or_create(sweep_dir)

    def get_final_status(self, sweep_dir: Path) -> Status:
        return "FINISHED" if outcome.is_complete(sweep_dir) else "FAILED"

    def format_summary(self, sweep_dir: Path) -> str:
        return f"{outcome.format_markdown(sweep_dir)}\n{sweep_jobs.format_markdown(sweep_dir)}"


def plan_search(arguments: SearchArguments) -> SearchPlan:
    settings, seeds = arguments.settings, arguments.seed_overrides
    words = ["search", *(d.typed for d in arguments.dimensions)]
    words += [join_seeds(seeds)] if len(seeds) > 1 else []
    return SearchPlan(
        " ".join(words),
        arguments.first_spec,
        [],
        {
            "search": {**asdict(settings), "dimensions": list(map(asdict, arguments.dimensions))},
            "swept": sorted({"seed", *(d.key for d in arguments.dimensions)}),
            "seeds": list(seeds),
            "fixed": list(arguments.fixed_overrides),
            "jobs": settings.trials * len(seeds),
            "trials": [],
            "variants": [],
        },
    )
