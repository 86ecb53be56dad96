"""Replay: a recorded run once more, from its spec, and whether its numbers came out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from rich.console import Console

from recipe import agreement, compose, device, fingerprint, origin, recorded, runs, settings
from recipe.changed import changed
from recipe.earlier import Earlier
from recipe.errors import Problems, SpecError
from recipe.execute import execute, prepare, report
from recipe.spec import RunSpec
from recipe.wording import counted

MOST_THREADS = 256
"""A recorded number of threads above this is not believed."""


def replay(arguments: Sequence[str], console: Console) -> int:
    """The verb. The comparison is the result, so the exit status is 0 whatever it says."""
    if not arguments:
        raise SpecError("replay: which run? Give its id: python -m recipe replay <run id>")
    problems = Problems()
    folder, spec = _read(arguments[0], arguments[1:], problems)
    spec, threads = _with_threads(spec, folder)
    run = prepare(spec, problems)
    from recipe import plan

    console.print(plan.headline(spec, run), soft_wrap=True)
    if threads:
        console.print(threads, soft_wrap=True)
    outcome, recorder = execute(
        spec, run, console, name=spec.label, command=" ".join(["replay", *arguments]),
        before=Earlier(fingerprint.of(spec, run)),
        tags={"recipe.replay_of": folder.name},
    )  # fmt: skip
    report(console, outcome, recorder)
    changes = f" with {' '.join(arguments[1:])}" if arguments[1:] else ""
    told = agreement.compare(folder, recorder.folder).sentence
    console.print(f"Replay  of {folder.name}{changes}: {told}", soft_wrap=True)
    return 0


def _read(wanted: str, given: Sequence[str], problems: Problems) -> tuple[Path, RunSpec]:
    """The recorded run, and its spec with the overrides over it; `problems` are those of the
    overrides. Raises SpecError if there is no such run, or its record can't be read."""
    overrides = compose.parse(given)
    own = {key: _own(overrides, key) for key in ("output_dir", "trust")}
    project = compose.project()
    folder = _find(own["output_dir"] or str(project.output_dir), wanted)
    recorded_spec = RunSpec.read(folder / "spec.yaml", [*(own["trust"] or []), *project.trust])
    with compose.menu_folder():
        spec = changed(recorded_spec, overrides, problems)
    uri = spec.tracking.get("uri")
    theirs = any(o.key_or_group in ("tracking", "tracking.uri") for o in overrides)
    with problems.collect("replay"):
        spec = origin.replayed(
            spec, own["output_dir"] or "", str(uri) if theirs and uri else "", project
        )
    return folder, spec


def _own(overrides: Sequence[Override], key: str) -> Any:
    """The value that the overrides give to a setting of the whole run; None: none of them does."""
    values = [o.value() for o in overrides if o.key_or_group == key and not o.is_delete()]
    if values and (wrong := settings.type_problems(key, settings.ROOT[key], values[-1])):
        raise SpecError(wrong)
    return values[-1] if values else None


def _find(outputs: str, wanted: str) -> Path:
    """The folder of a run whose metrics can be read, so that there is something to compare."""
    try:
        folder = runs.find(Path(outputs).expanduser().resolve(), wanted, "replay")
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {outputs[:200]!r} is no path of this machine") from error
    damaged = [line for line in recorded.read(folder).damaged if line.startswith("metrics.jsonl")]
    if damaged:
        raise SpecError(f"replay: {folder.name}: {damaged[0]}; use another run")
    return folder


def _with_threads(spec: RunSpec, folder: Path) -> tuple[RunSpec, str | None]:
    """With the number of threads that the recorded run had, as another changes the last bits; and
    a line that says so, where it isn't what this machine would take."""
    had = recorded.read(folder).environment.get("threads", "")
    if spec.device.get("threads") != "auto" or not had.isdecimal():
        return spec, None
    threads, usual = int(had), device.thread_count("auto")
    if threads == usual or not 1 <= threads <= MOST_THREADS:
        return spec, None
    line = f"On {counted(threads, 'thread')}, as the recorded run was; here auto would be {usual}"
    return replace(spec, device={**spec.device, "threads": threads}), line
