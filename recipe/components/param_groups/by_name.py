"""Optimizer settings by the names of parameters.

Helps: Where layers are to differ in learning rate, weight decay or any option of the optimizer.
Not with: Schedules with one absolute maximum or minimum for all groups (refused).
Costs: Nothing that can be measured.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from recipe.nn.parameter_patterns import assign_patterns


def by_name(model: nn.Module, *, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A group for each rule `{match: <pattern or list>, <option of the optimizer>: value, ...}`
    and one, `rest`, for what no rule takes, which gets the optimizer's own settings.

    A rule's group is called by its `name`, else after its pattern.
    Raises ValueError, naming the rule, if it lacks `match`, matches nothing, or takes a parameter
    that an earlier rule has.
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
                    f"{key} ({', '.join(match)}): {parameter} is claimed by {owner[parameter]} "
                    "already; make the patterns exclude each other"
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
        raise ValueError(
            f"{key} has no match; write {{match: <name or pattern>, lr: ...}}, got {rule}"
        )
    if "params" in options or "rule" in options:
        raise ValueError(f"{key}: params and rule can't be set; match selects its parameters")
    given = options.pop("name", None)
    if not options:
        raise ValueError(
            f"{key} sets nothing; give it an option of the optimizer, such as lr: 0.01"
        )
    name = str(given) if given is not None else re.sub(r"\W+", "_", " ".join(match)).strip("_")
    if not re.fullmatch(r"[\w.-]+", name) or name in names | {"rest"}:
        raise ValueError(
            f"{key}: {name!r} can't be the group's name (letters, digits, _ . - and used once); "
            "give the rule a name of its own"
        )
    return match, name, options
