"""The plan of an ablation: from its command line to the jobs, each spec once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.types import Override

from recipe.config import compose
from recipe.config.compose import Job
from recipe.config.groups import GROUPS
from recipe.config.overrides import check_overrides
from recipe.config.spec import RunSpec
from recipe.errors import Problems
from recipe.sweep import sweeper_arguments
from recipe.sweep.ablation import arguments as tricks
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.arguments import ARGUMENT_NAMES, AblationArguments
from recipe.sweep.ablation.variants import PLANS, Variant
from recipe.sweep.plan import (
    SweepPlan,
    find_seed_problems,
    find_spec_problems,
    find_value_problems,
    join_seeds,
)
from recipe.sweep.sweeper_arguments import is_hydra_override


@dataclass(frozen=True)
class AblationPlan:
    arguments: AblationArguments
    specs: Mapping[Variant, RunSpec]
    """With the first seed."""
    skip_reasons: Sequence[str]
    """Of the variants that are left out."""

    @property
    def sweep_plan(self) -> SweepPlan:
        requested = self.arguments
        pairs = variants.make_jobs_by_seed(
            list(self.specs), requested.tricks, requested.seed_overrides
        )
        fixed = tuple(text for text in requested.fixed_overrides if not is_hydra_override(text))
        seeds = requested.seed_overrides
        several = [join_seeds(seeds)] if len(seeds) > 1 else []
        given = [] if requested.plan == "both" else [f"plan={requested.plan}"]
        words = ["ablate", *(t.label for t in requested.tricks), *several, *given]
        return SweepPlan(
            " ".join(words),
            next(iter(self.specs.values())),
            [Job((*fixed, *swept), swept) for _, swept in pairs],
            {
                "plan": requested.plan,
                "tricks": [vars(trick) for trick in requested.tricks],
                "seeds": list(requested.seed_overrides),
                "fixed": list(fixed),
                "variants": [name for name, _ in pairs],
            },
        )


def to_sweeper_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments of `ablate` as those of a sweep. Raises SpecError for another sweeper."""
    return sweeper_arguments.to_sweeper_overrides("ablate", "ablation", ARGUMENT_NAMES, arguments)


def plan_ablation(overrides: Sequence[Override]) -> AblationPlan:
    """The variants, checked as far as possible without building anything.

    Raises SpecError with the problems of all variants.
    """
    problems = Problems()
    with compose.composition_context():
        wrong = find_value_problems(overrides)
        problems += wrong.values()
        overrides = [o for o in overrides if o.input_line not in wrong]
        unknown = sweeper_arguments.find_unknown_arguments("ablate", ARGUMENT_NAMES, overrides)
        checked = check_overrides([o for o in overrides if o.input_line not in unknown])
        problems += [*unknown.values(), *checked.problems]
        requested = tricks.parse_arguments(checked.overrides, problems)
        # problems of the plan and of the specs are reported together
        first = PLANS["add_one" if problems else requested.plan](requested.tricks)
        specs = {}
        found: dict[str, list[Variant]] = {}
        for variant in dict.fromkeys([*first, *_make_full_variants(requested)]):
            lines = Problems()
            with lines.collect("sweep"):
                specs[variant] = spec = make_job(requested, variant).to_spec()
                lines += find_spec_problems(spec)
            for line in lines:
                found.setdefault(line, []).append(variant)
    problems += _format_problems(found, requested, first)
    if specs:
        problems += find_seed_problems(next(iter(specs.values())), requested.seed_overrides)
    problems.raise_if_any()
    once, left_out = _deduplicate({variant: specs[variant] for variant in first})
    if len(once) == 1:
        problems += [f"{line}; there is nothing to compare" for line in left_out]
    problems.raise_if_any()
    return AblationPlan(requested, once, left_out)


def make_job(arguments: AblationArguments, variant: Variant, seed: str = "") -> Job:
    swept = (
        *variants.make_overrides(variant, arguments.tricks),
        seed or arguments.seed_overrides[0],
    )
    return Job((*arguments.fixed_overrides, *swept), swept)


def _make_full_variants(arguments: AblationArguments) -> list[Variant]:
    """The sets with a trick of every group on that between them have each trick."""
    firsts = {trick.group: trick for trick in reversed(arguments.tricks)}
    sets = [{**firsts, trick.group: trick} for trick in arguments.tricks]
    return [tuple(sorted(on.values(), key=lambda t: GROUPS.index(t.group))) for on in sets] or [()]


def _format_problems(
    variants_by_problem: Mapping[str, Sequence[Variant]],
    arguments: AblationArguments,
    planned_variants: Iterable[Variant],
) -> list[str]:
    """The problems of planned variants; those that the full variants don't have say so."""
    full, planned, found = set(_make_full_variants(arguments)), set(planned_variants), []
    for line, where in variants_by_problem.items():
        if full.intersection(where):
            if planned.intersection(where):
                found.append(line)
            continue
        variant = max(where, key=len)
        groups = {trick.group for trick in variant}
        off = [trick.off[0] for trick in arguments.tricks if trick.group not in groups]
        found.append(
            f"{line} (with {' '.join(dict.fromkeys(off))} only: with every trick on it holds; give "
            "what holds with the trick off too, or leave the trick out of the ablation)"
        )
    return found


def _deduplicate(specs: Mapping[Variant, RunSpec]) -> tuple[dict[Variant, RunSpec], list[str]]:
    """The variants with distinct specs, and the reasons for leaving out the others."""
    first: dict[str, Variant] = {}
    left_out = []
    for variant, spec in specs.items():
        same = first.setdefault(
            replace(spec.with_normalized_numbers, name=None, options={}).to_yaml(), variant
        )
        if same != variant:
            left_out.append(
                f"{variants.format_variant(variant)}: resolves to the same spec as "
                f"{variants.format_variant(same)}, which is run once"
            )
    return {variant: specs[variant] for variant in first.values()}, left_out
