"""What the command line of a search asks for, checked as far as can be before the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from recipe.compare.metric_unit import Unit
from recipe.config import compose
from recipe.config.compose import Job
from recipe.config.option_files import nearest
from recipe.config.overrides import check
from recipe.config.schema import ELSEWHERE
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.formatting import written
from recipe.sweep import sweeper_arguments
from recipe.sweep.plan import is_hydras, seed_problems, spec_problems
from recipe.sweep.search import dimension, storage
from recipe.sweep.search.dimension import Dimension

OWN = (
    "trials", "metric", "sampler", "pruner", "startup", "warmup", "storage", "batch", "yes",
)  # fmt: skip
"""The arguments of `search` itself."""

METRICS = ("val/accuracy", "val/loss", "best/val_accuracy")
"""What is taken after every epoch, and of which one direction is better."""

CHOICES = {"metric": METRICS, "sampler": ("tpe", "random"), "pruner": ("median", "none")}

LEAST = {"trials": 1, "startup": 1, "warmup": 0, "batch": 1}
"""The numbers, and what each is at least."""

EXAMPLE = "python -m recipe search optimizer.lr='tag(log, interval(1e-4, 1e-1))' clip=none,norm"


@dataclass(frozen=True)
class Settings:
    """How it is searched."""

    trials: int
    metric: str
    sampler: str
    pruner: str
    startup: int
    warmup: int
    storage: str | None
    batch: int

    @property
    def more_is_better(self) -> bool:
        return Unit(self.metric).sign > 0

    @property
    def told(self) -> dict[str, Any]:
        """What makes it the same search: all but how long it goes on."""
        return {k: v for k, v in asdict(self).items() if k not in ("trials", "batch")}


@dataclass(frozen=True)
class Asked:
    settings: Settings
    yes: bool
    dimensions: tuple[Dimension, ...]
    seeds: tuple[str, ...]
    """Overrides, `seed=0`."""
    fixed: tuple[str, ...]
    """The overrides that all jobs have, Hydra's own left out."""
    launcher: str
    """The option of hydra/launcher."""
    first: RunSpec


def read(overrides: Sequence[Override]) -> Asked:
    """Raises SpecError with all that is wrong."""
    problems = Problems(filter(None, [storage.missing()]))
    with compose.menu_folder():
        unknown = sweeper_arguments.unknown("search", OWN, overrides)
        problems += unknown.values()
        swept = [o for o in overrides if o.is_sweep_override() and o.input_line not in unknown]
        problems += _given_twice(overrides)
        seeds, searched = _seeds(swept, problems), []
        for override in swept:
            if override.key_or_group != "seed":
                searched += _dimension(override, problems)
        single = [o for o in overrides if not o.is_sweep_override()]
        given = [o for o in single if o.input_line not in unknown]
        known = check([*given, *(_representative(o, d) for o, d in searched)])
        problems += known.problems
        fixed = [o for o in known.overrides if o in given]
        settings, yes = _settings([o.input_line for o in fixed], problems)
        if not searched and not problems:
            problems.append(
                "search: there is nothing to search; give a setting several values or an "
                f"interval, such as: {EXAMPLE}"
            )
        dimensions = tuple(d for _, d in searched)
        texts = tuple(o.input_line for o in fixed if o.key_or_group != "seed")
        if not seeds:
            seeds = (f"seed={compose.config([o.input_line for o in fixed]).seed}",)
        if settings:
            problems += _metric_problems(settings, dimensions)
        lasting = tuple(text for text in texts if not is_hydras(text))
        first = _first(lasting, dimensions, seeds, problems) if not known.problems else None
    if first is not None:
        problems += seed_problems(first, [Job((), (text,)) for text in seeds])
    problems.raise_any()
    assert settings is not None and first is not None
    launchers = [str(o.value()) for o in fixed if o.key_or_group == "hydra/launcher"]
    return Asked(settings, yes, dimensions, seeds, lasting, (launchers or ["workers"])[-1], first)


def _given_twice(overrides: Sequence[Override]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for override in overrides:
        lines.setdefault(override.key_or_group, []).append(override.input_line)
    varied = {o.key_or_group for o in overrides if o.is_sweep_override()} | {"seed"}
    return [
        f"{', '.join(texts)}: {key} is given {len(texts)} times; give it once"
        for key, texts in lines.items()
        if len(texts) > 1 and key in varied
    ]


def _seeds(swept: Sequence[Override], problems: Problems) -> tuple[str, ...]:
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


def _dimension(override: Override, problems: Problems) -> list[tuple[Override, Dimension]]:
    text, root = override.input_line, override.key_or_group.split(".")[0]
    if root.startswith("hydra"):
        problems.append(f"{text.removeprefix(sweeper_arguments.PREFIX)}: give one value")
        return []
    if root in ELSEWHERE:
        problems.append(f"{text}: {root} changes no number of a run; give one value")
        return []
    try:
        return [(override, dimension.read(override))]
    except ValueError as error:
        problems.append(f"{text}: {error}")
        return []


def _representative(override: Override, searched: Dimension) -> Override:
    """An override that stands for all of a dimension, where names are checked."""
    if isinstance(override.value(), IntervalSweep | RangeSweep):
        return compose.parse_one(searched.ends[0])
    return override


def _settings(texts: Sequence[str], problems: Problems) -> tuple[Settings | None, bool]:
    """What the sweeper is to do, and whether without asking."""
    hydras = [text for text in texts if is_hydras(text)]
    node: Any = OmegaConf.to_container(compose.config(hydras).hydra.sweeper, resolve=True)
    found = []
    for key, known in CHOICES.items():
        if node[key] not in known:
            hint = nearest(str(node[key]), known) or f"; there are {', '.join(known)}"
            found.append(f"{key}={node[key]}: no such {key}{hint}")
    for key, least in LEAST.items():
        if type(node[key]) is not int or node[key] < least:
            found.append(
                f"{key} must be a whole number of at least {least}, got {written(node[key])}"
            )
    if not isinstance(node["yes"], bool):
        found.append(
            f"yes must be true or false, got {written(node['yes'])} (whether to start unasked)"
        )
    found += filter(None, [storage.problem(node["storage"])])
    problems += found
    names = [key for key in OWN if key != "yes"]
    return (None if found else Settings(**{k: node[k] for k in names})), node["yes"] is True


def _metric_problems(settings: Settings, dimensions: Sequence[Dimension]) -> list[str]:
    if not Unit(settings.metric).is_loss:
        return []
    return [
        f"{d.typed}: values of different losses can't be compared, and metric={settings.metric}; "
        "use metric=val/accuracy"
        for d in dimensions
        if d.key.split(".")[0] == "loss"
    ]


def _first(
    fixed: Sequence[str],
    dimensions: Sequence[Dimension],
    seeds: Sequence[str],
    problems: Problems,
) -> RunSpec | None:
    """The spec of the first values; every dimension's ends are checked, one dimension at a time."""
    firsts = {d.key: d.ends[0] for d in dimensions}
    specs: list[RunSpec] = []
    sets: list[Mapping[str, str]] = [firsts]
    sets += [{**firsts, d.key: text} for d in dimensions for text in d.ends[1:]]
    for chosen in sets:
        with problems.collect("search"):
            specs.append(Job((*fixed, *chosen.values(), seeds[0]), ()).spec())
    told: dict[str, None] = {}
    for spec in specs:
        told.update(dict.fromkeys(spec_problems(spec)))
    problems += told
    return specs[0] if specs else None
