"""`resume`: a run that was stopped goes on, and ends as if it never had been."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recipe import compose, origin, runs
from recipe.arguments import key_values
from recipe.errors import Problems, SpecError
from recipe.execute import execute, prepare, report
from recipe.spec import RunSpec


def resume(arguments: Sequence[str], console: Console) -> int:
    """Takes the run up that the first argument names; exit status 0 when it is finished."""
    if not arguments or "=" in arguments[0]:
        raise SpecError("resume: which run? python -m recipe resume <run id>")
    wanted, *rest = arguments
    known = {"output_dir": "outputs", "trust": "", "tracking.uri": ""}
    values = key_values("resume", rest, known)
    outputs = Path(values["output_dir"]).expanduser().resolve()
    folder = runs.find(outputs, wanted, "resume")
    trust = compose.trusted(values["trust"])
    given = values["output_dir"] if "output_dir" in "".join(rest) else ""
    spec = recorded_spec(folder, trust, given, values["tracking.uri"])
    take_up(folder, spec, console)
    return 0


def recorded_spec(folder: Path, trust: Sequence[str], output_dir: str, uri: str) -> RunSpec:
    """The spec of a recorded run, as far as it may be trusted."""
    path = folder / "spec.yaml"
    if not path.is_file():
        raise SpecError(f"resume: {folder.name} was stopped before it began; start it again")
    spec = RunSpec.read(path, trust)
    return origin.replayed(spec, output_dir, uri, compose.project())


def take_up(folder: Path, spec: RunSpec, console: Console) -> None:
    """Raises SpecError for a run that is finished, or is being run."""
    info = runs.read(folder, "resume")
    if info.status == "FINISHED":
        raise SpecError(
            f"resume: {info.id} is finished; to go on beyond its end give more epochs=<number>"
        )
    run = prepare(spec, Problems())
    outcome, recorder = execute(
        spec, run, console, name=info.name, command=f"resume {info.id}", taken_up=folder
    )
    report(console, outcome, recorder)
