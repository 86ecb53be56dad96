"""A recorded spec that is run again: overrides, and what it may not decide for its reader.

What isn't overridden stays as it was recorded: it is not resolved again, even if another option of
its group, or a setting that it once referred to, has changed. A recorded spec may come from someone
else, so it can't write outside the working directory or send its record to another machine unless
the reader says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from recipe.config import compose, credentials
from recipe.config.groups import GROUPS
from recipe.config.option_files import EXPERIMENT_GROUP
from recipe.config.overrides import check_overrides
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError


def apply_overrides(
    recorded: RunSpec, overrides: Sequence[Override], problems: Problems
) -> RunSpec:
    """Applies the valid overrides; what is wrong with the others is added to `problems`.

    A chosen option is composed from the option files; its settings may refer to recorded ones.
    `trust` is kept. Raises SpecError. Call within `compose.composition_context()`.
    """
    refused = {
        override.input_line: line for override in overrides if (line := _describe_refusal(override))
    }
    problems += refused.values()
    kept = [override for override in overrides if override.input_line not in refused]
    checked = check_overrides(
        kept, compose_base=lambda choices: _compose_over_recorded(recorded, choices)
    )
    problems += checked.problems
    chosen = [o.input_line for o in checked.overrides if o.key_or_group in GROUPS]
    composed = _compose_over_recorded(recorded, chosen)
    values = [o for o in checked.overrides if o.key_or_group not in (*GROUPS, "trust")]
    with compose.resolution_context():
        try:
            ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        except HydraException as error:
            raise SpecError(" ".join(str(error).split())) from error
        options = composed.hydra.runtime.choices
        del composed["hydra"]
        return RunSpec.from_config(composed, options)


def _describe_refusal(override: Override) -> str | None:
    """Explains why an override can't be applied to a recorded run."""
    text, root = override.input_line, override.key_or_group.partition(".")[0]
    if override.is_sweep_override():
        return f"{text}: a recorded run takes one value per setting; give one"
    if root == EXPERIMENT_GROUP or root.partition("/")[0] in (EXPERIMENT_GROUP, "hydra"):
        return f"{text}: a recorded run has no {root}; give options and settings themselves"
    return None


def _compose_over_recorded(recorded: RunSpec, choices: Sequence[str]) -> DictConfig:
    """Composes the chosen options; all other settings are those of the record."""
    composed = compose.compose_config(choices)
    chosen = {choice.partition("=")[0] for choice in choices}
    for field in dataclasses.fields(recorded):
        value = getattr(recorded, field.name)
        if field.name not in (*chosen, "options"):
            composed[field.name] = list(value) if isinstance(value, tuple) else value
    for group in GROUPS:
        if group not in chosen:
            composed.hydra.runtime.choices[group] = recorded.options[group]
    return composed


def override_destinations(
    spec: RunSpec, output_dir: str, uri: str, user_config: DictConfig
) -> RunSpec:
    """Replaces output_dir and tracking.uri of a recorded spec by the reader's, unless empty.

    Raises SpecError if the spec names a folder outside the working directory, or a server on
    another machine, that neither the reader nor their project (`user_config`) names.
    """
    problems = Problems()
    if output_dir:
        spec = dataclasses.replace(spec, output_dir=output_dir)
    elif not _is_readers_dir(spec.output_dir, user_config.output_dir):
        problems.append(
            f"output_dir: {spec.output_dir!r} of this spec is outside the working directory; give "
            "output_dir=<folder>"
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
    elif recorded not in (
        None,
        compose.get_tracking_uri(user_config),
    ) and not credentials.is_local_uri(recorded):
        problems.append(
            f"tracking.uri: {recorded!r} of this spec is on another machine; if the record may be "
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
