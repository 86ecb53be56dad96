"""A recorded run that is asked for again: its folder, its spec, and that spec with overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from recipe.config import compose, restrictions, schema
from recipe.config.respecify import apply_overrides
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.store import run_dirs


@dataclass(frozen=True)
class RunRequest:
    run_dir: Path
    recorded_spec: RunSpec
    spec: RunSpec
    """With the overrides."""


def parse_run_request(verb: str, arguments: Sequence[str], problems: Problems) -> RunRequest:
    """What `<run id> [overrides]` asks for; `problems` are those of the overrides.

    Raises SpecError, headed by the verb, if there is no such run or its record can't be read.
    """
    if not arguments or "=" in arguments[0]:
        raise SpecError(f"{verb}: which run? Give its id: python -m recipe {verb} <run id>")
    wanted, *given = arguments
    overrides = compose.parse_overrides(given)
    own = {key: _get_override_value(overrides, key) for key in ("output_dir", "trust")}
    project = compose.compose_project()
    outputs = own["output_dir"] or str(project.output_dir)
    folder = _find_run_dir(verb, outputs, wanted)
    path = folder / "spec.yaml"
    if not path.is_file():
        raise SpecError(f"{verb}: {folder.name} was stopped before it began; start it again")
    recorded = RunSpec.from_file(path, [*(own["trust"] or []), *project.trust])
    with compose.composition_context():
        spec = apply_overrides(recorded, overrides, problems)
    uri = spec.tracking.get("uri")
    theirs = any(o.key_or_group in ("tracking", "tracking.uri") for o in overrides)
    with problems.collect(verb):
        # the outputs may have been moved since, and belong where they are
        spec = restrictions.override_destinations(
            spec, outputs, str(uri) if theirs and uri else "", project
        )
    return RunRequest(folder, recorded, spec)


def _get_override_value(overrides: Sequence[Override], key: str) -> Any:
    """The value that the overrides give to a setting of the whole run; None: none of them does."""
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    if values and (wrong := schema.find_type_problems(key, schema.RUN_SETTINGS[key], values[-1])):
        raise SpecError(wrong)
    return values[-1] if values else None


def _find_run_dir(verb: str, outputs: str, query: str) -> Path:
    try:
        return run_dirs.find(Path(outputs).expanduser().resolve(), query, verb)
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {outputs[:200]!r} is no path of this machine") from error
