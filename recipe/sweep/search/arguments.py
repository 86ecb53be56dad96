"""The arguments of `search`: its dimensions, seeds and settings, checked before the first run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from recipe.config import compose
from recipe.config.compose import Job
from recipe.config.groups import FINGERPRINT_EXCLUDED_FIELDS
from recipe.config.option_files import suggest_nearest
from recipe.config.overrides import check_overrides
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.formatting import format_value
from recipe.sweep import sweeper_arguments
from recipe.sweep.plan import find_duplicate_problems, find_seed_problems, find_spec_problems
from recipe.sweep.search import dimension
from recipe.sweep.search.dimension import Dimension
from recipe.sweep.sweeper_arguments import is_hydra_override

ARGUMENT_NAMES = (
    "trials", "metric", "sampler", "pruner", "startup", "warmup", "storage", "batch", "yes",
)  # fmt: skip

METRICS = ("val/accuracy", "val/loss", "best/val_accuracy")

ARGUMENT_CHOICES = {"metric": METRICS, "sampler": ("tpe", "random"), "pruner": ("median", "none")}

ARGUMENT_MINIMUMS = {"trials": 1, "startup": 1, "warmup": 0, "batch": 1}

EXAMPLE_COMMAND = (
    "python -m recipe search optimizer.lr='tag(log, interval(1e-4, 1e-1))' clip=none,norm"
)


@dataclass(frozen=True)
class SearchSettings:
    trials: int
    metric: str
    sampler: str
    pruner: str
    startup: int
    warmup: int
    storage: str | None
    batch: int


@dataclass(frozen=True)
class SearchArguments:
    settings: SearchSettings
    yes: bool
    dimensions: tuple[Dimension, ...]
    seed_overrides: tuple[str, ...]
    fixed_overrides: tuple[str, ...]
    """The overrides that all jobs have, without Hydra's."""
    launcher: str
    """The option of hydra/launcher."""
    first_spec: RunSpec


def parse_arguments(overrides: Sequence[Override]) -> SearchArguments:
    """Raises SpecError with all problems."""
    problems = Problems()
    with compose.composition_context():
        unknown = sweeper_arguments.find_unknown_arguments("search", ARGUMENT_NAMES, overrides)
        problems += unknown.values()
        swept = [o for o in overrides if o.is_sweep_override() and o.input_line not in unknown]
        single_valued = {"seed", *(o.key_or_group for o in overrides if o.is_sweep_override())}
        keys = [o.key_or_group for o in overrides if o.key_or_group in single_valued]
        problems += find_duplicate_problems(overrides, keys).values()
        seeds, searched = _parse_seeds(swept, problems), []
        for override in swept:
            if override.key_or_group != "seed":
                searched += _parse_dimension(override, problems)
        single = [o for o in overrides if not o.is_sweep_override()]
        given = [o for o in single if o.input_line not in unknown]
        known = check_overrides([*given, *(_make_boundary_override(o, d) for o, d in searched)])
        problems += known.problems
        fixed = [o for o in known.overrides if o in given]
        settings, yes = _parse_settings([o.input_line for o in fixed], problems)
        if not searched and not problems:
            problems.append(
                "search: there is nothing to search; give a setting several values or an "
                f"interval, such as: {EXAMPLE_COMMAND}"
            )
        dimensions = tuple(d for _, d in searched)
        texts = tuple(o.input_line for o in fixed if o.key_or_group != "seed")
        if not seeds:
            seeds = (f"seed={compose.compose_config([o.input_line for o in fixed]).seed}",)
        if settings:
            problems += _find_metric_problems(settings, dimensions)
        lasting = tuple(text for text in texts if not is_hydra_override(text))
        first = (
            _make_first_spec(lasting, dimensions, seeds, problems) if not known.problems else None
        )
    if first is not None:
        problems += find_seed_problems(first, seeds)
    problems.raise_if_any()
    assert settings is not None and first is not None
    launchers = [str(o.value()) for o in fixed if o.key_or_group == "hydra/launcher"]
    return SearchArguments(
        settings, yes, dimensions, seeds, lasting, (launchers or ["workers"])[-1], first
    )


def _parse_seeds(swept: Sequence[Override], problems: Problems) -> tuple[str, ...]:
    for override in swept:
        if override.key_or_group == "seed":
            if isinstance(override.value(), IntervalSweep):
                problems.append(
                    f"{override.input_line}: seeds are repeats of a trial and never searched; "
                    "give them, seed=0,1,2"
                )
                return ()
            seeds = tuple(dict.fromkeys(f"seed={v}" for v in override.sweep_string_iterator()))
            if not seeds:
                problems.append(
                    f"{override.input_line}: there is no value in it; give one at least"
                )
            return seeds
    return ()


def _parse_dimension(override: Override, problems: Problems) -> list[tuple[Override, Dimension]]:
    text, root = override.input_line, override.key_or_group.split(".")[0]
    if root.startswith("hydra"):
        problems.append(f"{text.removeprefix(sweeper_arguments.SWEEPER_PREFIX)}: give one value")
        return []
    if root in FINGERPRINT_EXCLUDED_FIELDS:
        problems.append(f"{text}: {root} changes no number of a run; give one value")
        return []
    try:
        return [(override, dimension.parse_dimension(override))]
    except ValueError as error:
        problems.append(f"{text}: {error}")
        return []


def _make_boundary_override(override: Override, searched_dimension: Dimension) -> Override:
    """An override with a single value, for checks of the key."""
    if isinstance(override.value(), IntervalSweep | RangeSweep):
        return compose.parse_override(searched_dimension.boundary_overrides[0])
    return override


def _parse_settings(texts: Sequence[str], problems: Problems) -> tuple[SearchSettings | None, bool]:
    """The settings of the search, and whether to start without confirmation."""
    hydras = [text for text in texts if is_hydra_override(text)]
    node: Any = OmegaConf.to_container(compose.compose_config(hydras).hydra.sweeper, resolve=True)
    found = []
    for key, known in ARGUMENT_CHOICES.items():
        if node[key] not in known:
            hint = suggest_nearest(str(node[key]), known) or f"; there are {', '.join(known)}"
            found.append(f"{key}={node[key]}: no such {key}{hint}")
    for key, least in ARGUMENT_MINIMUMS.items():
        if type(node[key]) is not int or node[key] < least:
            found.append(
                f"{key} must be a whole number of at least {least}, got {format_value(node[key])}"
            )
    found += sweeper_arguments.find_yes_problems(node["yes"])
    found += sweeper_arguments.find_address_problems(node["storage"])
    problems += found
    names = [key for key in ARGUMENT_NAMES if key != "yes"]
    return (None if found else SearchSettings(**{k: node[k] for k in names})), node["yes"] is True


def _find_metric_problems(settings: SearchSettings, dimensions: Sequence[Dimension]) -> list[str]:
    if settings.metric != "val/loss":
        return []
    return [
        f"{d.typed}: values of different losses can't be compared, and metric={settings.metric}; "
        "use metric=val/accuracy"
        for d in dimensions
        if d.key.split(".")[0] == "loss"
    ]


def _make_first_spec(
    fixed_overrides: Sequence[str],
    dimensions: Sequence[Dimension],
    seeds: Sequence[str],
    problems: Problems,
) -> RunSpec | None:
    """The spec with the first values. Checks the boundary values of one dimension at a time."""
    firsts = {d.key: d.boundary_overrides[0] for d in dimensions}
    specs: list[RunSpec] = []
    others = [{**firsts, d.key: text} for d in dimensions for text in d.boundary_overrides[1:]]
    for chosen in [firsts, *others]:
        with problems.collect("search"):
            specs.append(Job((*fixed_overrides, *chosen.values(), seeds[0]), ()).to_spec())
    problems += dict.fromkeys(line for spec in specs for line in find_spec_problems(spec))
    return specs[0] if specs else None
