"""argv -> config: Hydra's composition, with every mistake in the overrides found at once.

Hydra stops at the first mistake, suggests nothing, and accepts `+typo=1`; here each override
is checked against the menu and the composed config before Hydra is asked to run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe import menu
from recipe.errors import Problems, SpecError
from recipe.menu import GROUPS, nearest
from recipe.spec import RunSpec

EXPERIMENT = "experiment"


class UserOptions(SearchPathPlugin):  # type: ignore[misc]
    """Puts the user's conf/ behind ours, so that theirs add options and take nothing over."""

    def manipulate_search_path(self, search_path: Any) -> None:
        folder = menu.user_folder()
        if folder is not None:
            search_path.append(provider="user", path=f"file://{folder}")


def register_user_options() -> None:
    Plugins.instance().register(UserOptions)


@contextmanager
def menu_folder() -> Iterator[None]:
    """Hydra's composition over our menu and the user's."""
    register_user_options()
    with hydra.initialize_config_dir(str(menu.own_folder()), version_base="1.3", job_name="recipe"):
        yield


def parse(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line; raises SpecError with every one that can't be read."""
    parser, problems, parsed = OverridesParser.create(), Problems(), []
    for argument in arguments:
        try:
            parsed.append(parser.parse_override(argument))
        except HydraException:
            hint = (
                "write key=value"
                if "=" not in argument
                else "quote what the shell or Hydra would read"
            )
            problems.append(f"{argument}: can't be read as an override; {hint}")
    problems.raise_any()
    return parsed


@dataclass(frozen=True)
class Job:
    """One run of a command line: its overrides, none of them a sweep."""

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    """Those that differ from job to job; they name the run."""

    def spec(self) -> RunSpec:
        """Raises SpecError with what Hydra finds wrong. Call within `menu_folder()`."""
        config = _compose(self.overrides)
        choices = config.hydra.runtime.choices
        del config["hydra"]
        return RunSpec.from_config(config, choices)


def jobs(overrides: Sequence[Override]) -> list[Job]:
    """The grid that a basic sweep over these overrides stands for; one job without a sweep."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    sweeps = {o.get_key_element() for o in overrides if o.is_sweep_override()}
    return [
        Job(tuple(job), tuple(text for text in job if text.split("=")[0] in sweeps))
        for job in batch
    ]


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(" ".join(str(error).split())) from error
    OmegaConf.set_struct(config, False)
    return config


@dataclass
class Checked:
    """The overrides that hold, as Hydra takes them, and what is wrong with the others."""

    overrides: list[Override]
    problems: Problems


def check(overrides: Sequence[Override]) -> Checked:
    """Sorts out overrides of unknown groups, options and keys. Call within `menu_folder()`."""
    groups = _Groups(overrides)
    values = [o for o in overrides if o not in groups.chosen and o not in groups.wrong]
    keys = _Keys(groups, values)
    return Checked([*groups.chosen, *keys.known], Problems([*groups.problems, *keys.problems]))


class _Groups:
    """The overrides that choose options."""

    def __init__(self, overrides: Sequence[Override]) -> None:
        self.problems = Problems()
        self.chosen: list[Override] = []
        self.wrong: list[Override] = []
        self.broken: set[str] = set()
        for override in overrides:
            if override.key_or_group in (*GROUPS, EXPERIMENT) or "/" in override.key_or_group:
                problems = self._check(override)
                self.problems += problems
                (self.wrong if problems else self.chosen).append(override)
                if problems:
                    self.broken.add(override.key_or_group)

    def _check(self, override: Override) -> list[str]:
        group, text = override.key_or_group, override.input_line
        if group.startswith("hydra/"):
            return []
        if group not in (*GROUPS, EXPERIMENT):
            return [f"{text}: no such group{nearest(group, GROUPS)}"]
        if override.is_delete():
            off = menu.OFF.get(group)
            return [
                f"{text}: every run has a {group}"
                + (f"; without it is {group}={off}" if off else "")
            ]
        if override.is_add() or override.is_force_add() or override.package:
            return [f"{text}: write {group}=<option>; {group} is in every spec already"]
        return [problem for name in option_names(override) for problem in self._option(group, name)]

    def _option(self, group: str, name: str) -> list[str]:
        known = menu.options(group)
        if name == "null" and group == EXPERIMENT:
            return []
        if name not in known:
            hint = nearest(name, known) or f"; there are {', '.join(known)}"
            return [f"{group}={name}: no such option{hint}"]
        mine = menu.hidden(group, name)
        if mine is not None:
            return [f"{group}={name}: recipe's own option hides {mine}; give yours another name"]
        return []

    def options(self, group: str) -> list[str]:
        """The options of a group that the command line chooses, in a sweep all of them."""
        return [name for o in self.chosen if o.key_or_group == group for name in option_names(o)]


def option_names(override: Override) -> list[str]:
    """The option or options that an override of a group chooses."""
    if override.is_sweep_override():
        return [text.strip("'\"") for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str().strip("'\"")]


class _Keys:
    """The overrides that give settings, checked against the configs that the options make."""

    def __init__(self, groups: _Groups, values: Sequence[Override]) -> None:
        self.groups = groups
        self.problems = Problems()
        self.known: list[Override] = []
        for override in values:
            problems = self._check(override)
            self.problems += problems
            if not problems and override.key_or_group.split(".")[0] not in groups.broken:
                self.known.append(override)

    def _check(self, override: Override) -> list[str]:
        key, text = override.key_or_group, override.input_line
        root = key.split(".")[0]
        if root == "hydra" or root in self.groups.broken:
            return []
        if override.is_delete():
            return [f"{text}: a setting can't be removed; give it another value"]
        if root not in self.base:
            known = [EXPERIMENT, *(str(key) for key in self.base if key != "hydra")]
            return [
                f"{text}: no such key{nearest(root, known) or nearest(key, self._paths(self.base))}"
            ]
        if root == key and root in GROUPS:
            return [f"{text}: choose an option, or set one setting: {root}.<setting>=<value>"]
        if override.is_add() or override.is_force_add():
            # the part's own signature decides, once it may be imported
            return [] if root in GROUPS and key.count(".") == 1 else [f"{text}: no such key"]
        return [
            p
            for name, config in self._configs(root)
            for p in self._missing(text, key, name, config)
        ]

    @cached_property
    def base(self) -> DictConfig:
        firsts = [f"{o.key_or_group}={option_names(o)[0]}" for o in self.groups.chosen
                  if o.key_or_group in (*GROUPS, EXPERIMENT)]  # fmt: skip
        return _compose(firsts)

    def _configs(self, group: str) -> Iterator[tuple[str, DictConfig]]:
        """The config of every option that a group has in this command line."""
        options = self.groups.options(group)
        if len(options) < 2:
            choice = self.base.hydra.runtime.choices.get(group)
            yield f"{group}={choice}", self.base
            return
        others = [f"{o.key_or_group}={option_names(o)[0]}" for o in self.groups.chosen
                  if o.key_or_group in (*GROUPS, EXPERIMENT) and o.key_or_group != group]  # fmt: skip
        for option in options:
            yield f"{group}={option}", _compose([*others, f"{group}={option}"])

    def _missing(self, text: str, key: str, choice: str, config: DictConfig) -> list[str]:
        node: Any = config
        for name in re.split(r"\.|\[", key):
            index = name.rstrip("]")
            if OmegaConf.is_dict(node) and index in node:
                node = node._get_node(index)
            elif OmegaConf.is_list(node) and index.isdigit() and int(index) < len(node):
                node = node._get_node(int(index))
            else:
                return [f"{text}: {self._hint(key, choice, config)}"]
        return []

    def _hint(self, key: str, choice: str, config: DictConfig) -> str:
        group, _, setting = key.partition(".")
        paths = [path for path in self._paths(config) if path.startswith(f"{group}.")]
        others = [name for name, option in menu.options(group).items() if setting in option.keys]
        hint = nearest(key, paths)
        if not hint and others:
            hint = f"; it is a setting of {group}={' and '.join(others[:3])}"
        if not hint and paths:
            hint = f"; there are {', '.join(paths)}"
        return (
            f"{choice} has no setting {setting}{hint}"
            if paths
            else f"{choice} takes no settings{hint}"
        )

    @staticmethod
    def _paths(config: DictConfig) -> list[str]:
        """Every key of the config that may be set, dotted."""
        found = []
        for root, node in config.items_ex(resolve=False):
            if OmegaConf.is_dict(node) and root != "hydra":
                found += [f"{root}.{key}" for key in node if not str(key).startswith("_")]
            elif root != "hydra":
                found.append(str(root))
        return found


def choices_of(config: DictConfig) -> Mapping[str, str]:
    """The option chosen in each group of a config that Hydra composed with its own node."""
    return dict(config.hydra.runtime.choices)
