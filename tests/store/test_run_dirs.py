"""Recorded runs are found by id and name, whatever became of their neighbours' files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import commands
import pytest
import stopped_runs
from PIL import Image

from recipe.errors import SpecError
from recipe.store import run_dirs

DAMAGED = [b"", b"{", b"\xff\xfe{}", b"null", b"[]", b'"run"', b"[" * 100_000, b'{"name": 5}']


def recorded(outputs: Path, run_id: str, name: str, **more: Any) -> Path:
    run = run_dirs.get_runs_dir(outputs) / run_id
    run.mkdir(parents=True)
    information = {"id": run_id, "name": name, "status": "FINISHED", **more}
    (run / "run.json").write_text(json.dumps(information))
    return run


def test_run_lookup_accepts_id_prefix_name_and_mlflow_id(tmp_path: Path) -> None:
    first = recorded(tmp_path, "20260101-000000-aaaaaa", "same", mlflow_run_id="5eed")
    last = recorded(tmp_path, "20260102-000000-bbbbbb", "same")
    for wanted, run in (
        (first.name, first), ("20260101", first), ("5eed", first), ("same", last),
    ):  # fmt: skip
        assert run_dirs.find(tmp_path, wanted, "run") == run
    with pytest.raises(SpecError, match=r"^run: 2026 begins 2 run ids; give more of it$"):
        run_dirs.find(tmp_path, "2026", "run")
    with pytest.raises(SpecError, match=r"^run: no run 'sane' is recorded in .*same"):
        run_dirs.find(tmp_path, "sane", "run")


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_run_is_ignored_until_requested(tmp_path: Path, content: bytes) -> None:
    bad = recorded(tmp_path, "20260101-000000-aaaaaa", "same")
    good = recorded(tmp_path, "20260102-000000-bbbbbb", "same")
    (bad / "run.json").write_bytes(content)
    for wanted in (good.name, "20260102", "same"):
        assert run_dirs.find(tmp_path, wanted, "run") == good
    for wanted in (bad.name, "20260101"):
        with pytest.raises(SpecError) as caught:
            run_dirs.find(tmp_path, wanted, "model.weights")
        (problem,) = caught.value.problems
        assert problem.startswith(f"model.weights: {bad}/run.json is damaged")
        assert problem.endswith("; use another run") and "\n" not in problem
    with pytest.raises(SpecError, match=r"\(in 1 of 2 folders run.json is damaged\)$"):
        run_dirs.find(tmp_path, "other", "run")


def test_missing_file_is_named_with_run_folder(tmp_path: Path) -> None:
    run = recorded(tmp_path, "20260101-000000-aaaaaa", "one")
    with pytest.raises(SpecError, match=r"^run: .*/data.json can't be read: No such file or dire"):
        run_dirs.read_classes(run, "run")


def test_damaged_data_file_gives_same_error_in_fine_tuning_and_predict(tmp_path: Path) -> None:
    assert commands.run(tmp_path, *commands.QUICK, "epochs=1", "tracking=none").status == 0
    (run,) = commands.run_dirs(tmp_path)
    whole = commands.read_json(run / "data.json")
    assert run_dirs.read_classes(run, "run") == tuple("0123456789")
    for content in ("{", json.dumps({**whole, "classes": None})):
        (run / "data.json").write_text(content)
        tuned = commands.run(tmp_path, "plan", *commands.QUICK, f"model.weights={run.name}")
        told = commands.run(tmp_path, "predict", f"run={run.name}", f"input={run / 'lr.png'}")
        for done, key in ((tuned, "model.weights"), (told, "run")):
            (problem,) = done.problems
            assert done.status == 2
            assert problem.startswith(f"recipe: {key}: {run}/data.json is damaged (")


OWN = {"conf/project/default.yaml": "output_dir: kept here\n"}


def test_commands_use_the_output_dir_of_the_project(tmp_path: Path) -> None:
    commands.project(tmp_path, OWN)
    folder = tmp_path / "kept here"
    run = recorded(folder, "20260101-000000-aaaaaa", "one")
    (run / "sent.json").write_text('{"uri": null}')
    assert "1 run: 1 FINISHED" in commands.run(tmp_path, "status").out
    assert commands.run(tmp_path, "sync").out == "MLflow has all of 1 run that ended\n"
    picture = tmp_path / "image.png"
    Image.new("L", (32, 32)).save(picture)
    told = {
        "diff": commands.run(tmp_path, "diff", "none", "none").err,
        "predict": commands.run(tmp_path, "predict", "run=none", f"input={picture}").err,
        "ui": commands.run(tmp_path, "ui").err,
    }
    assert all(str(folder) in said for said in told.values()), told
    done = commands.run(tmp_path, "status", "output_dir=outputs")
    assert (done.status, done.out) == (0, f"There are no runs in {tmp_path}/outputs/runs\n")


def test_printed_commands_omit_the_default_output_dir(tmp_path: Path) -> None:
    commands.project(tmp_path, OWN)
    settings = (*commands.QUICK, "tracking=none", "epochs=1")
    done = commands.run(tmp_path, *settings)
    (run,) = (tmp_path / "kept here" / "runs").iterdir()
    line = f"Try it  python -m recipe predict run={run.name} input=<image or folder>"
    assert line in done.out.splitlines()
    done = commands.sweep(tmp_path, "-m", *settings, "clip=none,norm")
    printed = [line for line in done.out.splitlines() if "python -m recipe compare" in line]
    assert printed and "output_dir" not in done.out, done.out
    done = commands.run(tmp_path, *settings, "output_dir=there")
    (other,) = (tmp_path / "there" / "runs").iterdir()
    line = line.replace(run.name, other.name)
    assert f"{line} output_dir=there" in done.out.splitlines()


@pytest.mark.parametrize("name", ["my outs", "it's (1), $a=b", "plain"])
def test_printed_commands_run_when_pasted(tmp_path: Path, name: str) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    quoted = name.replace("'", "\\'")
    done = commands.run(tmp_path, *stopped_runs.QUIET, f"output_dir='{quoted}'")
    assert done.status == 130, done.err
    (run,) = (tmp_path / name / "runs").iterdir()
    line = done.out.splitlines()[-1].removeprefix("Stopped. Resume with: python -m recipe ")
    done = commands.run(tmp_path, *shlex.split(line), "trust=[parts]")
    assert done.status == 0 and f"Resumes {run.name} after step 5" in done.out, done.err
    for verb in ("status", "sync"):
        line = run_dirs.format_command(verb, tmp_path / name).removeprefix("python -m recipe ")
        assert commands.run(tmp_path, *shlex.split(line)).status == 0
    (tries,) = (line for line in done.out.splitlines() if line.startswith("Try it  "))
    line = tries.removeprefix("Try it  python -m recipe ").replace("<image or folder>", "none.png")
    done = commands.run(tmp_path, *shlex.split(line))
    assert done.err.startswith("recipe: input: ") and "none.png" in done.err
