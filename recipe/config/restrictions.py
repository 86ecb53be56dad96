"""Who may say what: settings that reach beyond a run come from the user's own words alone.

The user's own words are the command line and conf/project/default.yaml. Any other option or
experiment file may be a stranger's, and so may a recorded spec: none of these may say what to
trust, configure Hydra (which calls what its node names), read the environment, write outside the
working directory or send the record to another machine.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from recipe.config import credentials, option_files, safe_yaml
from recipe.config.groups import RUN_SETTINGS
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError

USER_SOURCES = "the command line or conf/project/default.yaml"

READABLE_VARIABLES: ContextVar[frozenset[str] | None] = ContextVar("NAMED", default=None)
"""Variables of the environment that a config may read now; None: any."""


def filter_by_root(overrides: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """The overrides of settings below one of these names."""
    wanted = set(names)
    return tuple(text for text in overrides if re.split(r"[.=/@]", text.lstrip("+~"))[0] in wanted)


def filter_run_settings(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that choose no option file: of the whole run's settings and of Hydra's."""
    return filter_by_root(overrides, {key.split(".")[0] for key in (*RUN_SETTINGS, "hydra")})


def find_restricted_settings(
    composed: DictConfig, user_config: DictConfig, overrides: Iterable[str]
) -> list[str]:
    """What of a composed config only the user's own words may say, and they don't.

    `own` is composed of `plain_roots(overrides)` alone.
    """
    found = []
    if _get_value(composed, "trust") != _get_value(user_config, "trust"):
        found.append(_describe_restriction("trust", _get_value(composed, "trust")))
    found += [
        _describe_restriction(key)
        for key in _find_changed_hydra_keys(composed, user_config, list(overrides))
    ]
    folder = _get_value(composed, "output_dir")
    if folder != _get_value(user_config, "output_dir") and is_outside_cwd(folder):
        found.append(
            f"output_dir: {folder!r} is outside the working directory, and only {USER_SOURCES} may say so; "
            "give output_dir=<folder> there"
        )
    return found


def find_restricted_tracking(composed: DictConfig, user_config: DictConfig) -> list[str]:
    """As `problems`, of the server; `own` is composed of the overrides of tracking as well."""
    uri = get_tracking_uri(composed)
    if uri is None or is_local_uri(uri) or uri == get_tracking_uri(user_config):
        return []
    return [
        f"tracking.uri: {uri!r} is another machine's, and only {USER_SOURCES} may send the record there; "
        "choose tracking and tracking.uri there"
    ]


def _describe_restriction(key: str, value: object = None) -> str:
    got = "" if value is None else f" to {value}"
    return (
        f"{key}: an option or experiment file sets it{got}, and only {USER_SOURCES} may; take it out of "
        "that file"
    )


def _find_changed_hydra_keys(
    composed: DictConfig, own: DictConfig, overrides: list[str]
) -> list[str]:
    """The keys of Hydra's node that an option file has set."""
    chosen: list[dict[str, Any]] = []
    theirs, ours = (
        OmegaConf.to_container(config.hydra, resolve=False) for config in (composed, own)
    )
    assert isinstance(theirs, dict) and isinstance(ours, dict)
    given = theirs.pop("overrides")
    ours.pop("overrides")
    for node in (theirs, ours):
        choices = node["runtime"].pop("choices")
        chosen.append({key: choices[key] for key in choices if key.startswith("hydra/")})
        node["job"].pop("override_dirname", None)
    found = [f"hydra.{key!s}" for key in theirs if theirs[key] != ours.get(key)]
    found += [
        f"{key}={chosen[0][key]}" for key in chosen[0] if chosen[0][key] != chosen[1].get(key)
    ]
    if sorted(given["task"] + given["hydra"]) != sorted(overrides):
        found.append("hydra.overrides")
    return found


def find_shadowed_hydra_files() -> list[str]:
    """Files of the user's conf/ that would take the place of Hydra's own, which nobody chose."""
    folder = option_files.user_conf_dir()
    names = ("config", "launcher/basic", "sweeper/basic")
    files = [folder / "hydra" / f"{name}.yaml" for name in names] if folder else []
    return [
        f"hydra: {file} would take the place of Hydra's own; give it another name"
        for file in files
        if file.exists()
    ]


def _get_value(config: DictConfig, key: str) -> Any:
    value: Any = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def get_tracking_uri(config: DictConfig) -> Any:
    """The address that the record is sent to; None: to no server."""
    return _get_value(config, "tracking.uri") if OmegaConf.is_dict(config.get("tracking")) else None


def is_outside_cwd(folder: Any) -> bool:
    """Whether a folder lies outside the working directory, links followed."""
    if not isinstance(folder, str):
        return False  # its type is refused elsewhere
    try:
        return not Path(folder).expanduser().resolve().is_relative_to(Path.cwd().resolve())
    except (RuntimeError, ValueError, OSError):  # nobody's home, links in a circle
        return True


def is_local_uri(uri: Any) -> bool:
    """Whether an address is this machine's own, as 127.0.0.1 is."""
    try:
        host = urlsplit(uri).hostname if isinstance(uri, str) else None
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def override_destinations(
    spec: RunSpec, output_dir: str, uri: str, user_config: DictConfig
) -> RunSpec:
    """A recorded spec with the reader's own output_dir and tracking.uri, where those are given.

    `own` is what the reader's project says. Raises SpecError where the spec itself reaches too far.
    """
    found = Problems()
    if output_dir:
        spec = replace(spec, output_dir=output_dir)
    elif is_outside_cwd(spec.output_dir) and not _is_same_dir(
        spec.output_dir, user_config.output_dir
    ):
        found.append(
            f"output_dir: {spec.output_dir!r} of this spec is outside the working directory; say "
            "where its run may go: output_dir=<folder>"
        )
    recorded = spec.tracking.get("uri")
    with found.collect("tracking.uri"):
        credentials.check_no_credentials(str(uri or recorded))
    if uri and recorded is None:
        found.append(
            f"tracking.uri={uri}: tracking={spec.options['tracking']} of this spec has no such "
            "setting; leave it out"
        )
    elif uri:
        spec = spec.with_settings(tracking={**spec.tracking, "uri": uri})
    elif (
        recorded is not None
        and not is_local_uri(recorded)
        and recorded != get_tracking_uri(user_config)
    ):
        found.append(
            f"tracking.uri: {recorded!r} of this spec is another machine's; if the record may go "
            f"there, say tracking.uri={recorded}"
        )
    found.raise_if_any()
    return spec


def _is_same_dir(one: str, other: Any) -> bool:
    try:
        return Path(one).expanduser().resolve() == Path(str(other)).expanduser().resolve()
    except (RuntimeError, ValueError, OSError):
        return False


@contextmanager
def restrict_environment(overrides: Iterable[str]) -> Iterator[None]:
    """Within it `${oc.env:NAME}` gives the variables that the user's own words name, and no others;
    and interpolations expand to a bounded number of values.

    Raises ValueError, from where it is resolved, for any other, and SpecError for a file of the
    project's that can't be read.
    """
    texts = list(overrides)
    folder = option_files.user_conf_dir()
    if folder is not None and (folder / "project" / "default.yaml").exists():
        try:
            texts.append(safe_yaml.read_yaml_text(folder / "project" / "default.yaml"))
        except ValueError as error:
            raise SpecError(str(error)) from error
    reads = r"oc\.env\\?:[\s\\'\"]*(\w+)"  # Hydra hands overrides on with backslashes in them
    named = {name for text in texts for name in re.findall(reads, text)}
    before = READABLE_VARIABLES.set(frozenset(named))
    try:
        with safe_yaml.limit_interpolations():
            yield
    finally:
        READABLE_VARIABLES.reset(before)


def register_env_resolver() -> None:
    """Puts what `environment` decides in front of OmegaConf's own `oc.env`, and bounds what
    interpolations expand to."""
    safe_yaml.install_interpolation_limits()
    OmegaConf.register_new_resolver("oc.env", resolve_env_variable, replace=True)


def resolve_env_variable(name: str, *default: Any) -> str | None:
    """A variable of the environment. A function of this module's, so that a launcher can hand it on
    to other processes. Raises ValueError for one that the user's own words don't name."""
    from omegaconf.resolvers import oc

    named = READABLE_VARIABLES.get()
    if named is not None and name not in named:
        raise ValueError(
            f"an option or experiment file reads {name} from the environment, and only {USER_SOURCES} "
            "may; give the value there"
        )
    value: str | None = oc.env(name, *default)
    return value
