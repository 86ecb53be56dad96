"""`recipe status SWEEP`: of whole sweeps that failed, were killed or go on, and of damaged ones."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
import pytest
import stopped_runs
from sent_runs import SentRecorder

from recipe.components.tracking import Tracking
from recipe.store import run_dirs

SWEEP = "20260101-000000-aaaaaa"

LRS = ("-m", *stopped_runs.QUIET, "optimizer.lr=0.1,0.2", "seed=0,1")
"""Four runs of 9 steps."""


def status(folder: Path, *arguments: str) -> list[str]:
    done = commands.run(folder, "status", *arguments)
    assert (done.status, done.err) == (0, "")
    return [line.rstrip() for line in done.out.splitlines()]


def accuracies(folder: Path) -> dict[str, str]:
    (path,) = folder.glob("outputs/sweeps/*/jobs.jsonl")
    ended = commands.read_lines(path)
    return {e["name"]: f"{100 * e['accuracy']:.2f} %" for e in ended if e["status"] == "FINISHED"}


def go_on(folder: Path, lines: Sequence[str]) -> commands.Result:
    """Gives the command that was advised."""
    (advice,) = [line for line in lines if line.startswith("Resume with: python -m recipe ")]
    command, _, _ = advice.removeprefix("Resume with: python -m recipe ").partition("; that takes")
    return commands.run(folder, *shlex.split(command))


@pytest.mark.long
def test_status_prints_command_completing_sweep_with_failed_run(tmp_path: Path) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("14 error")  # in the second run's fifth step
    assert commands.sweep(tmp_path, *LRS).status == 1
    done = accuracies(tmp_path)
    lines = status(tmp_path, "optimizer.lr=0.1,0.2 seed=0,1")
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    best = "val/accuracy of each run's best epoch (compare takes the last)"
    assert lines[0] == f"optimizer.lr=0.1,0.2 seed=0,1 ({sweep.name}): {best}"
    assert [line.split() for line in lines[1:4]] == [
        ["variant", "seed", "0", "seed", "1"],
        ["optimizer.lr=0.1", *done["optimizer.lr=0.1 seed=0"].split(), "failed"],
        ["optimizer.lr=0.2", *done["optimizer.lr=0.2 seed=0"].split(),
         *done["optimizer.lr=0.2 seed=1"].split()],
    ]  # fmt: skip
    assert lines[4:6] == ["failed: optimizer.lr=0.1 seed=1: it is to fail", "3 of 4 done, 1 failed"]
    assert lines[6].endswith(" each on average)") and "(3 finished runs took " in lines[6]
    assert go_on(tmp_path, lines).status == 0
    after = status(tmp_path, f"--sweep={sweep.name}")
    assert after[-1] == "4 of 4 done" and not any("failed" in line for line in after)


@pytest.mark.integration
def test_status_prints_command_completing_killed_sweep(tmp_path: Path) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("14 SIGKILL")
    killed = commands.spawn(tmp_path, *LRS, "hydra/launcher=basic")
    assert killed.status == -signal.SIGKILL, killed.err
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    done = accuracies(tmp_path)["optimizer.lr=0.1 seed=0"]
    before = status(tmp_path, sweep.name[:8])
    assert [line.split() for line in before[2:4]] == [
        ["optimizer.lr=0.1", *done.split(), "killed"], ["optimizer.lr=0.2", "missing", "missing"],
    ]  # fmt: skip
    assert before[4] == "1 of 4 done, 1 killed, 2 missing"
    alone = status(tmp_path)  # closes it
    (line,) = [line for line in alone if line.startswith(sweep.name)]
    assert line.endswith("  optimizer.lr=0.1,0.2 seed=0,1  1 of 4")
    assert f"python -m recipe status {sweep.name} shows one in full" in alone
    lines = status(tmp_path, "--sweep", sweep.name)
    assert lines == before
    assert go_on(tmp_path, lines).status == 0
    assert status(tmp_path, sweep.name)[-1] == "4 of 4 done"
    assert not any("shows one in full" in line for line in status(tmp_path))


# sweeps written by hand


def sweep_folder(outputs: Path, id_: str = SWEEP, **about: Any) -> Path:
    sweep = outputs / "sweeps" / id_
    sweep.mkdir(parents=True)
    jobs = len(about.get("planned", ()))
    (sweep / "sweep.json").write_text(json.dumps({"jobs": jobs} | about))
    return sweep


def planned(variants: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
    return [[*variant.split(), f"seed={seed}"] for seed in seeds for variant in variants]


def end(sweep: Path, number: int, name: str, status: str = "FINISHED", **values: Any) -> None:
    line = {"number": number, "name": name, "status": status, **values}
    with open(sweep / "jobs.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def run_that_took(outputs: Path, run: str, *seconds: float) -> str:
    """A run that was stopped and went on, so many seconds each; an hour in between."""
    folder = run_dirs.get_runs_dir(outputs) / run
    folder.mkdir(parents=True)
    run_dirs.write_info(folder, run_dirs.RunInfo(run, "some", "FINISHED"))
    lines, time = [], 0
    for number, took in enumerate(seconds):
        lines.append({"kind": "resumed" if number else "started", "time": time})
        time += round(1000 * took)
        lines.append({"kind": "end", "time": time, "status": "FINISHED"})
        time += 3_600_000
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.jsonl").touch()
    return run


def test_sweep_status_shows_steps_of_running_jobs_and_time_left(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    sweep = sweep_folder(outputs, name="mine", planned=planned(["clip=none", "clip=norm"], [0, 1]))
    run = run_that_took(outputs, "20251231-000000-000000", 60, 40)
    end(sweep, 0, "clip=none seed=0", run=run, accuracy=0.5)
    lock = run_dirs.acquire_lock(sweep, "sweep")
    recorder = SentRecorder(outputs, "clip=norm seed=0", Tracking(None), sweep_dir=sweep)
    # taken up by the sweep, under the name it has of its own: its settings tell its job
    other = SentRecorder(outputs, "long ago", Tracking(None), sweep_dir=sweep)
    other.log_params({"clip": "none", "clip.max_norm": 1, "seed": 1})
    for number, each in enumerate((recorder, other)):
        each.set_tags({"recipe.steps": "40"})
        each.log_metrics(10 + 20 * number, {"loss": 1.0})
    try:
        # 100 s each: 75 s and 25 s of those that run and 100 s of the missing one, two at a time
        assert status(tmp_path, "mine") == [
            f"mine ({SWEEP}): val/accuracy of each run's best epoch (compare takes the last)",
            "variant           seed 0         seed 1",
            "clip=none        50.00 %  step 30 of 40",
            "clip=norm  step 10 of 40        missing",
            "1 of 4 done, 2 running, 1 missing",
            "Time left  about 1 min 40 s, 2 at a time (1 finished run took 1 min 40 s)",
        ]
        assert f"{SWEEP}  mine  1 of 4, running" in status(tmp_path)
    finally:
        lock.release()
        recorder.close("KILLED")
        other.close("FAILED")
    # nobody runs it now; how the two ended is known from themselves, and the one that was killed
    # has 75 s to go
    assert status(tmp_path, "mine")[-4:] == [
        "clip=none  50.00 %   failed",
        "clip=norm   killed  missing",
        "1 of 4 done, 1 failed, 1 killed, 1 missing",
        "Resume with: the command that it was started with; that takes about 4 min 35 s "
        "(1 finished run took 1 min 40 s)",
    ]


def test_sweep_status_omits_time_left_until_a_run_has_finished(tmp_path: Path) -> None:
    sweep = sweep_folder(
        tmp_path / "outputs", name="new", planned=planned(["clip=none"], [0, 1]),
        command=["-m", "clip=none", "seed=0,1", "name=my sweep"],
    )  # fmt: skip
    end(sweep, 0, "clip=none seed=0", "REFUSED", problem="data.train_size: 5 is less; use more")
    end(sweep, 1, "clip=none seed=1", "RUNNING", problem="another process is running it")
    assert status(tmp_path, "new")[1:] == [
        "variant     seed 0     seed 1",
        "clip=none  refused  elsewhere",
        "refused: clip=none seed=0: data.train_size: 5 is less",
        "0 of 2 done, 1 elsewhere, 1 refused",
        "Resume with: python -m recipe -m clip=none seed=0,1 'name=my sweep'",
    ]


def test_one_seed_gives_one_column_and_seed_only_sweep_gives_one_row(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ways = [["clip=none", "epochs=1"], ["clip=none", "epochs=2"], ["clip=norm", "epochs=1"]]
    sweep = sweep_folder(outputs, name="one", planned=ways)
    end(sweep, 1, "clip=none epochs=2", accuracy=0.25)
    assert status(tmp_path, "one")[1:5] == [
        "variant              result",
        "clip=none epochs=1  missing",
        "clip=none epochs=2  25.00 %",
        "clip=norm epochs=1  missing",
    ]
    seeds = [[f"seed={seed}"] for seed in (10, 9)]
    end(sweep_folder(outputs, SWEEP[:-1] + "b", name="two", planned=seeds), 1, "seed=9")
    assert status(tmp_path, "two")[1:3] == [
        "variant      seed 9  seed 10", "one variant    done  missing",
    ]  # fmt: skip


def test_status_shows_ablation_variant_names(tmp_path: Path) -> None:
    sweep = sweep_folder(
        tmp_path / "outputs", name="ablation", planned=planned(["clip=none", "clip=norm"], [0]),
        variants=["baseline", "clip"],
    )  # fmt: skip
    SentRecorder(tmp_path / "outputs", "clip seed=0", Tracking(None), sweep_dir=sweep).close(
        "KILLED"
    )
    ended = SentRecorder(tmp_path / "outputs", "baseline seed=0", Tracking(None), sweep_dir=sweep)
    ended.log_metrics(3, {"best/val_accuracy": 0.75})
    ended.close("FINISHED")  # and its process died before the sweep could note it
    assert status(tmp_path, "ablation")[2:4] == ["baseline  75.00 %", "clip       killed"]


def test_status_shows_complete_cells_for_many_seeds(tmp_path: Path) -> None:
    variants = [f"clip={kind} optimizer.lr=0.0{kind}" for kind in range(1, 4)]
    jobs = planned(variants, range(40))
    sweep = sweep_folder(tmp_path / "outputs", name="wide", planned=jobs)
    for number, texts in enumerate(jobs):
        end(sweep, number, " ".join(texts), accuracy=number / 1000)
    lines = status(tmp_path, "wide")
    assert max(map(len, lines)) <= 100
    for seed in range(40):
        assert sum(f"seed {seed}" in line for line in lines) >= 1
    for number in range(len(jobs)):
        row = [line for line in lines if line.startswith(variants[number % 3])]
        assert sum(f" {number / 10:.2f} %" in line for line in row) == 1


def test_status_shows_known_jobs_of_sweep_without_planned_jobs(tmp_path: Path) -> None:
    sweep = sweep_folder(tmp_path / "outputs", name="old", swept=["clip", "seed"], jobs=4)
    end(sweep, 0, "clip=none seed=0", accuracy=0.5)
    end(sweep, 1, "clip=none seed=1", "FAILED", problem="RuntimeError: no")
    SentRecorder(tmp_path / "outputs", "clip=norm seed=0", Tracking(None), sweep_dir=sweep).close(
        "KILLED"
    )
    assert status(tmp_path, "old")[1:-1] == [
        "variant     seed 0  seed 1",
        "clip=none  50.00 %  failed",
        "clip=norm   killed",
        "failed: clip=none seed=1: RuntimeError: no",
        "1 of 4 done, 1 failed, 1 killed, 1 missing",
    ]


def test_sweep_status_reports_damaged_records_and_shows_the_rest(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    sweep = sweep_folder(outputs, name="hurt", planned=planned(["clip=none"], [0, 1]), jobs=2)
    recorders = [
        SentRecorder(outputs, name, Tracking(None), sweep_dir=sweep)
        for name in ("clip=none seed=0", "clip=none seed=1", "what?")
    ]
    for recorder in recorders:
        recorder.close("FAILED")
    (recorders[1].run_dir / "run.json").write_text('{"id"' + SWEEP)
    (sweep / "jobs.jsonl").write_text("{}\n[]\n")
    lines = status(tmp_path, "hurt")
    assert lines[2] == "clip=none  failed  missing"
    path = f"{sweep}/jobs.jsonl"
    assert lines[3:5] == [
        f"Caution jobs.jsonl can't be read ({path}: line 2 is damaged); what the runs say is shown",
        f"Caution 1 run can't be identified as one of its jobs: {recorders[2].run_id}",
    ]
    for line in ('{"number": 0}\n', '{"number": 0, "name": 1, "status": [], "accuracy": "x"}\n'):
        (sweep / "jobs.jsonl").write_text(line)
        assert status(tmp_path, "hurt")[3].startswith("Caution jobs.jsonl can't be read (")
    (sweep / "jobs.jsonl").unlink()
    for content in ("{", "[]", '{"planned": 1, "jobs": "x", "command": {}, "variants": 2}'):
        (sweep / "sweep.json").write_text(content)
        lines = status(tmp_path, SWEEP)
        assert lines[0] == f"{SWEEP} ({SWEEP})"
        assert {"clip=none  failed", "0 of 2 done, 2 failed"} <= set(lines)
        said = f"Caution {sweep}/sweep.json is damaged"
        assert said in lines
        assert status(tmp_path)  # goes on too
    escape = "\x1b]0;x"
    (sweep / "sweep.json").write_text(json.dumps({"name": escape, "planned": [[escape]]}))
    assert "\x1b" not in "".join(status(tmp_path, SWEEP))


def test_sweep_is_found_by_id_prefix_and_name(tmp_path: Path) -> None:
    for id_, name in [("20260101-000000-aaaaaa", "a=1,2"), ("20260102-000000-bbbbbb", "same"),
                      ("20260102-000000-cccccc", "same"),
                      ("20260103-000000-dddddd", "seed=0,1")]:  # fmt: skip
        sweep_folder(tmp_path / "outputs", id_, name=name, planned=[["a=1"]])
    for wanted, found in [("20260101", "aaaaaa"), ("a=1,2", "aaaaaa"), ("sweep=a=1,2", "aaaaaa"),
                          ("same", "cccccc"), ("20260102-000000-bbbbbb", "bbbbbb"),
                          ("seed=0,1", "dddddd")]:  # fmt: skip
        assert status(tmp_path, wanted)[0].endswith(f"-{found})")
    where = tmp_path / "outputs" / "sweeps"
    for wanted, problem in [
        (
            "20260102",
            "sweep: '20260102' begins 2 sweep ids; give more of it: 20260102-000000-cccccc (same), "
            "20260102-000000-bbbbbb (same)",
        ),
        ("sume", f"sweep: no sweep 'sume' is recorded in {where}; did you mean same?"),
        (
            "xyz",
            f"sweep: no sweep 'xyz' is recorded in {where}; there are 20260103-000000-dddddd "
            "(seed=0,1), 20260102-000000-cccccc (same), 20260102-000000-bbbbbb (same), "
            "20260101-000000-aaaaaa (a=1,2)",
        ),
    ]:
        done = commands.run(tmp_path, "status", wanted)
        assert (done.status, done.err) == (2, f"recipe: {problem}\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["resum=true"], "status: resum=true: no such argument; did you mean resume?"),
        (["--swep", "x"], "status: --swep: no such argument; did you mean sweep?"),
        (["--sweep"], "status: --sweep: has no value; write sweep=<value>"),
        (["--sweep", "--trust=x"], "status: --sweep: has no value; write sweep=<value>"),
        (["resume"], "status: resume: no such argument; did you mean resume?"),
        (["a", "b"], "status: b: sweep=a is given already; give one of them"),
        (
            ["output_dir=a", "--output_dir=b"],
            "status: --output_dir=b: output_dir is given already; give it once",
        ),
        (["a", "--resume", "true"], "resume: is for stale runs, not for a sweep"),
    ],
)
def test_status_rejects_misspelled_arguments(
    tmp_path: Path, arguments: list[str], problem: str
) -> None:
    done = commands.run(tmp_path, "status", *arguments)
    assert (done.status, done.err) == (2, f"recipe: {problem}\n")
    assert not list(tmp_path.iterdir())
