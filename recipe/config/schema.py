"""What a component accepts: names, types and ranges of its signature."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import ErrorDetails

from recipe.config import allowlist, option_files
from recipe.config.groups import GROUPS_BY_NAME, RUN_SETTINGS
from recipe.config.option_files import suggest_nearest
from recipe.errors import SettingError
from recipe.formatting import format_value, pluralize

DATASET_PROPERTIES = ("channels", "classes", "size", "counts", "mean", "std")
"""Settings that may be `auto`: taken from the data."""

MAX_FLOAT32 = 3.4028234663852886e38


def split_engine_settings(
    group: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides a group's settings into the engine's and the component's."""
    engine = GROUPS_BY_NAME[group].engine_settings
    own = {key: value for key, value in settings.items() if key in engine}
    return own, {k: v for k, v in settings.items() if k not in engine and k != "_target_"}


def find_run_setting_problems(values: Mapping[str, Any]) -> list[str]:
    values = {**values, **{f"checkpoint.{k}": value for k, value in values["checkpoint"].items()}}
    nested = {key for key in values if key.startswith("checkpoint.")}
    found = [
        f"{key}: no such key{suggest_nearest(key, RUN_SETTINGS)}"
        for key in sorted(nested - RUN_SETTINGS.keys())
    ]
    found += [
        f"{key}: missing from the spec" for key in sorted(RUN_SETTINGS.keys() - values.keys())
    ]
    if found:
        return found
    found = [
        problem
        for key, kind in RUN_SETTINGS.items()
        for problem in find_type_problems(key, kind, values[key])
    ]
    default = option_files.get_run_default("nonfinite_limit")
    if values["on_nonfinite"] == "stop" and values["nonfinite_limit"] != default:
        rule = "has no effect with on_nonfinite=stop, which skips nothing"
        way_out = "use on_nonfinite=skip, or leave it out"
        found += SettingError("nonfinite_limit", rule, values["nonfinite_limit"], way_out).problems
    return found or _find_output_dir_problems(values["output_dir"])


def _find_output_dir_problems(folder: str) -> list[str]:
    found = _find_path_problems("output_dir", folder)
    if not found:
        path = Path(folder).expanduser().absolute()
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            rule = f"must be below a folder, and {there} is none"
            found += SettingError("output_dir", rule, folder, "use another output_dir").problems
    return found


def _find_path_problems(key: str, value: str) -> list[str]:
    try:
        path = Path(value).expanduser()
        odd = path.exists() and not path.is_file() and not path.is_dir()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        rule = f"must be a path of this machine ({reason})"
        return SettingError(key, rule, value, "use another").problems
    rule = "must not be a device or a pipe"
    return SettingError(key, rule, value, "use a file or a folder").problems if odd else []


def find_setting_problems(
    group: str,
    option: str,
    component: Callable[..., Any],
    settings: Mapping[str, Any],
    key_prefix: str | None = None,
) -> list[str]:
    """Describes settings that are unknown, missing, or of a wrong type or range.

    The reported keys begin with `key_prefix`, or else with the group.
    """
    prefix = key_prefix or group
    own, given = split_engine_settings(group, settings)
    taken, any_name = get_accepted_settings(component, group)
    if lacking := _describe_missing_arguments(group, component):
        return [f"{prefix}={option} {lacking}"]
    found = _find_name_conflicts(group, settings, taken)

    def check(key: str, kind: Any, value: Any) -> list[str]:
        wrong = find_type_problems(
            f"{prefix}.{key}", kind, value, finite=GROUPS_BY_NAME[group].is_finite
        )
        note = option_files.read_comments(group, option).get(key) if wrong else None
        return [f"{problem} ({note})" for problem in wrong] if note else wrong

    for key, value in own.items():
        found += check(key, GROUPS_BY_NAME[group].engine_settings[key], value)
    for key, value in given.items():
        if key in taken:
            if not (key in DATASET_PROPERTIES and value == "auto"):
                found += check(key, taken[key], value)
        elif not any_name or key.startswith("_"):
            hint = suggest_nearest(key, taken) or (
                f"; there are {', '.join(taken)}" if taken else ""
            )
            found.append(f"{prefix}.{key}: {group}={option} has no such setting{hint}")
    for key in GROUPS_BY_NAME[group].paths:
        if isinstance(settings.get(key), str):
            found += _find_path_problems(f"{prefix}.{key}", settings[key])
    needed = [
        key
        for key in _get_required_settings(component, group)
        if key not in GROUPS_BY_NAME[group].engine_settings
    ]
    for key in (*GROUPS_BY_NAME[group].required, *needed):
        if key not in settings:
            found.append(f"{prefix}.{key} is not given, and {group}={option} needs it")
    return found


def _find_name_conflicts(
    group: str, settings: Mapping[str, Any], taken: Mapping[str, Any]
) -> list[str]:
    """Describes parameters of a user's component with the name of an engine setting, which the
    component never receives."""
    target = str(settings.get("_target_"))
    return [
        f"{group}.{key}: {target} has a parameter of that name, which it is never called with, as "
        f"the engine obeys {group}.{key} itself; rename the parameter and its setting"
        for key in GROUPS_BY_NAME[group].engine_settings
        if key in taken and target.partition(".")[0] not in allowlist.TARGET_CHECKS
    ]


def _describe_missing_arguments(group: str, part: Callable[..., Any]) -> str:
    """Describes why a function can't be called as the engine does; empty if it can."""
    found = inspect.signature(part).parameters.values()
    by_place = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = GROUPS_BY_NAME[group].num_arguments
    if inspect.isclass(part) or len(by_place) >= wanted:
        return ""
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        return ""
    takes = f"takes {', '.join(by_place)}" if by_place else "takes nothing"
    return (
        f"{takes} by position, but is called with {pluralize(wanted, 'argument')} before its "
        f"settings (the docstring of recipe.components.{group} describes them)"
    )


def _get_setting_parameters(part: Callable[..., Any], group: str) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    by_place = (
        0 if group == "loss" and inspect.isclass(part) else GROUPS_BY_NAME[group].num_arguments
    )
    parameters = list(inspect.signature(part).parameters.values())[by_place:]
    filled = GROUPS_BY_NAME[group].runtime_arguments
    return [
        parameter
        for parameter in parameters
        if parameter.kind not in kinds and parameter.name not in filled
    ]


def _get_required_settings(part: Callable[..., Any], group: str) -> list[str]:
    return [
        p.name for p in _get_setting_parameters(part, group) if p.default is inspect.Parameter.empty
    ]


def get_accepted_settings(component: Callable[..., Any], group: str) -> tuple[dict[str, Any], bool]:
    """Returns settings by name with their annotations, and whether any other name is accepted."""
    described = component.__init__ if inspect.isclass(component) else component
    try:
        hints = get_type_hints(described, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    any_name = any(
        p.kind is inspect.Parameter.VAR_KEYWORD
        for p in inspect.signature(component).parameters.values()
    )
    return {
        p.name: hints.get(p.name, Any) for p in _get_setting_parameters(component, group)
    }, any_name


def find_type_problems(key: str, kind: Any, value: Any, *, finite: bool = False) -> list[str]:
    """Returns at most one problem, which begins with `key`.

    With `finite`, infinity is refused whatever the type is.
    """
    wanted = _describe_float_rule(value, finite=finite) if key not in RUN_SETTINGS else None
    if wanted is not None:
        return [f"{key} must be {wanted}, got {format_value(value)}"]
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return []  # typed dicts bring their own config, other types can't be written in YAML
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        # what YAML can't hold is given as a nested `_target_`, and made of it later
        objects = all(detail["type"] == "needs_python_object" for detail in error.errors())
        return (
            []
            if objects and _has_nested_target(value)
            else [_format_validation_error(key, value, error)]
        )
    return []


def _has_nested_target(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, Mapping) and "_target_" in item for item in items)


def _describe_float_rule(value: Any, *, finite: bool) -> str | None:
    """Returns the rule that a number in a value breaks, if torch can't compute with it."""
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return next(
            filter(None, (_describe_float_rule(item, finite=finite) for item in items)), None
        )
    if isinstance(value, float):
        if math.isnan(value) or (finite and math.isinf(value)):
            return "a finite number"
        if math.isfinite(value) and abs(value) > MAX_FLOAT32:
            return "within the numbers of 32 bits, which end at 3.4e38"
    return None


def _format_validation_error(key: str, value: Any, error: ValidationError) -> str:
    # a branch of a union that no YAML value can satisfy, such as a tensor, says "is-instance"
    details = [d for d in error.errors() if d["type"] != "needs_python_object"]
    if not details:
        return f"{key} must be an object, which a file names by _target_, got {value!r}"
    if details[0]["type"] == "value_error":  # a check of ours, which says all there is to say
        return f"{key}: {details[0]['ctx']['error']}"
    wanted = list(dict.fromkeys(_describe_expected(detail) for detail in details))
    whole = all(detail["type"] in ("missing", "extra_forbidden") for detail in details)
    path = details[0]["loc"][:-1] if whole else details[0]["loc"]
    where = _format_location(path, value)
    got = value if whole and not where else details[0]["input"] if where else value
    rule = (" and " if whole else " or ").join(wanted)
    return f"{key}{where} must be {rule}, got {format_value(got)}"


def _format_location(path: Sequence[int | str], value: Any) -> str:
    """Returns the index or key path in a value, without pydantic's branches of a union."""
    where = ""
    for part in path:
        if isinstance(part, int) and isinstance(value, list):
            where += f"[{part}]"
            value = value[part] if part < len(value) else None  # it is the one that is missing
        elif isinstance(value, Mapping) and part in value:
            where += f".{part}"
            value = value[part]
    return where


TYPE_DESCRIPTIONS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping {key: value}",
    "none_required": "null",
}
"""Expected values by pydantic's types of errors."""


def _describe_expected(detail: ErrorDetails) -> str:
    """Returns the text after "must be"."""
    last = detail["loc"][-1] if detail["loc"] else ""
    if detail["type"] == "missing":
        return f"a list of {last + 1} values" if isinstance(last, int) else f"a mapping with {last}"
    if detail["type"] == "extra_forbidden":
        return f"without {last}"
    if detail["type"] == "string_pattern_mismatch":
        return f"a text of the form {detail['ctx']['pattern']}"
    if detail["type"] in ("too_short", "string_too_short"):
        return f"at least {detail['ctx']['min_length']} long"
    return TYPE_DESCRIPTIONS.get(detail["type"], detail["msg"].removeprefix("Input should be "))
