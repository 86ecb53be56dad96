"""The arguments of `ablate`: its tricks, its seeds and its plan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from recipe.config import compose, option_files
from recipe.config.groups import GROUPS, OFF_OPTIONS
from recipe.config.option_files import suggest_nearest
from recipe.config.overrides import get_option_names
from recipe.errors import Problems
from recipe.formatting import pluralize
from recipe.sweep.ablation.variants import (
    FULL_SET_PLANS,
    MAX_VARIANTS,
    PLANS,
    Trick,
    count_variants,
)
from recipe.sweep.plan import find_duplicate_problems
from recipe.sweep.sweeper_arguments import SWEEPER_PREFIX, find_yes_problems

TRICK_GROUPS = tuple(group for group in GROUPS if group in OFF_OPTIONS)

ARGUMENT_NAMES = ("plan", "yes")

EXAMPLE_COMMAND = "python -m recipe ablate clip=norm scheduler=step 'seed=range(7)'"


@dataclass(frozen=True)
class AblationArguments:
    plan: str
    yes: bool
    tricks: tuple[Trick, ...]
    seed_overrides: tuple[str, ...]
    fixed_overrides: tuple[str, ...]
    """The overrides that all jobs have."""


def parse_arguments(overrides: Sequence[Override], problems: Problems) -> AblationArguments:
    """Adds to `problems`. Raises SpecError if no config can be composed. Call within
    `composition_context()`, with overrides that were checked one by one."""
    problems += _find_sweep_problems(overrides)
    options = {o.key_or_group: o for o in overrides if o.key_or_group in TRICK_GROUPS}
    composed = compose.compose_config([_to_single_override(o) for o in overrides])
    chosen = _select_options(options, composed.hydra.runtime.choices)
    seed = next((o for o in overrides if o.key_or_group == "seed"), None)
    fixed = tuple(
        _to_single_override(o) for o in overrides if o is not seed and _get_group(o) not in chosen
    )
    tricks = _make_tricks(chosen, overrides, fixed)
    sweeper = composed.hydra.sweeper
    requested = AblationArguments(
        str(sweeper.plan), sweeper.yes is True, tricks, _parse_seeds(seed, composed), fixed
    )
    problems += _find_plan_problems(requested, sweeper)
    if not tricks and not problems:
        off = ", ".join(f"{group}={OFF_OPTIONS[group]}" for group in TRICK_GROUPS)
        problems.append(
            f"ablate: every group is off ({off}), so there is nothing to compare; choose tricks, "
            f"such as: {EXAMPLE_COMMAND}"
        )
    return requested


def _find_sweep_problems(overrides: Sequence[Override]) -> list[str]:
    """The problems of overrides with several values, or given several times."""
    keys = [o.key_or_group for o in overrides if o.key_or_group in (*TRICK_GROUPS, "seed")]
    way_out = ", several as {key}=<one>,<other>"
    found = list(find_duplicate_problems(overrides, keys, way_out).values())
    for override in overrides:
        key, text = override.key_or_group, override.input_line
        if not override.is_sweep_override() or key in (*TRICK_GROUPS, "seed"):
            continue
        if key.startswith("hydra"):
            found.append(f"{text.removeprefix(SWEEPER_PREFIX)}: give one value")
        else:
            command = _format_grid_command(overrides)
            found.append(
                f"{text}: an ablation varies tricks, on and off, and the seed; give one value"
                + (f", or run every combination with {command}" if command else "")
            )
    return found


def _format_grid_command(overrides: Sequence[Override]) -> str:
    """The grid of the same tricks, on and off, and of everything else that has several values;
    empty if there is none."""
    words = ["python -m recipe -m"]
    for override in overrides:
        key, group = override.key_or_group, _get_group(override)
        if group in TRICK_GROUPS and key != group:
            return ""  # a trick that is off takes no settings
        if group in TRICK_GROUPS:
            names = dict.fromkeys([OFF_OPTIONS[group], *get_option_names(override)])
            words.append(f"{group}={','.join(names)}")
        elif not key.startswith("hydra"):
            words.append(shlex.quote(override.input_line))
    return " ".join(words)


def _to_single_override(override: Override) -> str:
    """The override with its first value."""
    key = override.get_key_element()
    if override.is_sweep_override():
        return f"{key}={next(iter(override.sweep_string_iterator()))}"
    return f"{key}={override.get_value_element_as_str()}"


def _get_group(override: Override) -> str:
    return str(override.key_or_group).split(".")[0]


def _select_options(
    options: Mapping[str, Override], choices: Mapping[str, str]
) -> dict[str, list[str]]:
    """The options that are on, by group, in the order of the groups."""
    found = {}
    for group in TRICK_GROUPS:
        names = get_option_names(options[group]) if group in options else [choices[group]]
        on = [name for name in dict.fromkeys(names) if name != OFF_OPTIONS[group]]
        if on:
            found[group] = on
    return found


def _make_tricks(
    options_by_group: Mapping[str, Sequence[str]],
    overrides: Sequence[Override],
    fixed_overrides: Sequence[str],
) -> tuple[Trick, ...]:
    without = compose.compose_config(
        [*fixed_overrides, *(f"{group}={OFF_OPTIONS[group]}" for group in options_by_group)]
    )
    found = []
    for group, options in options_by_group.items():
        given = [
            _to_single_override(o)
            for o in overrides
            if _get_group(o) == group and o.key_or_group != group
        ]
        off = (f"{group}={OFF_OPTIONS[group]}", *_make_reset_overrides(group, without))
        found += [Trick(group, name, (f"{group}={name}", *given), off) for name in options]
    return tuple(found)


def _make_reset_overrides(group: str, off_config: DictConfig) -> list[str]:
    """Overrides that undo an experiment file's settings of a trick, for its off option."""
    node = off_config[group]
    own = OmegaConf.load(option_files.find_options(group)[OFF_OPTIONS[group]].path)
    names = list(node) if OmegaConf.is_dict(node) else []
    changed = [key for key in names if node._get_node(key) != own._get_node(key)]
    return [f"{group}.{key}={own[key]}" if key in own else f"~{group}.{key}" for key in changed]


def _parse_seeds(override: Override | None, composed: DictConfig) -> tuple[str, ...]:
    if override is not None and override.is_sweep_override():
        return tuple(dict.fromkeys(f"seed={value}" for value in override.sweep_string_iterator()))
    return (_to_single_override(override) if override is not None else f"seed={composed.seed}",)


def _find_plan_problems(arguments: AblationArguments, sweeper: Any) -> list[str]:
    found = find_yes_problems(sweeper.yes)
    plan = arguments.plan
    if plan not in PLANS:
        hint = suggest_nearest(plan, PLANS) or f"; there are {', '.join(PLANS)}"
        return [*found, f"plan={plan}: no such plan{hint}"]
    if plan in FULL_SET_PLANS:
        for group in dict.fromkeys(trick.group for trick in arguments.tricks):
            several = [trick.option for trick in arguments.tricks if trick.group == group]
            if len(several) > 1:
                found.append(
                    f"{group}={','.join(several)}: plan={plan} may have every trick on at once, "
                    f"and of {group} only one option can be; choose one, or use plan=add_one or "
                    "plan=factorial"
                )
    if (variants := count_variants(plan, arguments.tricks)) > MAX_VARIANTS:
        runs = pluralize(variants * len(arguments.seed_overrides), "run")
        found.append(
            f"plan={plan}: {len(arguments.tricks)} tricks make {variants:,} variants, {runs} in "
            f"all, and at most {MAX_VARIANTS} variants are planned; choose fewer tricks, or use "
            f"plan=add_one ({count_variants('add_one', arguments.tricks)} variants)"
        )
    return found
