"""argv -> config, by Hydra: our option files, the user's beside them, and a sweep's jobs."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe import output
from recipe.config import nested_options, option_files, restrictions, safe_yaml
from recipe.config.composition_cache import CachedConfigLoader, CompositionCache
from recipe.config.spec import RunSpec, format_omegaconf_error
from recipe.errors import Problems, SpecError
from recipe.formatting import format_value


class UserSearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Puts the user's conf/ behind ours, so that theirs add options and take nothing over."""

    def manipulate_search_path(self, search_path: Any) -> None:
        folder = option_files.user_conf_dir()
        if folder is not None:
            search_path.append(provider="user", path=f"{UserConfigSource.scheme()}://{folder}")


class UserConfigSource(FileConfigSource):  # type: ignore[misc]
    """The user's option files, which may be a stranger's: plain values, of a sensible size."""

    @staticmethod
    def scheme() -> str:
        return "user"

    def load_config(self, config_path: str) -> Any:
        """Raises SpecError for a file that `plain.read_text` refuses, for one that builds on files
        outside conf/, and for one that chooses what Hydra would not take from it."""
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            named = safe_yaml.read_strings(path, "defaults")
            content = OmegaConf.create(safe_yaml.load_mapping(path))
        except (ValueError, OmegaConfBaseException) as error:
            raise SpecError(" ".join(str(error).split())) from error
        for text in named:
            if ".." in text:
                raise SpecError(f"defaults: {path} names {text!r}; name an option of conf/")
            if chosen := re.search(
                r"override\s+/?(hydra/(?:launcher|sweeper|\w*_logging))\b", text
            ):
                raise SpecError(
                    f"{chosen[1]}: {path} chooses it, and only the command line can; take it out "
                    f"of that file and give {chosen[1]}=<name> there"
                )
        if circle := option_files.find_inheritance_cycle(config_path.removesuffix(".yaml")):
            raise SpecError(circle)
        if self._count_files(config_path, {}) > option_files.MAX_PARENT_FILES:
            raise SpecError(
                f"defaults: {path} builds on more than {option_files.MAX_PARENT_FILES} files; name fewer"
            )
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:MAX_HEADER_LENGTH])
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", content, header)

    def _count_files(self, config_path: str, counted: dict[str, int]) -> int:
        """How many files Hydra would read for one, it included; stops beyond MAX_FILES."""
        if config_path in counted or len(counted) > option_files.MAX_PARENT_FILES:
            return counted.get(config_path, 1)
        counted[config_path] = 1  # of a circle, which Hydra refuses
        path = Path(self.path, self._normalize_file_name(config_path))
        for named in option_files.find_parent_files(path):
            counted[config_path] += self._count_files(
                option_files.resolve_parent_file(named, config_path), counted
            )
        return counted[config_path]


MAX_HEADER_LENGTH = 512
"""Characters at a file's beginning in which Hydra looks for `# @package`."""


def register_user_conf() -> None:
    """Makes Hydra look into the user's conf/ too, and read it as anyone's files are to be read."""
    Plugins.instance().register(UserSearchPath)
    SourcesRegistry.instance().register(UserConfigSource)
    _remove_launcher_schemas()
    restrictions.register_env_resolver()


def _remove_launcher_schemas() -> None:
    """Of other packages' launchers for which there are option files of ours, which Hydra would hold
    to them."""
    theirs = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for path in (option_files.builtin_conf_dir() / "hydra" / "launcher").glob("*.yaml"):
        theirs.pop(path.name, None)


@contextmanager
def composition_context() -> Iterator[None]:
    """Hydra's composition over our menu and the user's, as the files are now."""
    for cached in (_compose_user_overrides, _compose_option, _get_config_loader):
        cached.cache_clear()
    with _initialize_hydra():
        yield


@contextmanager
def _initialize_hydra() -> Iterator[None]:
    register_user_conf()
    around = GlobalHydra.instance().hydra  # of a sweep whose job asks
    GlobalHydra.instance().clear()
    folder = str(option_files.builtin_conf_dir())
    try:
        with hydra.initialize_config_dir(folder, version_base="1.3", job_name="recipe"):
            yield
    finally:
        GlobalHydra.instance().hydra = around


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line; raises SpecError with every one that can't be read."""
    parser, problems, parsed = OverridesParser.create(), Problems(), []
    problems += _find_long_arguments(arguments)
    problems.raise_if_any()
    with _initialize_hydra():
        loader = GlobalHydra.instance().config_loader()
    for argument in arguments:
        try:
            parsed.append(parser.parse_override(argument))
        except (HydraException, ValueError, RecursionError):
            problems.append(_describe_unreadable(argument))
    problems.raise_if_any()
    for override in parsed:
        override.config_loader = loader  # it knows the options that glob(...) stands for
        if _count_sweep_values(override) > MAX_JOBS:
            problems.append(
                f"{override.input_line[:200]}: more than {MAX_JOBS:,} values; give fewer"
            )
    problems.raise_if_any()
    return parsed


MAX_JOBS = 10_000
"""Of one command line, and values of one sweep over a setting."""


def _count_sweep_values(override: Override) -> int:
    """The values that a sweep lists, counted up to MAX_JOBS + 1; 1 for others."""
    if override.is_range_sweep() or override.is_choice_sweep():
        values = override.sweep_string_iterator()
        return sum(1 for _ in itertools.islice(values, MAX_JOBS + 1))
    return 1


MAX_COMMAS = 1000
"""In one argument; Hydra's parser takes a time that grows with their square."""

MAX_ARGUMENT_LENGTH = 20_000
"""Of one argument."""


def _find_long_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """What of a command line would take Hydra minutes to read."""
    way_out = "write it in an option or experiment file"
    for argument in arguments:
        key = argument.partition("=")[0][:200]
        if (commas := argument.count(",")) > MAX_COMMAS:
            yield f"{key}: {commas + 1:,} values, and at most {MAX_COMMAS:,} are read; {way_out}"
        elif len(argument) > MAX_ARGUMENT_LENGTH:
            yield (
                f"{key}: {len(argument):,} characters, and at most {MAX_ARGUMENT_LENGTH:,} are read; "
                f"{way_out}"
            )


def _describe_unreadable(argument: str) -> str:
    bare = "=" not in argument
    hint = "write key=value" if bare else "quote what the shell or Hydra would read"
    return f"{argument[:200]}: can't be read as an override; {hint}"


def parse_override(text: str) -> Override:
    """An override of ours, as Hydra reads it."""
    parsed: Override = OverridesParser.create().parse_override(text)
    return parsed


def compose_project() -> DictConfig:
    """What every run of the user's project starts from; raises SpecError."""
    with composition_context():
        composed = compose_config([])
        del composed["hydra"]
        with resolution_context([]):
            OmegaConf.resolve(composed)
    if not OmegaConf.is_list(composed.trust):
        raise SpecError(
            f"trust must be a list of packages, [mypackage], got {format_value(composed.trust)}"
        )
    return composed


def get_trusted_packages(given: str) -> list[str]:
    """The packages of a `trust=[...]` argument, and those that the user's project trusts."""
    return [*filter(None, re.split(r"[\[\],\s]+", given)), *compose_project().trust]


@dataclass(frozen=True)
class Job:
    """One run of a command line: its overrides, none of them a sweep."""

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    """Those that differ from job to job; they name the run."""

    def to_spec(self) -> RunSpec:
        """Raises SpecError with what Hydra finds wrong, and with what only the user's own words
        may say. Call within `menu_folder()`."""
        composed = compose_config(self.overrides)
        with resolution_context(self.overrides):
            check_restrictions(composed, self.overrides)
            choices = composed.hydra.runtime.choices
            del composed["hydra"]
            return RunSpec.from_config(composed, choices)


def check_restrictions(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Raises SpecError for what of a composed config only the user's own words may say."""
    if option_files.user_conf_dir() is None:  # every option file is recipe's own
        return
    own = restrictions.filter_run_settings(overrides)
    found = restrictions.find_restricted_settings(composed, _compose_user_overrides(own), overrides)
    if not restrictions.is_local_uri(restrictions.get_tracking_uri(composed)):
        tracking = restrictions.filter_by_root(overrides, ["tracking"])
        found += restrictions.find_restricted_tracking(
            composed, _compose_user_overrides((*own, *tracking))
        )
    if found:
        raise SpecError(found)


@functools.cache
def _compose_user_overrides(overrides: tuple[str, ...]) -> DictConfig:
    """What the user's own words make, without their choices of options; kept while composing."""
    return compose_config(overrides)


@contextmanager
def resolution_context(overrides: Sequence[str]) -> Iterator[None]:
    """Lets nothing but the user's own words read the environment; what fails is a SpecError."""
    try:
        with restrictions.restrict_environment(overrides):
            yield
    except OmegaConfBaseException as error:
        raise SpecError(f"{error.full_key or 'spec'}: {format_omegaconf_error(error)}") from error


def expand_sweep(overrides: Sequence[Override]) -> list[Job]:
    """The grid that a basic sweep over these overrides stands for; one job without a sweep.

    Raises SpecError for more than MAX_JOBS.
    """
    if (count := math.prod(map(_count_sweep_values, overrides))) > MAX_JOBS:
        raise SpecError(
            f"the sweep has {count:,} jobs, and at most {MAX_JOBS:,} are run by one command; give "
            "fewer values, or sweep in parts"
        )
    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    sweeps = {o.get_key_element() for o in overrides if o.is_sweep_override()}
    return [
        Job(tuple(job), tuple(text for text in job if text.split("=")[0] in sweeps))
        for job in batch
    ]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, its own node included; raises SpecError. Call within `menu_folder()`."""
    if hidden := restrictions.find_shadowed_hydra_files():
        raise SpecError(hidden)
    try:
        with restrictions.restrict_environment(overrides):
            composed = _get_config_loader().load_configuration(
                "config", list(overrides), RunMode.RUN
            )
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        told = " ".join(str(error).split())
        known = (
            _explain_missing_launcher,
            _explain_type_mismatch,
            _explain_missing_option,
            _explain_missing_package_line,
        )
        raise SpecError(next(filter(None, (say(told) for say in known)), told)) from error
    except RecursionError as error:
        raise SpecError("spec: nested too deeply, or refers to itself; write it flat") from error
    OmegaConf.set_struct(composed, False)
    nested_options.expand_nested_options(
        composed, lambda group, option: dict(_compose_option(group, option))
    )
    return composed


def print_config(
    kind: str, overrides: Sequence[str], package: str | None, *, resolve: bool
) -> None:
    """Prints what Hydra's `--cfg` does, of what was composed to be checked; raises SpecError. Call
    within `menu_folder()`."""
    if bare := [text for text in overrides if "=" not in text and text[:1] != "~"]:
        raise SpecError(map(_describe_unreadable, bare))
    with resolution_context(overrides), output.capture_stdout():
        whole = compose_config(overrides)
        shown = [
            str(key) for key in whole if kind == "all" or (key == "hydra") == (kind == "hydra")
        ]
        chosen = (
            OmegaConf.select(OmegaConf.masked_copy(whole, shown), package) if package else whole
        )
        if not OmegaConf.is_config(chosen):
            raise SpecError(f"--package: {package} is no mapping of --cfg {kind}; leave it out")
        Hydra("recipe", _get_config_loader()).show_cfg(
            "config", list(overrides), kind, package, resolve
        )


def get_composition_cache() -> CompositionCache:
    """What was composed of options since `menu_folder()` was entered last."""
    return _get_config_loader().cache


@functools.cache
def _get_config_loader() -> CachedConfigLoader:
    """Hydra's; it keeps what it composes while composing."""
    return CachedConfigLoader(GlobalHydra.instance().config_loader())


@functools.cache
def _compose_option(group: str, option: str) -> dict[str, Any]:
    """What the files give to an option that is chosen alone; kept while composing."""
    settings: Any = OmegaConf.to_container(
        compose_config([f"{group}={option}"])[group], resolve=False
    )
    return dict(settings)


def _explain_type_mismatch(told: str) -> str:
    """What to say of a mapping where a list stands, or the other way round; empty if it is
    something else."""
    override = told.removeprefix("Error merging override ")
    if override == told:
        return ""
    return (
        f"{override}: another kind of value stands there; give a list [a,b] for a list, a mapping "
        "{a: 1} for a mapping"
    )


def _explain_missing_option(told: str) -> str:
    """What to say of an option that a file chooses and that there isn't; empty if it is something
    else."""
    found = re.search(r"^In '([^']+)': Could not find '(\w+)/([\w.-]+)'", told)
    if not found or found[2] not in option_files.GROUPS:
        return ""
    where, group, name = found.groups()
    known = option_files.find_options(group)
    if name in known:  # a device, which Hydra takes for none
        return f"{group}={name} can't be used: {known[name].problem}"
    hint = option_files.suggest_nearest(name, known) or f"; there are {', '.join(known)}"
    return f"{where}.yaml: {group}={name}: no such option{hint}"


def _explain_missing_package_line(told: str) -> str:
    """What to say of an experiment file that is taken for a group; empty if it is something
    else."""
    return (
        f"{told.partition(': ')[0]}: {option_files.GLOBAL_PACKAGE_RULE}"
        if "@experiment." in told
        else ""
    )


def _explain_missing_launcher(told: str) -> str:
    """What to say where Hydra can't find a launcher; empty if it is something else."""
    found = re.search(r"Could not find 'hydra/launcher/(\w+)'", told)
    if not found:
        return ""
    name = found[1]
    package = f"hydra-{name.partition('_')[0]}-launcher"
    there = re.search(r"Available options in 'hydra/launcher': ([\w ]+?) Config search path", told)
    known = f"; there are: {', '.join(there[1].split())}" if there else ""
    return (
        f"hydra/launcher={name}: no such launcher is installed{known}; Hydra's others are packages "
        f"of their own (pip install {package})"
    )
