"""`-m`: every combination of the values given, launched by Hydra, each a run of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from rich.console import Console

from recipe import compose, earlier, fingerprint, menu, recorded, runs
from recipe.errors import Problems, RecipeError, SpecError
from recipe.execute import execute, prepare
from recipe.mlflow_feed import Feed
from recipe.overrides import check
from recipe.parts import part, static_problems
from recipe.record import Status
from recipe.sent import Sent
from recipe.settings import root_problems
from recipe.spec import RunSpec
from recipe.sweep import jobs, parent
from recipe.sweep.jobs import Ended
from recipe.wording import counted

SWEEP = "RECIPE_SWEEP"
"""Environment variable with the sweep's id, for jobs in this process and in others."""


def multirun(arguments: Sequence[str], console: Console) -> int:
    """Runs the sweep; exit status 0 if every job finished, else 1.

    Raises SpecError before the first run if any job's overrides or settings are wrong.
    """
    overrides = compose.parse(arguments)
    specs, planned = _check(overrides)
    first = specs[0]
    swept = sorted({o.get_key_element() for o in overrides if o.is_sweep_override()})
    name = " ".join(o.input_line for o in overrides if o.is_sweep_override()) or first.label
    digest = hashlib.sha256(repr(sorted(job.overrides for job in planned)).encode()).hexdigest()
    content = {
        "name": first.name or name,
        "command": ["-m", *arguments],
        "swept": swept,
        "jobs": len(planned),
        "planned": [list(job.swept) for job in planned],
        "digest": digest,
    }
    sweep = _unfinished(first.output_path / "sweeps", digest)
    said = f"{content['name']}: {counted(len(planned), 'run')}"
    if sweep is None or first.again:
        sweep = first.output_path / "sweeps" / runs.new_id()
        sweep.mkdir(parents=True)
        (sweep / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
    else:
        said += f", going on with {sweep.name}"
    os.environ[SWEEP] = sweep.name
    console.print(said, soft_wrap=True)
    status: Status = "KILLED"
    lock = parent.begin(sweep)
    try:
        _launch(arguments)
        done = [each for each in jobs.read(sweep) if each.status == "FINISHED"]
        status = "FINISHED" if len(done) == len(planned) else "FAILED"
    finally:
        del os.environ[SWEEP]
        tracking = part(first, "tracking")(first.output_path)
        note = jobs.markdown(sweep)
        parent.end(sweep, status, note)
        failure = parent.tell(tracking, first.output_path, sweep)
        lock.release()
        jobs.report(console, sweep)
        if failure:
            sync = runs.command("sync", first.output_path)
            told = f"MLflow did not take the sweep's end ({failure}); {sync} sends it"
            console.print(told, style="red", soft_wrap=True)
    return 0 if status == "FINISHED" else 1


def _unfinished(sweeps: Path, digest: str) -> Path | None:
    """The newest sweep of the same command lines, if it didn't finish and nobody is running it."""
    for folder in sorted(sweeps.glob("*"), reverse=True):
        about = parent.read(folder)
        if about.get("digest") == digest:
            finished = about.get("end", {}).get("status") == "FINISHED"
            return None if finished or runs.alive(folder) else folder
    return None


def _check(overrides: Sequence[Override]) -> tuple[list[RunSpec], list[compose.Job]]:
    """The distinct specs of the jobs, checked as far as can be without making anything."""
    problems = Problems()
    specs: list[RunSpec] = []
    with compose.menu_folder():
        checked = check(overrides)
        problems += checked.problems
        jobs = compose.jobs(checked.overrides)
        seen = set()
        for job in jobs:
            # seeds are many and all alike
            alike = tuple(text for text in job.overrides if not text.startswith("seed="))
            if alike not in seen:
                seen.add(alike)
                with problems.collect("sweep"):
                    specs.append(job.spec())
    for spec in [*specs, *(replace(specs[0], seed=seed) for seed in _seeds(jobs) if specs)]:
        problems += root_problems(vars(spec))
    for spec in specs:
        problems += [line for lines in static_problems(spec).values() for line in lines]
    problems.raise_any()
    return specs, jobs


def _seeds(jobs: Sequence[compose.Job]) -> list[Any]:
    """The seeds given, each once."""
    texts = {text for job in jobs for text in job.overrides if text.startswith("seed=")}
    return [override.value() for override in compose.parse(sorted(texts))]


def _launch(arguments: Sequence[str]) -> None:
    compose.register_user_options()
    sys.argv = [sys.argv[0], "--multirun", *arguments]
    main = hydra.main(version_base="1.3", config_path=str(menu.own_folder()), config_name="config")
    main(job)()


def job(config: DictConfig) -> None:
    """One run of the sweep, in the process the launcher chose. A failure costs this run only."""
    hydra_config = HydraConfig.get()
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    sweep = Path(hydra_config.sweep.dir).resolve()
    about = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    overrides = list(hydra_config.overrides.task)
    swept = [text for text in overrides if text.split("=")[0] in about["swept"]]
    name, number = " ".join(swept), hydra_config.job.num
    console.print(f"\n[{number + 1}/{about['jobs']}] {name}", markup=False, style="bold")
    try:
        spec = RunSpec.from_config(config, hydra_config.runtime.choices)
        name = name or spec.label
        run = prepare(spec, Problems())
        with earlier.claimed(spec, fingerprint.of(spec, run)) as before:
            if (before is None or before.running) and not spec.again:
                by = f", as {before.running.name}" if before and before.running else ""
                problem = f"another process is running it{by}"
                console.print(problem, soft_wrap=True)
                return jobs.note(sweep, Ended(number, name, "RUNNING", problem=problem))
            assert before is not None
            if before.finished and not spec.again:
                done = _finished(before.finished, number, name)
                console.print(f"finished before, as {done.run}: {done.percent}", soft_wrap=True)
                _send_rest(before.finished, spec)
                return jobs.note(sweep, done)
            outcome, recorder = execute(
                spec, run, console,
                name=name, command=" ".join(overrides), sweep=sweep, before=before,
            )  # fmt: skip
    except RecipeError as error:
        for problem in error.problems:
            console.print(f"recipe: {problem}", style="red", markup=False, soft_wrap=True)
        status = "REFUSED" if isinstance(error, SpecError) else "FAILED"
        jobs.note(sweep, Ended(number, name, status, problem=error.problems[0]))
    except KeyboardInterrupt:
        jobs.note(sweep, Ended(number, name, "KILLED"))
        raise
    except Exception as error:
        traceback.print_exc()
        jobs.note(sweep, Ended(number, name, "FAILED", problem=f"{type(error).__name__}: {error}"))
    else:
        console.print(outcome.sentence(), soft_wrap=True)
        for caution in outcome.cautions():
            console.print(f"Caution {caution}", style="yellow", soft_wrap=True)
        if recorder.failure:
            console.print(
                f"MLflow did not take all of it ({recorder.failure})", style="red", soft_wrap=True
            )
        ended = Ended(
            number, name, "FINISHED", recorder.id, outcome.accuracy, no_effect=outcome.no_effect
        )
        jobs.note(sweep, ended)


def _finished(run: Path, number: int, name: str) -> Ended:
    """The result of a run that is recorded already."""
    record = recorded.read(run)
    accuracies = record.trace.get("best/val_accuracy", {})
    idle = record.tags.get("recipe.no_effect", "")
    return Ended(
        number, name, "FINISHED", run.name,
        accuracies[max(accuracies)] if accuracies else None,
        no_effect=idle.split(", ") if idle else [],
    )  # fmt: skip


def _send_rest(run: Path, spec: RunSpec) -> None:
    """Sends MLflow what it lacks of a run whose process was killed after it had finished."""
    tracking = part(spec, "tracking")(spec.output_path)
    sent = Sent.read(run)
    if sent and tracking.uri == sent.uri and sent.left(run):
        feed = Feed(run, tracking)
        feed.start()
        feed.finish()
