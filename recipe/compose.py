"""argv -> config, by Hydra: our option files, the user's beside them, and a sweep's jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe import menu
from recipe.errors import Problems, SpecError
from recipe.spec import RunSpec


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
    with menu_folder():
        loader = GlobalHydra.instance().config_loader()
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
    for override in parsed:
        override.config_loader = loader  # it knows the options that glob(...) stands for
    return parsed


def trusted(given: str) -> list[str]:
    """The packages of a `trust=[...]` argument, and those that the user's project trusts."""
    with menu_folder():
        project = config([]).trust
    return [*filter(None, re.split(r"[\[\],\s]+", given)), *project]


@dataclass(frozen=True)
class Job:
    """One run of a command line: its overrides, none of them a sweep."""

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    """Those that differ from job to job; they name the run."""

    def spec(self) -> RunSpec:
        """Raises SpecError with what Hydra finds wrong. Call within `menu_folder()`."""
        composed = config(self.overrides)
        choices = composed.hydra.runtime.choices
        del composed["hydra"]
        return RunSpec.from_config(composed, choices)


def jobs(overrides: Sequence[Override]) -> list[Job]:
    """The grid that a basic sweep over these overrides stands for; one job without a sweep."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    sweeps = {o.get_key_element() for o in overrides if o.is_sweep_override()}
    return [
        Job(tuple(job), tuple(text for text in job if text.split("=")[0] in sweeps))
        for job in batch
    ]


def config(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, its own node included; raises SpecError. Call within `menu_folder()`."""
    try:
        composed: DictConfig = hydra.compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(" ".join(str(error).split())) from error
    OmegaConf.set_struct(composed, False)
    return composed
