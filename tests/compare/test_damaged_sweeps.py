"""What `compare` and `status` make of records that are damaged, moved, or written otherwise."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import commands
import compared_runs
import pytest
from compared_runs import CLIP, RISING, STEP, compared, lines, rows
from mlflow.tracking import MlflowClient

from recipe.store import results

TINY = (*commands.CPU, "data.train_size=50", "data.batch_size=25", "epochs=1", "model.widths=[2,4]")


def damage(run: Path, how: str) -> None:
    if how == "empty":
        (run / "events.jsonl").write_text("")
    elif how == "cut":
        content = (run / "events.jsonl").read_bytes()
        (run / "events.jsonl").write_bytes(content[: len(content) // 2])
    elif how == "cut after it was kept":
        results.write_result(run)
        (run / "metrics.jsonl").write_text("")
    else:
        shutil.rmtree(run)


@pytest.mark.parametrize("how", ["empty", "cut", "cut after it was kept", "gone"])
@pytest.mark.parametrize("wanted", ["", "all"])
def test_damaged_run_is_excluded_from_comparison_and_named(
    tmp_path: Path, how: str, wanted: str
) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, RISING)
    compared_runs.sweep(outputs, ids)
    damage(outputs / "runs" / ids[3], how)
    out = compared(tmp_path, *filter(None, [wanted]))
    if (how, wanted) != ("gone", "all"):
        assert lines(out, "Caution: 1 run left out: missing or damaged", ids[3])
    (said,) = lines(out, "clip=norm changed val/accuracy by +2.00 points", "7 paired seeds")
    assert "Not paired: run only without it (seed 1)." in said


def test_status_reports_missing_finished_runs(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, RISING[:2])
    sweep = compared_runs.sweep(outputs, ids)
    shutil.rmtree(outputs / "runs" / ids[2])
    done = commands.run(tmp_path, "status", sweep)
    assert f"Caution 1 run of those done can't be found any more: {ids[2]}" in done.out


def test_damaged_line_in_jobs_file_does_not_prevent_comparison(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    sweep = compared_runs.sweep(outputs, compared_runs.pairs(outputs, RISING))
    for run in commands.run_dirs(tmp_path):  # as the sweep's jobs named them
        info = commands.read_json(run / "run.json")
        (run / "run.json").write_text(json.dumps({**info, "name": f"clip={run.name}"}))
    jobs = outputs / "sweeps" / sweep / "jobs.jsonl"
    jobs.write_text("{broken\n" + jobs.read_text())
    out = compared(tmp_path)
    assert lines(out, "Caution: jobs.jsonl can't be read")
    assert lines(out, "clip=norm changed val/accuracy by +2.00 points", "8 paired seeds")


def test_equal_numbers_in_different_notation_are_one_setting(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, norm in enumerate(["1", "1.0", "1e0", "2.0", "2"]):
        settings = {"clip": "norm", "clip.max_norm": norm, "clip.betas": f"[{norm}, 3]"}
        ids.append(compared_runs.run(outputs, number, [0.5], settings, seed=number))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path, "--baseline", "clip.max_norm=1.00")
    assert {name: row["seeds"] for name, row in rows(tmp_path, "variants").items()} == {
        "baseline": "3", "clip.max_norm=2.0 clip.betas=[2.0,3]": "2",
    }  # fmt: skip


def test_variant_names_containing_numbers_stay_distinct(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, names in enumerate(["['1']", "['1.0']", "['*1_1*']", "['*11*']"]):
        ids.append(compared_runs.run(outputs, number, [0.5], {"freeze.names": names}))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    assert len(rows(tmp_path, "variants")) == 4


def test_seed_setting_is_not_counted_as_trick(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(2), [{}, CLIP])):
        settings = {**clip, "data.seed": str(seed)}
        ids.append(compared_runs.run(outputs, number, [0.5], settings, seed=seed))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    assert rows(tmp_path, "alone")["clip=norm"]["pairs"] == "2"


def test_runs_of_unequal_length_are_compared_by_their_last_epochs(tmp_path: Path) -> None:
    """As early stopping makes them; a curve goes as far as all of its runs do."""
    outputs = tmp_path / "outputs"
    ids: list[str] = []
    for seed, (clip, further) in itertools.product(range(7), [({}, 1), (CLIP, 2)]):
        accuracies = [0.5, 0.6 + seed / 100, *([0.9] * further if seed else [])]
        ids.append(compared_runs.run(outputs, len(ids), accuracies, clip, seed=seed))
    sweep = compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    # seed 0 of both ends with 0.6, every other run with 0.9
    mean = float(rows(tmp_path, "variants")["clip=norm"]["mean"])
    assert mean == pytest.approx((0.6 + 6 * 0.9) / 7, abs=1e-12)
    assert lines(out, "clip=norm changed val/accuracy by 0 points", "7 paired seeds")
    page = (outputs / "reports" / sweep / "report.md").read_text()
    assert (
        "after each epoch, up to the last epoch that all runs of a variant have](curves.png)"
        in page
    )


@pytest.mark.long
def test_equal_numbers_in_different_notation_are_trained_once(tmp_path: Path) -> None:
    tiny = (*TINY, "tracking=none")
    done = commands.sweep(tmp_path, "-m", *tiny, "clip=norm", "clip.max_norm=1,1.0,1e0")
    assert done.status == 0 and len(commands.run_dirs(tmp_path)) == 1, done.out
    planned = commands.sweep(
        tmp_path, "ablate", *tiny, "clip=norm", "clip.max_norm=1", "scheduler=step",
        "plan=leave_one_out",
    )  # fmt: skip
    row = next(line for line in planned.out.splitlines() if line.startswith("clip=norm "))
    assert row.endswith("1 of 1 seed")


def test_runs_differing_only_in_threads_are_separate_variants(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, threads) in enumerate(itertools.product(range(2), "12")):
        settings = {"device": "cpu", "device.threads": threads}
        ids.append(compared_runs.run(outputs, number, [0.5], settings, seed=seed))
    compared_runs.sweep(outputs, ids)
    assert not lines(compared(tmp_path), "left out")
    assert {name: row["seeds"] for name, row in rows(tmp_path, "variants").items()} == {
        "baseline": "2", "device.threads=2": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-m", "seed=range(0)"], "seed=range(0): there is no value in it; give one at least"),
        (
            ["ablate", "clip=norm", "seed=range(0)"],
            "seed=range(0): there is no value in it; give one at least",
        ),
        (
            ["-m", "epochs=1,2", "epochs=1"],
            "epochs=1,2, epochs=1: epochs is given 2 times; give it once",
        ),
        (
            ["-m", "seed=0,1", "hydra/launcher=cloud"],
            "hydra/launcher=cloud: no such launcher is installed; there are: ",
        ),
    ],
)
def test_empty_duplicate_or_unknown_sweep_arguments_are_rejected(
    tmp_path: Path, arguments: list[str], problem: str
) -> None:
    done = commands.run(tmp_path, *arguments, *commands.CPU)
    assert done.status == 2 and done.err.startswith(f"recipe: {problem}")
    assert len(done.problems) == 1 and not commands.run_dirs(tmp_path)


def test_misspelled_baseline_is_rejected_with_suggestion(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, RISING))
    done = commands.run(tmp_path, "compare", "--baseline", "clp=none")
    assert done.problems == ["recipe: baseline: clp=none: runs have no clp; did you mean clip?"]


def test_without_finished_runs_the_reason_is_reported(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "runs").mkdir(parents=True)
    done = commands.run(tmp_path, "compare")
    said = f"compare: {tmp_path}/outputs has no finished run; record some"
    assert done.problems == [f"recipe: {said}"]
    compared_runs.sweep(
        tmp_path / "outputs", [compared_runs.run(tmp_path / "outputs", 0, [], status="FAILED")]
    )
    done = commands.run(tmp_path, "compare")
    assert "(1 run left out: failed)" in done.err


def test_each_baseline_has_own_report_without_outdated_files(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, RISING)
    for seed in range(8):
        ids.append(compared_runs.run(outputs, 50 + seed, [0.6], STEP, seed=seed))
        both = {**CLIP, **STEP, "clip.max_norm": "1.0"}
        ids.append(compared_runs.run(outputs, 70 + seed, [0.6], both, seed=seed))
    sweep = compared_runs.sweep(outputs, ids)
    usual = outputs / "reports" / sweep
    compared(tmp_path)
    before = {path.name: path.read_bytes() for path in usual.iterdir()}
    assert "together.csv" in before
    (usual / "mine.txt").write_text("my own")
    compared(tmp_path, "--baseline", "scheduler=step")
    assert {path.name: path.read_bytes() for path in usual.iterdir() if path.name in before} == (
        before
    )
    other = outputs / "reports" / f"{sweep}-against-scheduler=step"
    assert "against" in str(other) and (other / "alone.csv").is_file()
    for run in ids[16:]:
        shutil.rmtree(outputs / "runs" / run)
    compared(tmp_path)
    left = {path.name for path in usual.iterdir()}
    assert left == {
        "report.md", "report.html", "forest.png", "pareto.png", "curves.png", "variants.csv",
        "alone.csv", "mine.txt",
    }  # fmt: skip


@pytest.mark.long
def test_mlflow_mean_is_of_the_latest_comparison_even_of_one_run(tmp_path: Path) -> None:
    assert commands.sweep(tmp_path, "-m", *TINY, "clip=none,norm", "seed=0,1").status == 0
    compared(tmp_path)
    fewer = commands.sweep(tmp_path, "-m", *TINY, "clip=none,norm", "seed=1")
    assert fewer.status == 0 and len(commands.run_dirs(tmp_path)) == 4
    (_, newest) = sorted((tmp_path / "outputs" / "sweeps").iterdir())
    assert compared(tmp_path, "--baseline", "clip=norm")
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    told = [run for run in found if run.data.params.get("seed") == "1"]
    assert len(told) == 2
    for run in told:
        said = run.data.metrics
        assert (said["val/accuracy/seeds"], said["val/accuracy/mean"]) == (1, said["val/accuracy"])
        assert said["val/accuracy/low"] != said["val/accuracy/low"]  # it isn't known of one
        assert run.data.tags["recipe.mean_of"] == newest.name
    (parent,) = [
        run for run in found
        if run.data.tags.get("recipe.sweep") == newest.name
        and "mlflow.parentRunId" not in run.data.tags
    ]  # fmt: skip
    kept = client.list_artifacts(parent.info.run_id, "report-against-clip=norm")
    assert "report-against-clip=norm/report.html" in {artifact.path for artifact in kept}
    note = parent.data.tags["mlflow.note.content"]
    assert "![" not in note and "against `clip=norm`" in note


@pytest.mark.long
def test_copied_output_folder_is_reported_as_copied(tmp_path: Path) -> None:
    assert commands.sweep(tmp_path, "-m", *TINY, "clip=none,norm").status == 0
    shutil.copytree(tmp_path / "outputs", tmp_path / "copy" / "outputs")
    out = compared(tmp_path / "copy")
    (said,) = lines(out, "MLflow was not updated")
    assert f"{tmp_path}/copy/outputs was copied or moved since" in said
    assert "another machine" not in said
