"""One group of a spec -> the callable it names, with its settings bound.

The only place where Hydra instantiates anything. Needs torch only where the part does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from recipe import settings, trust
from recipe.errors import Problems
from recipe.menu import GROUPS
from recipe.spec import RunSpec


def static_problems(spec: RunSpec, groups: tuple[str, ...] = GROUPS) -> dict[str, list[str]]:
    """What is wrong with each group's `_target_` and settings, told without making anything."""
    found: dict[str, list[str]] = {}
    for group in groups:
        problems, node = Problems(), getattr(spec, group)
        option = spec.options[group]
        with problems.collect(f"{group}={option}"):
            _check_nested_targets(node, spec.trust)
            called = trust.locate(node.get("_target_"), spec.trust)
            problems += settings.problems(group, option, called, node)
            if group == "optimizer" and not problems:
                from recipe.grouping import Grouping

                problems += Grouping(spec.options, part(spec, group)).settings_problems()
        if problems:
            found[group] = list(problems)
    return found


def _check_nested_targets(node: Any, trusted: tuple[str, ...]) -> None:
    for value in (
        node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    ):
        if isinstance(value, Mapping) and "_target_" in value:
            trust.locate(value["_target_"], trusted)
        _check_nested_targets(value, trusted)


def part(spec: RunSpec, group: str, facts: Mapping[str, Any] | None = None) -> Any:
    """The group's callable with its settings bound; `auto` is filled in from the data's facts."""
    node = getattr(spec, group)
    trust.locate(node["_target_"], spec.trust)
    _check_nested_targets(node, spec.trust)  # Hydra makes those too
    _, given = settings.split(group, node)
    for key in settings.FACTS:
        if given.get(key) == "auto" and facts is not None:
            given[key] = facts[key]
    bound = instantiate({"_target_": node["_target_"], **given}, _partial_=True, _convert_="all")
    # Hydra's partial looks its target up in a policy at every call
    return functools.partial(bound.func, *bound.args, **bound.keywords)


def device_part(spec: RunSpec) -> Any:
    """The device, made before torch is imported."""
    return part(spec, "device")()
