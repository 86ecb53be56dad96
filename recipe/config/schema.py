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
from recipe.formatting import format_value, pluralize, relative_to_cwd

DATASET_PROPERTIES = ("channels", "classes", "size", "counts", "mean", "std")
"""Settings that may be `auto`: their values are taken from the data."""

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
        for problem in _find_run_type_problems(key, kind, values[key])
    ]
    default = option_files.get_run_default("nonfinite_limit")
    if values["on_nonfinite"] == "stop" and values["nonfinite_limit"] != default:
        rule = "has no effect with on_nonfinite=stop, which skips nothing"
        way_out = "use on_nonfinite=skip, or leave it out"
        found += SettingError("nonfinite_limit", rule, values["nonfinite_limit"], way_out).problems
    return found or _find_output_dir_problems(values["output_dir"])


def _find_run_type_problems(key: str, kind: Any, value: Any) -> list[str]:
    if not find_type_problems(key, kind, value):
        return []
    default = option_files.get_run_default(key)
    return find_type_problems(key, kind, value, f"use {format_value(default)}, the default")


def _find_output_dir_problems(folder: str) -> list[str]:
    if found := _find_path_problems("output_dir", folder):
        return found
    path = Path(folder).expanduser().absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing.is_dir():
        return []
    rule = f"must be below a folder, but {existing} is a file"
    return SettingError("output_dir", rule, folder, "use another output_dir").problems


def _find_path_problems(key: str, value: str) -> list[str]:
    try:
        path = Path(value).expanduser()
        is_special = path.exists() and not path.is_file() and not path.is_dir()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        rule = f"must be a valid path ({getattr(error, 'strerror', None) or error})"
        return SettingError(key, rule, value, "use another path").problems
    rule = "must not be a device or a pipe"
    return SettingError(key, rule, value, "use a file or a folder").problems if is_special else []


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
    prefix, table = key_prefix or group, GROUPS_BY_NAME[group]
    own, given = split_engine_settings(group, settings)
    accepted, accepts_any = get_accepted_settings(component, group)
    if lacking := _describe_missing_arguments(group, component):
        return [f"{prefix}={option} {lacking}"]
    found = _find_name_conflicts(group, settings, accepted)

    def check(key: str, kind: Any, value: Any) -> list[str]:
        dotted = f"{prefix}.{key}"
        if not find_type_problems(dotted, kind, value, finite=table.is_finite):
            return []
        way_out = _suggest_value(group, option, key, value)
        return find_type_problems(dotted, kind, value, way_out, finite=table.is_finite)

    for key, value in own.items():
        found += check(key, table.engine_settings[key], value)
    for key, value in given.items():
        if key in accepted:
            if not (key in DATASET_PROPERTIES and value == "auto"):
                found += check(key, accepted[key], value)
        elif not accepts_any or key.startswith("_"):
            hint = suggest_nearest(key, accepted)
            hint = hint or (f"; there are {', '.join(accepted)}" if accepted else "; leave it out")
            found.append(f"{prefix}.{key}: {group}={option} has no such setting{hint}")
    for key in table.paths:
        if isinstance(settings.get(key), str):
            found += _find_path_problems(f"{prefix}.{key}", settings[key])
    needed = [
        parameter.name
        for parameter in _get_setting_parameters(component, group)
        if parameter.default is parameter.empty and parameter.name not in table.engine_settings
    ]
    found += [
        f"{prefix}.{key} is missing, and {group}={option} needs it; give +{prefix}.{key}=<value>"
        for key in (*table.required, *needed)
        if key not in settings
    ]
    return found


def _suggest_value(group: str, option: str, key: str, value: Any) -> str:
    """Returns the way out for a wrong value: the one in the option's file, with its comment."""
    files = [
        file for file in option_files.resolve_inheritance(group, option) if key in file.content
    ]
    if not files:
        return "give another value"
    default = files[-1].content[key]
    shown = default if isinstance(default, str) else format_value(default)
    way_out = f"use {shown}, the default" if len(shown) < 80 else "give another value"
    if default == value:
        way_out = f"correct it in {relative_to_cwd(files[-1].path)}"
    note = option_files.read_comments(group, option).get(key)
    return f"{way_out} ({note})" if note else way_out


def _find_name_conflicts(
    group: str, settings: Mapping[str, Any], accepted: Mapping[str, Any]
) -> list[str]:
    """Describes parameters of a user's component with the name of an engine setting, which the
    component never receives."""
    target = str(settings.get("_target_"))
    return [
        f"{group}.{key}: {target} has a parameter of that name, but the engine reads the setting "
        f"{group}.{key} and doesn't pass it on; rename the parameter and its setting"
        for key in GROUPS_BY_NAME[group].engine_settings
        if key in accepted and target.partition(".")[0] not in allowlist.TARGET_CHECKS
    ]


def _describe_missing_arguments(group: str, component: Callable[..., Any]) -> str:
    """Describes why the engine can't call a component; empty if it can."""
    found = inspect.signature(component).parameters.values()
    positional = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = GROUPS_BY_NAME[group].num_arguments
    if (
        inspect.isclass(component)
        or len(positional) >= wanted
        or any(p.kind is p.VAR_POSITIONAL for p in found)
    ):
        return ""
    return (
        f"takes {', '.join(positional) or 'nothing'} by position, but is called with "
        f"{pluralize(wanted, 'argument')} before its settings (the docstring of "
        f"recipe.components.{group} describes them)"
    )


def _get_setting_parameters(component: Callable[..., Any], group: str) -> list[inspect.Parameter]:
    table = GROUPS_BY_NAME[group]
    positional = 0 if group == "loss" and inspect.isclass(component) else table.num_arguments
    return [
        parameter
        for parameter in list(inspect.signature(component).parameters.values())[positional:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in table.runtime_arguments
    ]


def get_accepted_settings(component: Callable[..., Any], group: str) -> tuple[dict[str, Any], bool]:
    """Returns settings by name with their annotations, and whether any other name is accepted."""
    described = component.__init__ if inspect.isclass(component) else component
    try:
        hints = get_type_hints(described, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    parameters = inspect.signature(component).parameters.values()
    names = [parameter.name for parameter in _get_setting_parameters(component, group)]
    accepts_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {name: hints.get(name, Any) for name in names}, accepts_any


def find_type_problems(
    key: str, kind: Any, value: Any, way_out: str = "give another value", *, finite: bool = False
) -> list[str]:
    """Returns at most one problem, which begins with `key`.

    With `finite`, infinity is refused for any type.
    """
    rule = _describe_float_rule(value, finite=finite) if key not in RUN_SETTINGS else None
    if rule is not None:
        return SettingError(key, f"must be {rule}", value, way_out).problems
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return []  # typed dicts have their own config; other types can't be written in YAML
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        # objects are given as a nested `_target_`, which is instantiated later
        objects = all(detail["type"] == "needs_python_object" for detail in error.errors())
        if not (objects and _has_nested_target(value)):
            return _describe_validation_error(key, value, error, way_out)
    return []


def _has_nested_target(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, Mapping) and "_target_" in item for item in items)


def _describe_float_rule(value: Any, *, finite: bool) -> str | None:
    """Returns the rule that a number in a value breaks, if torch can't compute with it."""
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        rules = (_describe_float_rule(item, finite=finite) for item in items)
        return next(filter(None, rules), None)
    if isinstance(value, float):
        if math.isnan(value) or (finite and math.isinf(value)):
            return "a finite number"
        if math.isfinite(value) and abs(value) > MAX_FLOAT32:
            return "within the range of 32-bit floats, +-3.4e38"
    return None


def _describe_validation_error(
    key: str, value: Any, error: ValidationError, way_out: str
) -> list[str]:
    # a branch of a union that no YAML value can satisfy, such as a tensor
    details = [d for d in error.errors() if d["type"] != "needs_python_object"]
    if not details:
        way_out = "write a mapping with _target_"
        return SettingError(key, "must be a Python object", value, way_out).problems
    if details[0]["type"] == "value_error":  # of a validator of recipe, whose message is complete
        return [f"{key}: {details[0]['ctx']['error']}"]
    rules = list(dict.fromkeys(_describe_expected(detail) for detail in details))
    whole = all(detail["type"] in ("missing", "extra_forbidden") for detail in details)
    path = details[0]["loc"][:-1] if whole else details[0]["loc"]
    where = _format_location(path, value)
    got = value if whole and not where else details[0]["input"] if where else value
    rule = (" and " if whole else " or ").join(rules)
    return SettingError(f"{key}{where}", f"must be {rule}", got, way_out).problems


def _format_location(path: Sequence[int | str], value: Any) -> str:
    """Returns the index or key path in a value, without pydantic's branches of a union."""
    where = ""
    for part in path:
        if isinstance(part, int) and isinstance(value, list):
            where += f"[{part}]"
            value = value[part] if part < len(value) else None  # that index is missing
        elif isinstance(value, Mapping) and part in value:
            where += f".{part}"
            value = value[part]
    return where


TYPE_DESCRIPTIONS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
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
        return f"a string of the form {detail['ctx']['pattern']}"
    if detail["type"] in ("too_short", "string_too_short"):
        return f"at least {detail['ctx']['min_length']} long"
    return TYPE_DESCRIPTIONS.get(detail["type"], detail["msg"].removeprefix("Input should be "))
