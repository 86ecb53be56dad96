"""A recorded run that is asked for again: its folder, its spec, and that spec with overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from recipe.config import compose, restrictions, schema
from recipe.config.respecify import changed
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.store import run_dirs


@dataclass(frozen=True)
class Asked:
    folder: Path
    recorded: RunSpec
    spec: RunSpec
    """With the overrides."""


def asked(verb: str, arguments: Sequence[str], problems: Problems) -> Asked:
    """What `<run id> [overrides]` asks for; `problems` are those of the overrides.

    Raises SpecError, headed by the verb, if there is no such run or its record can't be read.
    """
    if not arguments or "=" in arguments[0]:
        raise SpecError(f"{verb}: which run? Give its id: python -m recipe {verb} <run id>")
    wanted, *given = arguments
    overrides = compose.parse(given)
    own = {key: _own(overrides, key) for key in ("output_dir", "trust")}
    project = compose.project()
    outputs = own["output_dir"] or str(project.output_dir)
    folder = _find(verb, outputs, wanted)
    path = folder / "spec.yaml"
    if not path.is_file():
        raise SpecError(f"{verb}: {folder.name} was stopped before it began; start it again")
    recorded = RunSpec.read(path, [*(own["trust"] or []), *project.trust])
    with compose.menu_folder():
        spec = changed(recorded, overrides, problems)
    uri = spec.tracking.get("uri")
    theirs = any(o.key_or_group in ("tracking", "tracking.uri") for o in overrides)
    with problems.collect(verb):
        # the outputs may have been moved since, and belong where they are
        spec = restrictions.replayed(spec, outputs, str(uri) if theirs and uri else "", project)
    return Asked(folder, recorded, spec)


def _own(overrides: Sequence[Override], key: str) -> Any:
    """The value that the overrides give to a setting of the whole run; None: none of them does."""
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    if values and (wrong := schema.type_problems(key, schema.ROOT[key], values[-1])):
        raise SpecError(wrong)
    return values[-1] if values else None


def _find(verb: str, outputs: str, wanted: str) -> Path:
    try:
        return run_dirs.find(Path(outputs).expanduser().resolve(), wanted, verb)
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {outputs[:200]!r} is no path of this machine") from error
