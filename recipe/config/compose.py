"""Command line -> config, by Hydra: recipe's option files, the user's, and the jobs of a sweep."""

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
from recipe.config import hydra_errors, option_files, safe_yaml
from recipe.config.composition_cache import CachedConfigLoader, CompositionCache
from recipe.config.groups import ENGINE_SETTINGS
from recipe.config.spec import TRUST_WAY_OUT, RunSpec, format_omegaconf_error
from recipe.errors import Problems, SettingError, SpecError


class UserSearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Appends the user's conf/, so that it adds options and replaces none."""

    def manipulate_search_path(self, search_path: Any) -> None:
        folder = option_files.user_conf_dir()
        if folder is not None:
            search_path.append(provider="user", path=f"{UserConfigSource.scheme()}://{folder}")


class UserConfigSource(FileConfigSource):  # type: ignore[misc]
    """The user's option files, whose mistakes are reported with the path of the file."""

    @staticmethod
    def scheme() -> str:
        return "user"

    def load_config(self, config_path: str) -> Any:
        """Raises SpecError for a file that can't be read, that inherits from itself, or that
        chooses a launcher or sweeper, which Hydra would ignore."""
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            content = safe_yaml.load_mapping(path)
            config = OmegaConf.create(content)
        except (ValueError, OmegaConfBaseException) as error:
            raise SpecError(" ".join(str(error).split())) from error
        if chosen := HYDRA_CHOICE.search(str(content.get("defaults"))):
            raise SpecError(
                f"{chosen[1]}: {path} chooses it, but only the command line can; remove it "
                f"from the file and give {chosen[1]}=<name> on the command line"
            )
        if cycle := option_files.find_inheritance_cycle(config_path.removesuffix(".yaml")):
            raise SpecError(cycle)
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:MAX_HEADER_LENGTH])
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)


HYDRA_CHOICE = re.compile(r"override\s+/?(hydra/(?:launcher|sweeper|\w*_logging))\b")

MAX_HEADER_LENGTH = 512
"""Characters in which Hydra looks for `# @package`."""


def register_user_conf() -> None:
    """Makes Hydra search the user's conf/, too, and read it with UserConfigSource."""
    Plugins.instance().register(UserSearchPath)
    SourcesRegistry.instance().register(UserConfigSource)
    _remove_launcher_schemas()


def _remove_launcher_schemas() -> None:
    """Removes other packages' schemas of launchers that recipe's option files replace."""
    theirs = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for path in (option_files.builtin_conf_dir() / "hydra" / "launcher").glob("*.yaml"):
        theirs.pop(path.name, None)


@contextmanager
def composition_context() -> Iterator[None]:
    """Sets up Hydra's composition over the option files as they are now."""
    _get_config_loader.cache_clear()
    with _initialize_hydra():
        yield


@contextmanager
def _initialize_hydra() -> Iterator[None]:
    register_user_conf()
    around = GlobalHydra.instance().hydra  # of a sweep, if called in one of its jobs
    GlobalHydra.instance().clear()
    folder = str(option_files.builtin_conf_dir())
    try:
        with hydra.initialize_config_dir(folder, version_base="1.3", job_name="recipe"):
            yield
    finally:
        GlobalHydra.instance().hydra = around


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Raises SpecError with every argument that can't be parsed."""
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
        override.config_loader = loader  # expands glob(...)
        if _count_sweep_values(override) > MAX_JOBS:
            problems.append(
                f"{override.input_line[:200]}: more than {MAX_JOBS:,} values; give fewer"
            )
    problems.raise_if_any()
    return parsed


MAX_JOBS = 10_000
"""Per command line, and values of one sweep over a setting."""


def _count_sweep_values(override: Override) -> int:
    """Counts up to MAX_JOBS + 1; 1 unless it is a list or range of values."""
    if override.is_range_sweep() or override.is_choice_sweep():
        values = override.sweep_string_iterator()
        return sum(1 for _ in itertools.islice(values, MAX_JOBS + 1))
    return 1


MAX_COMMAS = 1000
"""Per argument; Hydra's parser takes quadratic time."""

MAX_ARGUMENT_LENGTH = 20_000


def _find_long_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Describes arguments that would take Hydra minutes to parse."""
    way_out = "write it in an option or experiment file"
    for argument in arguments:
        key = argument.partition("=")[0][:200]
        if (commas := argument.count(",")) > MAX_COMMAS:
            yield f"{key}: {commas + 1:,} values, but at most {MAX_COMMAS:,} are read; {way_out}"
        elif len(argument) > MAX_ARGUMENT_LENGTH:
            yield (
                f"{key}: {len(argument):,} characters, but at most {MAX_ARGUMENT_LENGTH:,} are "
                f"read; {way_out}"
            )


def _describe_unreadable(argument: str) -> str:
    hint = "quote the special characters of the shell and of Hydra"
    if "=" not in argument:
        hint = "write key=value"
    return f"{argument[:200]}: can't be read as an override; {hint}"


def parse_override(text: str) -> Override:
    parsed: Override = OverridesParser.create().parse_override(text)
    return parsed


def compose_project() -> DictConfig:
    """Composes the defaults of the user's project. Raises SpecError."""
    with composition_context():
        composed = compose_config([])
        del composed["hydra"]
        with resolution_context():
            OmegaConf.resolve(composed)
    if not OmegaConf.is_list(composed.trust):
        raise SettingError("trust", "must be a list of packages", composed.trust, TRUST_WAY_OUT)
    return composed


def get_tracking_uri(config: DictConfig) -> Any:
    """The server that the record is sent to, or None."""
    is_mapping = OmegaConf.is_dict(config.get("tracking"))
    return OmegaConf.select(config, "tracking.uri") if is_mapping else None


def get_trusted_packages(given: str) -> list[str]:
    """Returns the packages of a `trust=[...]` argument, and those that the project trusts."""
    return [*filter(None, re.split(r"[\[\],\s]+", given)), *compose_project().trust]


@dataclass(frozen=True)
class Job:
    """A run of a command line: overrides without sweeps."""

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    """Those that differ between jobs; they name the run."""

    def to_spec(self) -> RunSpec:
        """Raises SpecError. Call within `composition_context()`."""
        composed = compose_config(self.overrides)
        choices = composed.hydra.runtime.choices
        del composed["hydra"]
        return RunSpec.from_config(composed, choices)


@contextmanager
def resolution_context() -> Iterator[None]:
    """Turns OmegaConf's errors of resolving interpolations into a SpecError."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise SpecError(f"{error.full_key or 'spec'}: {format_omegaconf_error(error)}") from error


def expand_sweep(overrides: Sequence[Override]) -> list[Job]:
    """Expands a basic sweep into its grid; one job without a sweep.

    Raises SpecError for more than MAX_JOBS.
    """
    if (count := math.prod(map(_count_sweep_values, overrides))) > MAX_JOBS:
        raise SpecError(
            f"the sweep has {count:,} jobs, but one command runs at most {MAX_JOBS:,}; give fewer "
            "values, or run several sweeps"
        )
    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    sweeps = {o.get_key_element() for o in overrides if o.is_sweep_override()}
    return [
        Job(tuple(job), tuple(text for text in job if text.split("=")[0] in sweeps))
        for job in batch
    ]


def _find_shadowed_hydra_files() -> list[str]:
    """Reports files of the user's conf/ that would replace Hydra's own without being chosen."""
    folder = option_files.user_conf_dir()
    names = ("config", "launcher/basic", "sweeper/basic")
    files = [folder / "hydra" / f"{name}.yaml" for name in names] if folder else []
    return [
        f"hydra: {file} would take the place of Hydra's own; give it another name"
        for file in files
        if file.exists()
    ]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Composes, Hydra's node included. Raises SpecError. Call within `composition_context()`."""
    if hidden := _find_shadowed_hydra_files():
        raise SpecError(hidden)
    try:
        composed = _get_config_loader().load_configuration("config", list(overrides), RunMode.RUN)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        raise SpecError(hydra_errors.explain(message) or message) from error
    except RecursionError as error:
        raise SpecError("spec: nested too deeply, or refers to itself; write it flat") from error
    OmegaConf.set_struct(composed, False)
    _expand_scheduler_parts(composed)
    return composed


def _expand_scheduler_parts(composed: DictConfig) -> None:
    """Turns each `{option: <name>, ...}` of scheduler.parts into a `_target_` node.

    Raises SpecError for an option that doesn't exist, or that has parts itself.
    """
    node: Any = composed._get_node("scheduler")
    listed = node._get_node("parts") if OmegaConf.is_dict(node) else None
    parts: Any = OmegaConf.to_container(listed) if OmegaConf.is_list(listed) else None
    if not isinstance(parts, list):
        return
    problems, known = Problems(), option_files.find_options("scheduler")
    for index, part in enumerate(parts):
        option = part.get("option") if isinstance(part, dict) else None
        if not isinstance(option, str) or "_target_" in part:
            continue
        key = f"scheduler.parts[{index}].option"
        if option not in known:
            hint = option_files.suggest_nearest(option, known) or f"; there are {', '.join(known)}"
            problems.append(f"{key}: scheduler={option}: no such option{hint}")
        elif "parts" in known[option].keys:
            problems.append(f"{key}: {option} has parts, too; list those parts here")
        else:
            files = option_files.resolve_inheritance("scheduler", option)
            settings = {key: value for file in files for key, value in file.content.items()}
            for name in ("defaults", *ENGINE_SETTINGS["scheduler"]):  # one for all parts
                settings.pop(name, None)
            parts[index] = {**settings, **part, "_partial_": True}
    problems.raise_if_any()
    node.parts = parts


def print_config(
    kind: str, overrides: Sequence[str], package: str | None, *, resolve: bool
) -> None:
    """Prints what Hydra's `--cfg` does. Raises SpecError. Call within `composition_context()`."""
    if bare := [text for text in overrides if "=" not in text and text[:1] != "~"]:
        raise SpecError(map(_describe_unreadable, bare))
    with resolution_context(), output.capture_stdout():
        whole = compose_config(overrides)
        shown = [
            str(key) for key in whole if kind == "all" or (key == "hydra") == (kind == "hydra")
        ]
        chosen = (
            OmegaConf.select(OmegaConf.masked_copy(whole, shown), package) if package else whole
        )
        if not OmegaConf.is_config(chosen):
            raise SpecError(f"--package: {package} is not a mapping of --cfg {kind}; leave it out")
        Hydra("recipe", _get_config_loader()).show_cfg(
            "config", list(overrides), kind, package, resolve
        )


def get_composition_cache() -> CompositionCache:
    return _get_config_loader().cache


@functools.cache
def _get_config_loader() -> CachedConfigLoader:
    return CachedConfigLoader(GlobalHydra.instance().config_loader())
