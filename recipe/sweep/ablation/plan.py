"""`ablate`: from its command line to the jobs of an ablation, each spec once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.types import Override

from recipe.config import compose
from recipe.config.compose import Job
from recipe.config.overrides import check
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.sweep import sweeper_arguments
from recipe.sweep.ablation import arguments as tricks
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.arguments import OWN, Asked
from recipe.sweep.ablation.variants import PLANS, Variant
from recipe.sweep.plan import (
    Planned,
    is_hydras,
    seed_problems,
    spec_problems,
    value_problems,
)


@dataclass(frozen=True)
class Ablation:
    """What is to be compared, and what was left out of it."""

    asked: Asked
    specs: Mapping[Variant, RunSpec]
    """Of the variants that are run at first, with the first seed."""
    left_out: Sequence[str]
    """Which variants are not run, and why."""

    @property
    def planned(self) -> Planned:
        asked = self.asked
        pairs = variants.seed_major(list(self.specs), asked.tricks, asked.seeds)
        fixed = tuple(text for text in asked.fixed if not is_hydras(text))
        seeds = asked.seeds if len(asked.seeds) > 1 else ()
        given = [] if asked.plan == "both" else [f"plan={asked.plan}"]
        words = ["ablate", *(t.label for t in asked.tricks), *_shortly(seeds), *given]
        return Planned(
            " ".join(words),
            next(iter(self.specs.values())),
            [Job((*fixed, *swept), swept) for _, swept in pairs],
            {
                "plan": asked.plan,
                "tricks": [vars(trick) for trick in asked.tricks],
                "seeds": list(asked.seeds),
                "fixed": list(fixed),
                "variants": [name for name, _ in pairs],
            },
        )

    def job(self, variant: Variant, seed: str) -> Job:
        """The job of a variant, with a seed given as an override."""
        return _job(self.asked, variant, seed)


def arguments(given: Sequence[str]) -> list[str]:
    """The arguments of `ablate` as those of a sweep. Raises SpecError for another sweeper."""
    return sweeper_arguments.arguments("ablate", "ablation", OWN, given)


def plan(overrides: Sequence[Override]) -> Ablation:
    """The variants, checked as far as can be without making anything.

    Raises SpecError with all that is wrong, of every variant.
    """
    problems = Problems()
    with compose.menu_folder():
        wrong = value_problems(overrides)
        problems += wrong.values()
        overrides = [o for o in overrides if o.input_line not in wrong]
        unknown = sweeper_arguments.unknown("ablate", OWN, overrides)
        checked = check([o for o in overrides if o.input_line not in unknown])
        problems += [*unknown.values(), *checked.problems]
        asked = tricks.read(checked.overrides, problems)
        if not asked.tricks and not problems:
            problems.append(tricks.none_problem())
        # what is wrong beside the plan is told with it
        first = PLANS["add_one" if problems else asked.plan](asked.tricks)
        specs = {}
        found: dict[str, list[Variant]] = {}
        for variant in dict.fromkeys([*first, *_as_typed(asked)]):
            lines = Problems()
            with lines.collect("sweep"):
                specs[variant] = spec = _job(asked, variant).spec()
                lines += spec_problems(spec)
            for line in lines:
                found.setdefault(line, []).append(variant)
    problems += _told(found, asked, first)
    if specs:
        seeds = [_job(asked, (), seed) for seed in asked.seeds]
        problems += seed_problems(next(iter(specs.values())), seeds)
    problems.raise_any()
    once, left_out = _once({variant: specs[variant] for variant in first})
    if len(once) == 1:
        problems += [f"{line}; there is nothing to compare" for line in left_out]
    problems.raise_any()
    return Ablation(asked, once, left_out)


def _job(asked: Asked, variant: Variant, seed: str = "") -> Job:
    swept = (*variants.overrides(variant, asked.tricks), seed or asked.seeds[0])
    return Job((*asked.fixed, *swept), swept)


def _as_typed(asked: Asked) -> list[Variant]:
    """The sets with a trick of every group on, in which each trick is found; without any, none."""
    firsts = {trick.group: trick for trick in reversed(asked.tricks)}
    sets = [{**firsts, trick.group: trick} for trick in asked.tricks]
    return [variants.ordered(list(on.values())) for on in sets] or [()]


def _told(
    found: Mapping[str, Sequence[Variant]], asked: Asked, first: Iterable[Variant]
) -> list[str]:
    """What is wrong with a variant that is run; and if with everything on it isn't, without what
    it is."""
    typed, planned, told = set(_as_typed(asked)), set(first), []
    for line, where in found.items():
        if typed.intersection(where):
            if planned.intersection(where):
                told.append(line)
            continue
        variant = max(where, key=len)
        groups = {trick.group for trick in variant}
        off = [trick.off[0] for trick in asked.tricks if trick.group not in groups]
        told.append(
            f"{line} (with {' '.join(dict.fromkeys(off))} only: with every trick on it holds; give "
            "what holds with the trick off too, or leave the trick out of the ablation)"
        )
    return told


def _once(specs: Mapping[Variant, RunSpec]) -> tuple[dict[Variant, RunSpec], list[str]]:
    """The variants of which each spec is another, and what is told of the others."""
    first: dict[str, Variant] = {}
    left_out = []
    for variant, spec in specs.items():
        same = first.setdefault(replace(spec.as_written, name=None, options={}).to_yaml(), variant)
        if same != variant:
            left_out.append(
                f"{variants.name(variant)}: resolves to the same spec as {variants.name(same)}, "
                "which is run once"
            )
    return {variant: specs[variant] for variant in first.values()}, left_out


def _shortly(seeds: Sequence[str]) -> list[str]:
    """The seeds as one override."""
    values = [seed.removeprefix("seed=") for seed in seeds]
    return [f"seed={','.join(values)}"] if values else []
