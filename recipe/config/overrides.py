"""Finds all mistakes in the overrides of a command line, and suggests valid names.

Hydra stops at the first mistake, suggests nothing, and accepts `+typo=1`; here, each override is
checked against the option files and the composed config before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from recipe.config import compose, option_files
from recipe.config.groups import ENGINE_SETTINGS, GROUPS, OFF_OPTIONS
from recipe.config.option_files import EXPERIMENT_GROUP, suggest_nearest
from recipe.errors import Problems
from recipe.formatting import format_list

SELECTABLE_GROUPS = (*GROUPS, EXPERIMENT_GROUP)

OFF_SYNONYMS = ("none", "off", "no", "null", "false")

HYDRA_LAUNCH_KEYS = ("launcher", "sweeper", "job", "job_logging", "hydra_logging")
"""The parts of Hydra's config that a user may set."""

ConfigComposer = Callable[[Sequence[str]], DictConfig]


@dataclass
class CheckedOverrides:
    """The valid overrides, and the problems of the others."""

    overrides: list[Override]
    problems: Problems


def check_overrides(
    overrides: Sequence[Override], compose_base: ConfigComposer = compose.compose_config
) -> CheckedOverrides:
    """Checks groups, options and keys. Call within `composition_context()`.

    `compose_base` composes the config of the chosen options, before any setting is changed.
    """
    groups = _GroupOverrides(overrides)
    values = [o for o in overrides if o not in groups.chosen and o not in groups.invalid]
    keys = _SettingOverrides(groups, values, compose_base)
    return CheckedOverrides(
        [*groups.chosen, *keys.valid], Problems([*groups.problems, *keys.problems])
    )


class _GroupOverrides:
    """The overrides that choose options."""

    def __init__(self, overrides: Sequence[Override]) -> None:
        self.problems = Problems()
        self.chosen: list[Override] = []
        self.invalid: list[Override] = []
        self.invalid_groups: set[str] = set()
        for override in overrides:
            if override.key_or_group in SELECTABLE_GROUPS or "/" in override.key_or_group:
                problems = self._check_override(override)
                self.problems += problems
                (self.invalid if problems else self.chosen).append(override)
                if problems:
                    self.invalid_groups.add(override.key_or_group)

    def _check_override(self, override: Override) -> list[str]:
        group, text = override.key_or_group, override.input_line
        if group.startswith("hydra/"):
            return _find_hydra_problems(override)
        if group not in SELECTABLE_GROUPS:
            return [f"{text}: no such group{suggest_nearest(group, GROUPS)}"]
        if override.is_delete():
            off = OFF_OPTIONS.get(group)
            return [
                f"{text}: every run has a {group}"
                + (f"; to turn it off, use {group}={off}" if off else "; choose another option")
            ]
        names = get_option_names(override)
        if override.is_add() or override.is_force_add() or override.package:
            lost = [name for name in names if name not in option_files.find_options(group)]
            hint = suggest_nearest(lost[0], option_files.find_options(group)) if lost else ""
            return [f"{text}: write {group}=<option>; {group} is in every spec already{hint}"]
        if not names:
            known = ", ".join(option_files.find_options(group))
            return [f"{text}: matches no option; there are {known}"]
        return [problem for name in names for problem in self._check_option(group, name)]

    def _check_option(self, group: str, name: str) -> list[str]:
        known = option_files.find_options(group)
        if name not in known:
            off = OFF_OPTIONS.get(group) if name in OFF_SYNONYMS else None
            hint = suggest_nearest(name, known) or f"; there are {', '.join(known)}"
            hint = f"; to turn it off, use {group}={off}" if off else hint
            return [f"{group}={name}: no such option{hint}"]
        if problem := known[name].problem:
            return [f"{group}={name} can't be used: {problem}"]
        mine = option_files.find_shadowed_option(group, name)
        if mine is not None:
            return [f"{group}={name}: recipe's own option hides {mine}; give yours another name"]
        return []

    def get_first_choices(self, but: str | None = None) -> list[str]:
        """Returns `group=option` for every chosen group except `but`; the first one of a sweep."""
        return [
            f"{o.key_or_group}={get_option_names(o)[0]}"
            for o in self.chosen
            if o.key_or_group in SELECTABLE_GROUPS and o.key_or_group != but
        ]

    def get_options(self, group: str) -> list[str]:
        """Returns the options that the command line chooses in a group."""
        return [
            name for o in self.chosen if o.key_or_group == group for name in get_option_names(o)
        ]


def get_option_names(override: Override) -> list[str]:
    """Returns the option, or the options of a sweep, that an override chooses."""
    if override.is_sweep_override():
        return [text.strip("'\"") for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str().strip("'\"")]


def describe_interval_problem(override: Override, give: str) -> str:
    """Describes an interval outside of a search; `give` is the way out."""
    key, text = override.key_or_group, override.input_line
    if key.startswith("hydra"):
        return f"{text.removeprefix('hydra.sweeper.')}: give one value"
    if key == "seed" or key in SELECTABLE_GROUPS:
        return f"{text}: no interval can be given for {key}; give {give}"
    return f"{text}: an interval is for python -m recipe search; give {give}, or use search instead"


def _find_hydra_problems(override: Override) -> list[str]:
    key, text = override.key_or_group, override.input_line
    words = re.split(r"[./]", key)
    if override.is_sweep_override() and not key.startswith("hydra.sweeper."):  # a verb's setting
        return [f"{text}: it is the same for all jobs; give one value"]
    if len(words) > 1 and words[1] in HYDRA_LAUNCH_KEYS:
        return []
    known = ", ".join(f"hydra.{name}" for name in HYDRA_LAUNCH_KEYS)
    return [f"{text}: recipe sets this itself; you can set {known}"]


class _SettingOverrides:
    """The overrides of settings, checked against the configs of the chosen options."""

    def __init__(
        self, groups: _GroupOverrides, values: Sequence[Override], base: ConfigComposer
    ) -> None:
        self.groups = groups
        self.compose = base
        self.problems = Problems()
        self.valid: list[Override] = []
        for override in values:
            problems = self._check_override(override)
            self.problems += problems
            if not problems and override.key_or_group.split(".")[0] not in groups.invalid_groups:
                self.valid.append(override)

    def _check_override(self, override: Override) -> list[str]:
        key, text = override.key_or_group, override.input_line
        root = key.split(".")[0]
        if root == "hydra":
            return _find_hydra_problems(override)
        if root in self.groups.invalid_groups:
            return []
        if override.is_delete():
            return [f"{text}: a setting can't be removed; give it another value"]
        if isinstance(override.value(), Glob):
            return [f"{text}: glob(...) chooses options of a group; list the values"]
        if root not in self.base_config:
            known = [EXPERIMENT_GROUP, *(str(key) for key in self.base_config if key != "hydra")]
            hint = suggest_nearest(root, known)
            hint = hint or suggest_nearest(key, self._list_keys(self.base_config))
            return [f"{text}: no such key{hint}"]
        if root == key and root in GROUPS:
            return [f"{text}: choose an option, or set one setting: {root}.<setting>=<value>"]
        if override.is_add() or override.is_force_add():
            if root not in GROUPS or key.count(".") != 1:
                return [f"{text}: write {key}=<value>; {root} is in every spec already"]
            if key.partition(".")[2] not in ENGINE_SETTINGS[root]:
                return []  # checked against the component's signature when it is imported
        configs = dict(self._iter_configs(root))
        having = [name for name, config in configs.items() if self._has_key(key, config)]
        hints = {
            name: self._format_missing_key(key, name, config)
            for name, config in configs.items()
            if name not in having
        }
        if not having or not hints:
            return [f"{text}: {lacks}{hint}" for lacks, hint in hints.values()]
        lacking = format_list([lacks for lacks, _ in hints.values()])
        hint = next(hint for _, hint in hints.values())
        return [f"{text}: {lacking}{hint}{self._format_per_option_hint(override, having)}"]

    def _format_per_option_hint(self, override: Override, having: Sequence[str]) -> str:
        """Explains how to set a value only for the swept options that have the setting."""
        group, _, setting = override.key_or_group.partition(".")
        option = having[0].partition("=")[2]
        value = "..." if override.is_sweep_override() else override.get_value_element_as_str()
        file = f"conf/{group}/<name>.yaml"
        given = self._find_options_with(override, [name.partition("=")[2] for name in having])
        message = (
            f"; {group}={given[0]} already has that value, so leave out {override.input_line} and "
            f"sweep over {given[0]}"
            if given
            else f"; to set it only for {format_list(having)}, write {file} with "
            f"`defaults: [{option}, _self_]` and `{setting}: {value}`, and sweep over "
            f"<name> instead of {option}"
        )
        if set(self.groups.get_options(group)) == {option, OFF_OPTIONS.get(group)}:
            message += f", or use python -m recipe ablate {having[0]} {override.input_line}"
        return message

    @staticmethod
    def _find_options_with(override: Override, having: Sequence[str]) -> list[str]:
        """Returns the options that have the value, among `having` and what is built on them."""
        group, _, setting = override.key_or_group.partition(".")
        found = []
        for name in [] if override.is_sweep_override() else option_files.find_options(group):
            files = option_files.resolve_inheritance(group, name)
            settings = {key: value for file in files for key, value in file.content.items()}
            is_one = any(file.name in having for file in files)
            if is_one and setting in settings and settings[setting] == override.value():
                found.append(name)
        return found

    @cached_property
    def base_config(self) -> DictConfig:
        return self.compose(self.groups.get_first_choices())

    def _iter_configs(self, group: str) -> Iterator[tuple[str, DictConfig]]:
        """Yields each chosen option of a group with its config."""
        options = self.groups.get_options(group)
        if len(options) < 2:
            choice = self.base_config.hydra.runtime.choices.get(group)
            yield f"{group}={choice}" if choice else group, self.base_config
            return
        for option in options:
            choice = f"{group}={option}"
            yield choice, self.compose([*self.groups.get_first_choices(but=group), choice])

    def _has_key(self, key: str, config: DictConfig) -> bool:
        node: Any = config
        for name in re.split(r"\.|\[", key):
            index = name.rstrip("]")
            if OmegaConf.is_dict(node) and index in node:
                node = node._get_node(index)
            elif OmegaConf.is_list(node) and index.isdigit() and int(index) < len(node):
                node = node._get_node(int(index))
            else:
                return False
        return True

    def _format_missing_key(self, key: str, choice: str, config: DictConfig) -> tuple[str, str]:
        """Returns what an option lacks, and the way out."""
        group, _, setting = key.partition(".")
        paths = [path for path in self._list_keys(config) if path.startswith(f"{group}.")]
        settings = [path.removeprefix(f"{group}.") for path in paths]
        others = [
            name
            for name, option in option_files.find_options(group).items()
            if setting in option.keys
        ]
        hint = suggest_nearest(setting, settings)
        if others and (not hint or not paths):
            hint = f"; it is a setting of {group}={' and '.join(others[:3])}"
        if not hint and paths:
            hint = f"; there are {', '.join(settings)}"
        lacks = f"has no setting {setting}" if paths else "takes no settings"
        return f"{choice} {lacks}", hint

    @staticmethod
    def _list_keys(config: DictConfig) -> list[str]:
        """Returns the dotted key of every setting."""
        found = []
        for key, node in config.items_ex(resolve=False):
            root = str(key)
            if OmegaConf.is_dict(node) and root != "hydra":
                found += [f"{root}.{name}" for name in map(str, node) if not name.startswith("_")]
            elif root != "hydra":
                found.append(root)
        return found
