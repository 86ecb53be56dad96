"""One group of a spec -> the callable it names, with its settings bound.

The only place where anything is made of a `_target_`. Hydra's `instantiate` isn't used: it would
look the name up by its own rules, and resolve texts with `${...}` once more, after they were
checked. Needs torch only where the part does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from recipe.config import allowlist, schema
from recipe.config.option_files import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import Problems


def find_component_problems(
    spec: RunSpec, groups: tuple[str, ...] = GROUPS
) -> dict[str, list[str]]:
    """What is wrong with each group's `_target_` and settings, told without making anything."""
    found: dict[str, list[str]] = {}
    for group in groups:
        problems, node = Problems(), getattr(spec, group)
        option = spec.options[group]
        with problems.collect_component_errors(
            f"{group}={option}"
        ):  # the message itself names the `_target_`
            called = _locate_component(node, spec.trust, group)
        if problems:
            found[group] = list(problems)
            continue
        with problems.collect_component_errors(spec.format_choice(group)):
            problems += schema.find_setting_problems(group, option, called, node)
        if problems:
            found[group] = list(problems)
    return found


def bind_component(
    spec: RunSpec, group: str, dataset_properties: Mapping[str, Any] | None = None
) -> Any:
    """The group's callable with its settings bound; `auto` is filled in from the data's facts."""
    node = getattr(spec, group)
    called = _locate_component(node, spec.trust, group)
    _, given = schema.split_engine_settings(group, node)
    for key in schema.DATASET_PROPERTIES:
        if (
            given.get(key) == "auto"
            and dataset_properties is not None
            and key in dataset_properties
        ):
            given[key] = dataset_properties[key]
    return functools.partial(
        called, **{key: _instantiate_setting(v, spec.trust) for key, v in given.items()}
    )


def _locate_component(
    node: Mapping[str, Any], trusted: tuple[str, ...], group: str
) -> Callable[..., Any]:
    """What a group's `_target_` names, once all that would be made with it may be."""
    called = allowlist.locate_target(node.get("_target_"), trusted, group)
    allowlist.check_nested_targets(node, trusted)
    allowlist.check_downloads(
        node["_target_"], called, schema.split_engine_settings(group, node)[1]
    )
    return called


def _instantiate_setting(value: Any, trusted: tuple[str, ...]) -> Any:
    """A setting as its part is given it: a copy, in which each `_target_` is made, innermost first.

    What `trust.locate` has looked at is what is called; no name is looked up a second time.
    """
    if isinstance(value, list):
        return [_instantiate_setting(item, trusted) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {key: _instantiate_setting(item, trusted) for key, item in value.items()}
    if "_target_" not in made:
        return made
    target, partial = made.pop("_target_"), made.pop("_partial_", False)
    bound = functools.partial(
        allowlist.locate_target(target, trusted), *made.pop("_args_", []), **made
    )
    if partial:
        return bound
    try:
        return bound()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"_target_ {target} can't be made: {error}") from error


def instantiate_device(spec: RunSpec) -> Any:
    """The device, made before torch is imported."""
    return bind_component(spec, "device")()
