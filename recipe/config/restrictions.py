"""What a recorded spec, which may be a stranger's, can't decide about its reader's machine.

It can't write outside the working directory nor send its record to another machine unless the
reader says so. A user's own conf/ is their code, and is free to.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from recipe.config import credentials, option_files
from recipe.config.spec import RunSpec
from recipe.errors import Problems


def find_shadowed_hydra_files() -> list[str]:
    """Reports files of the user's conf/ that would replace Hydra's own without being chosen."""
    folder = option_files.user_conf_dir()
    names = ("config", "launcher/basic", "sweeper/basic")
    files = [folder / "hydra" / f"{name}.yaml" for name in names] if folder else []
    return [
        f"hydra: {file} would take the place of Hydra's own; give it another name"
        for file in files
        if file.exists()
    ]


def get_tracking_uri(config: DictConfig) -> Any:
    """The server that the record is sent to, or None."""
    is_mapping = OmegaConf.is_dict(config.get("tracking"))
    return OmegaConf.select(config, "tracking.uri") if is_mapping else None


def is_local_uri(uri: Any) -> bool:
    """Whether an address is on this machine, as 127.0.0.1 is."""
    try:
        host = urlsplit(uri).hostname if isinstance(uri, str) else None
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def override_destinations(
    spec: RunSpec, output_dir: str, uri: str, user_config: DictConfig
) -> RunSpec:
    """Replaces output_dir and tracking.uri of a recorded spec by the reader's, unless empty.

    Raises SpecError if the spec names a folder outside the working directory, or a server on
    another machine, that neither the reader nor their project (`user_config`) names.
    """
    problems = Problems()
    if output_dir:
        spec = replace(spec, output_dir=output_dir)
    elif not _is_readers_dir(spec.output_dir, user_config.output_dir):
        problems.append(
            f"output_dir: {spec.output_dir!r} of this spec is outside the working directory; "
            "choose where its run is written: output_dir=<folder>"
        )
    recorded = spec.tracking.get("uri")
    with problems.collect("tracking.uri"):
        credentials.check_no_credentials(str(uri or recorded))
    if uri and recorded is None:
        problems.append(
            f"tracking.uri={uri}: tracking={spec.options['tracking']} of this spec has no such "
            "setting; leave it out"
        )
    elif uri:
        spec = spec.with_settings(tracking={**spec.tracking, "uri": uri})
    elif recorded not in (None, get_tracking_uri(user_config)) and not is_local_uri(recorded):
        problems.append(
            f"tracking.uri: {recorded!r} of this spec is another machine's; if the record may be "
            f"sent there, give tracking.uri={recorded}"
        )
    problems.raise_if_any()
    return spec


def _is_readers_dir(folder: str, project_dir: Any) -> bool:
    """Whether a folder, links followed, is in the working directory or is the project's own."""
    try:
        path = Path(folder).expanduser().resolve()
        return (
            path.is_relative_to(Path.cwd().resolve())
            or path == Path(str(project_dir)).expanduser().resolve()
        )
    except (RuntimeError, ValueError, OSError):  # an unknown user's home, links in a circle
        return False
