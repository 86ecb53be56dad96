"""The spec of a recorded run that is resumed or replayed, read without importing torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from recipe.components import device
from recipe.config import compose, schema
from recipe.config.groups import RUN_SETTINGS
from recipe.config.recorded_spec import apply_overrides, override_destinations
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import pluralize
from recipe.store import lineage, run_dirs
from recipe.store.run_record import RunRecord

MAX_RECORDED_THREADS = 256


@dataclass(frozen=True)
class RecordedRunRequest:
    spec: RunSpec
    """The recorded spec with the overrides."""
    problems: Problems
    """Errors in the overrides."""
    arguments: Sequence[str]
    run_dir: Path
    recorded_spec: RunSpec
    threads_note: str = ""
    """Not empty if the recorded number of threads replaces this machine's."""


def parse_resume(arguments: Sequence[str]) -> RecordedRunRequest:
    return _parse("resume", arguments)


def parse_replay(arguments: Sequence[str]) -> RecordedRunRequest:
    """Raises SpecError for a run that can't be replayed from its spec alone."""
    request = _parse("replay", arguments)
    name = request.run_dir.name
    if source := lineage.find_parent_checkpoint(request.run_dir):
        parent = lineage.get_parent_run_id(source)
        raise SpecError(
            f"replay: {name} continued {parent}, so its spec alone doesn't give its numbers; "
            f"replay {parent}, or resume that with the same overrides"
        )
    if problem := RunRecord(request.run_dir).problems.get("metrics.jsonl"):
        raise SpecError(f"replay: {name}: metrics.jsonl: {problem}; use another run")
    return _set_recorded_threads(request)


def _set_recorded_threads(request: RecordedRunRequest) -> RecordedRunRequest:
    """Replaces device.threads=auto by the recorded number: another one changes the last bits."""
    recorded = RunRecord(request.run_dir).environment.get("threads", "")
    if request.spec.device.get("threads") != "auto" or not recorded.isdecimal():
        return request
    threads, default = int(recorded), device.thread_count("auto")
    if threads == default or not 1 <= threads <= MAX_RECORDED_THREADS:
        return request
    if threads > device.count_available_cores():
        os.environ["OMP_NUM_THREADS"] = str(threads)  # allows more threads than cores
    spec = request.spec.with_settings(device={**request.spec.device, "threads": threads})
    note = f"On {pluralize(threads, 'thread')}, as the recorded run was; auto would be {default}"
    return replace(request, spec=spec, threads_note=note)


def _parse(verb: str, arguments: Sequence[str]) -> RecordedRunRequest:
    """Reads `<run id> [overrides]`. Raises SpecError if there is no such run or no valid spec."""
    if not arguments or "=" in arguments[0]:
        raise SpecError(f"{verb}: which run? Give its id: python -m recipe {verb} <run id>")
    query, *rest = arguments
    overrides, problems = compose.parse_overrides(rest), Problems()
    output_dir, trust = (_get_override_value(overrides, key) for key in ("output_dir", "trust"))
    project = compose.compose_project()
    output_dir = output_dir or str(project.output_dir)
    run_dir = _find_run_dir(verb, output_dir, query)
    path = run_dir / "spec.yaml"
    if not path.is_file():
        raise SpecError(f"{verb}: {run_dir.name} was stopped before it began; start it again")
    recorded = RunSpec.from_file(path, [*(trust or []), *project.trust])
    with compose.composition_context():
        spec = apply_overrides(recorded, overrides, problems)
    uri = spec.tracking.get("uri")
    is_uri_given = any(o.key_or_group in ("tracking", "tracking.uri") for o in overrides)
    with problems.collect(verb):
        # output_dir may have been moved; the run stays in it
        spec = override_destinations(
            spec, output_dir, str(uri) if is_uri_given and uri else "", project
        )
    return RecordedRunRequest(spec, problems, arguments, run_dir, recorded)


def _get_override_value(overrides: Sequence[Override], key: str) -> Any:
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    if values and (wrong := schema.find_type_problems(key, RUN_SETTINGS[key], values[-1])):
        raise SpecError(wrong)
    return values[-1] if values else None


def _find_run_dir(verb: str, output_dir: str, query: str) -> Path:
    try:
        return run_dirs.find(Path(output_dir).expanduser().resolve(), query, verb)
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {output_dir[:200]!r} is no path of this machine") from error
