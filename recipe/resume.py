"""`resume`: a run that was stopped goes on, and ends as if it never had been."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recipe import compose, environment, fingerprint, origin, recorded, runs
from recipe.arguments import key_values
from recipe.earlier import Earlier
from recipe.errors import Problems, SpecError
from recipe.execute import execute, prepare, report
from recipe.spec import RunSpec
from recipe.train import Run
from recipe.wording import listed


def resume(arguments: Sequence[str], console: Console) -> int:
    """Takes the run up that the first argument names; exit status 0 when it is finished."""
    if not arguments or "=" in arguments[0]:
        raise SpecError("resume: which run? python -m recipe resume <run id>")
    wanted, *rest = arguments
    values = key_values("resume", rest, {"output_dir": "", "trust": "", "tracking.uri": ""})
    outputs = Path(values["output_dir"] or "outputs").expanduser().resolve()
    folder = runs.find(outputs, wanted, "resume")
    spec = RunSpec.read(_spec_file(folder), compose.trusted(values["trust"]))
    spec = origin.replayed(spec, str(outputs), values["tracking.uri"], compose.project())
    take_up(folder, spec, console)
    return 0


def take_up(folder: Path, spec: RunSpec, console: Console) -> None:
    """Goes on with the run of that folder; `spec` is its own.

    Raises SpecError for a run that is finished, is being run, or whose data are gone.
    """
    info = runs.read(folder, "resume")
    if info.status == "FINISHED":
        raise SpecError(
            f"resume: {info.id} is finished; to go on beyond its end, give more epochs=<number>"
        )
    run = prepare(spec, Problems())
    identity = fingerprint.of(spec, run)
    if identity != info.fingerprint:
        what = listed(_changes(folder, spec, run)) or "device, threads or given weights"
        console.print(
            f"Caution not as it was when {info.id} started ({what}), so its numbers will not be "
            "those of a run that was never stopped",
            style="yellow",
            soft_wrap=True,
        )
    outcome, recorder = execute(
        spec, run, console,
        name=info.name, command=f"resume {info.id}", before=Earlier(identity, stopped=folder),
    )  # fmt: skip
    report(console, outcome, recorder)


def _spec_file(folder: Path) -> Path:
    path = folder / "spec.yaml"
    if not path.is_file():
        raise SpecError(f"resume: {folder.name} was stopped before it began; start it again")
    return path


def _changes(folder: Path, spec: RunSpec, run: Run) -> list[str]:
    """What differs from when the run started. Raises SpecError if its data do."""
    record = recorded.read(folder)
    if record.digest and record.digest != run.data.digest:
        raise SpecError(
            f"resume: the data are not those that {folder.name} was trained with; put them back, "
            "or start a new run"
        )
    now = {**environment.versions(), **fingerprint.code(spec, run)}
    then = {**record.versions, **record.code}
    return [
        f"{name} {then.get(name, 'none')[:12]} -> {now.get(name, 'none')[:12]}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
