"""Optimizer settings by the names of parameters.

Helps: Layers that need different learning rates, weight decay or other optimizer settings.
Not with: Schedules with one absolute maximum or minimum for all groups (refused).
Costs: Nothing that can be measured.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from recipe.errors import SettingError
from recipe.nn.parameter_patterns import assign_patterns


def by_name(model: nn.Module, *, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a group for each rule `{match: <pattern or list>, <optimizer setting>: value, ...}`,
    and a group `rest` with the optimizer's settings for all other parameters.

    The name of a group is the rule's `name`, or else made from its patterns. Raises ValueError with
    the index of the rule if it has no `match`, or matches no parameter, or one that an earlier rule
    matches.
    """
    if not rules:
        raise ValueError("param_groups.rules is empty; write rules, or use param_groups=all")
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    owner: dict[str, str] = {}
    for index, rule in enumerate(rules):
        key = f"param_groups.rules[{index}]"
        match, name, options = _parse_rule(key, rule, {group["name"] for group in groups})
        for parameter in (taken := assign_patterns(key, match, list(parameters))):
            if parameter in owner:
                raise ValueError(
                    f"{key} ({', '.join(match)}): {parameter} is already matched by "
                    f"{owner[parameter]}; make the patterns exclude each other"
                )
            owner[parameter] = f"{key.rpartition('.')[2]} ({', '.join(match)})"
        params = [parameters[parameter] for parameter in parameters if parameter in taken]
        groups.append({"name": name, "rule": ", ".join(match), "params": params, **options})
    rest = [parameter for name, parameter in parameters.items() if name not in owner]
    return [*groups, {"name": "rest", "params": rest}] if rest else groups


def _is_string_list(match: Any) -> bool:
    return isinstance(match, list) and all(isinstance(pattern, str) for pattern in match)


def _parse_rule(
    key: str, rule: dict[str, Any], names: set[str]
) -> tuple[list[str], str, dict[str, Any]]:
    options = dict(rule)
    match = options.pop("match", None)
    match = [match] if isinstance(match, str) else match
    if not match or not _is_string_list(match):
        way_out = "write {match: <name or pattern>, lr: ...}"
        raise SettingError(key, "must have a match", rule, way_out)
    if "params" in options or "rule" in options:
        raise ValueError(f"{key}: params and rule can't be set; use match to select parameters")
    given = options.pop("name", None)
    if not options:
        raise ValueError(f"{key} sets nothing; add a setting of the optimizer, such as lr: 0.01")
    name = str(given) if given is not None else re.sub(r"\W+", "_", " ".join(match)).strip("_")
    if not re.fullmatch(r"[\w.-]+", name) or name in names | {"rest"}:
        raise ValueError(
            f"{key}: {name!r} can't be the group's name (letters, digits, _ . -, and unique); give "
            "the rule another name"
        )
    return match, name, options
