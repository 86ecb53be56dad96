"""Resolves the `_target_` of each group of a spec, and binds its settings.

Hydra's `instantiate` is not used: it would resolve names by its own rules, and `${...}` again after
the values were checked. torch is only imported if a component imports it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recipe.config import allowlist, schema
from recipe.config.groups import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import Problems


@dataclass(frozen=True)
class Component:
    """The callable of a group, and its settings."""

    function: Callable[..., Any]
    settings: Mapping[str, Any]
    trust: tuple[str, ...]

    @property
    def is_builtin(self) -> bool:
        return str(self.function.__module__).startswith("recipe.")

    def bind(self, dataset_properties: Mapping[str, Any] | None = None) -> functools.partial[Any]:
        """Binds the settings to the function, and instantiates each nested `_target_` in them.

        Settings that are `auto` get their values from `dataset_properties`, if given.
        """
        settings = dict(self.settings)
        for key in schema.DATASET_PROPERTIES:
            if settings.get(key) == "auto" and key in (dataset_properties or {}):
                settings[key] = (dataset_properties or {})[key]
        bound = {key: _instantiate_setting(value, self.trust) for key, value in settings.items()}
        return functools.partial(self.function, **bound)


class Components(dict[str, Component]):
    """The components of a spec by group, without those that have problems."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: dict[str, list[str]] = {}

    def add(self, spec: RunSpec, groups: Iterable[str]) -> None:
        """Resolves and checks the components of these groups; nothing is instantiated."""
        for group in groups:
            problems, node, option = Problems(), getattr(spec, group), spec.options[group]
            with problems.collect_component_errors(f"{group}={option}"):  # without `_target_`
                function = _locate_component(node, spec.trust, group)
            if not problems:
                with problems.collect_component_errors(spec.format_choice(group)):
                    problems += schema.find_setting_problems(group, option, function, node)
            if problems:
                self.problems[group] = list(problems)
            else:
                self[group] = _make_component(spec, group, function)


def instantiate(spec: RunSpec, groups: Iterable[str] = GROUPS) -> Components:
    """Resolves, checks and binds the components of a spec, each group once."""
    components = Components()
    components.add(spec, groups)
    return components


def bind_component(spec: RunSpec, group: str) -> functools.partial[Any]:
    """Resolves and binds the component of one group; raises ValueError if it isn't allowed."""
    function = _locate_component(getattr(spec, group), spec.trust, group)
    return _make_component(spec, group, function).bind()


def _make_component(spec: RunSpec, group: str, function: Callable[..., Any]) -> Component:
    _, settings = schema.split_engine_settings(group, getattr(spec, group))
    return Component(function, settings, spec.trust)


def _locate_component(
    node: Mapping[str, Any], trusted: tuple[str, ...], group: str
) -> Callable[..., Any]:
    """Raises ValueError unless the group's `_target_` and all nested ones may be called."""
    called = allowlist.locate_target(node.get("_target_"), trusted, group)
    allowlist.check_nested_targets(node, trusted)
    allowlist.check_downloads(
        node["_target_"], called, schema.split_engine_settings(group, node)[1]
    )
    return called


def _instantiate_setting(value: Any, trusted: tuple[str, ...]) -> Any:
    """Returns a copy of a setting in which nested `_target_` are instantiated, inner ones first."""
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
        raise ValueError(f"_target_ {target} can't be instantiated: {error}") from error
