"""What is measured against others is the same work, and what differs isn't shown as faster."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import commands
import duel
import pytest
import torch
from duels import contest, frozen, many, plain, results, single, startup, sweeps, turns, written
from duels.job import Job, Record
from duels.results import Table
from duels.turns import Took

pytestmark = pytest.mark.integration

JOB = ("data.train_size=100", "data.channels=3", "epochs=2", "model.widths=[4,8]")
"""4 steps."""


def took(walls: Sequence[float], *, loss: float = 0.5, factor: float = 1.0) -> list[Took]:
    return [Took(factor * wall, wall, [loss]) for wall in walls]


def test_benchmark_row_is_median_of_ratios_per_round() -> None:
    theirs, ours = took([2.0, 9.0, 8.0], factor=3.0), took([1.0, 3.0, 4.0])
    # ratios 2, 3 and 2 of the wall, 6, 9 and 6 of the processor
    assert results.row("run", "loop", 2, theirs, ours) == [
        "run", "loop", "2", "3", "6.00", "2.00", "3.00 s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ([0.50009], "2.00"),
        ([0.5002], "void: final losses differ by 2.0e-04"),
        ([math.nan], "void: final losses differ by nan"),
        ([0.5, 0.5], "void: 2 final losses against 1"),
    ],
)
def test_benchmark_row_with_different_losses_is_void(losses: list[float], shown: str) -> None:
    theirs, ours = took([2.0]), took([1.0])
    theirs[0].losses = losses
    cells = results.row("run", "loop", 1, theirs, ours)
    assert cells[4] == shown
    assert cells[5] == ("2.00" if shown == "2.00" else "-")


def test_frozen_benchmark_results_must_be_bit_identical(tmp_path: Path) -> None:
    one = frozen.recipe(JOB, ("freeze=all_but_head",), 0)
    other = frozen.recipe(JOB, ("freeze=all_but_head", "freeze.cache=off"), 0)
    assert frozen.same_bits(one, other)
    other.said["classifier.bias"].view(torch.int32)[0] += 1
    assert not frozen.same_bits(one, other)


def test_readme_tables_match_the_saved_benchmark_results() -> None:
    readme = (commands.CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert results.put(readme, duel.kept()) == readme
    for columns in (results.COLUMNS, contest.COLUMNS):
        measured = any(tuple(table.columns) == columns for table in duel.kept())
        assert readme.count(f"| {' | '.join(columns)} |") == measured
    for table in duel.kept():
        assert all(len(cells) == len(table.columns) for cells in table.rows)


def test_tables_with_the_same_columns_are_merged_with_one_source_line() -> None:
    first = Table(["what", "wall time"], [["a", "2.00"]], "here")
    second = Table(["what", "wall time"], [["b", "3.00"]], "here")
    peers = Table(["peer", "process"], [["c", "1.00"]], "there")
    assert results.markdown([first, second, peers]) == (
        "| what | wall time |\n| --- | ---: |\n| a | 2.00 |\n| b | 3.00 |\n\nhere.\n\n"
        "| peer | process |\n| --- | ---: |\n| c | 1.00 |\n\nthere."
    )


def test_saved_tables_are_read_back_and_readme_without_marks_raises(tmp_path: Path) -> None:
    tables = {"run": Table(["what"], [["a"]], "here")}
    results.write(tmp_path / "duel.json", tables)
    assert results.read(tmp_path / "duel.json") == tables
    text = f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n"
    assert results.put(text, list(tables.values())) == (
        f"before\n{results.BEGIN}\n\n| what |\n| --- |\n| a |\n\nhere.\n\n{results.END}\nafter\n"
    )
    with pytest.raises(ValueError, match=r"README\.md needs the lines"):
        results.put("nothing", [])


def test_plain_benchmark_loop_matches_the_recipe_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written.write(tmp_path / "job.pt", *JOB)
    record = Record()
    plain.train(Job.read(path), Job.read(path).network(), record)
    done = commands.run(tmp_path, "device=cpu", "device.threads=1", "tracking=none", *JOB)
    assert done.status == 0
    (run,) = commands.run_dirs(tmp_path)
    values = turns.last_epoch(run / "metrics.jsonl")
    assert abs(values["val/loss"] - record.val_loss[-1]) <= turns.TOLERANCE
    assert values["val/accuracy"] == pytest.approx(record.val_accuracy[-1])
    lines = commands.read_lines(run / "metrics.jsonl")
    steps = [line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]]
    assert record.loss == pytest.approx(steps, abs=turns.TOLERANCE)


@pytest.mark.long
def test_template_benchmark_matches_the_result_of_recipe(tmp_path: Path) -> None:
    sweep = sweeps.Sweep("", JOB, grid={"seed": ("1",)})
    sweep.write(tmp_path)
    given = ("clip=norm", "scheduler=exponential")
    theirs = sweeps.template(
        f"job={tmp_path}", "frozen=1", "seed=1", *given, folder=tmp_path, threads=1
    )
    frozen_too = ("freeze=by_name", "freeze.names=['*1_*']")
    done = commands.run(
        tmp_path, "device=cpu", "device.threads=1", "tracking=none", *JOB, *frozen_too, *given,
        "seed=1",
    )  # fmt: skip
    assert done.status == 0
    (run,) = commands.run_dirs(tmp_path)
    ours = turns.last_epoch(run / "metrics.jsonl")["val/loss"]
    assert turns.void([theirs], [Took(losses=[ours])]) == ""


@pytest.mark.long
def test_benchmark_loops_are_timed_on_the_same_work(tmp_path: Path) -> None:
    rows = single.loop(tmp_path, 1, [1], JOB)
    assert [cells[2:4] for cells in rows] == [["1", "1"]] * 3
    assert not [cells for cells in rows if "void" in " ".join(cells)]


def test_process_time_includes_awaited_children(tmp_path: Path) -> None:
    works = "import time\nwhile time.process_time() < 0.3: pass"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {works!r}])"
    took, _ = turns.process(["-c", starts], tmp_path, 1)
    assert took.processor >= 0.3
    with pytest.raises(RuntimeError, match="status 3"):
        turns.process(["-c", "raise SystemExit(3)"], tmp_path, 1)


@pytest.mark.long
def test_every_benchmark_table_is_measured_without_void_rows(tmp_path: Path) -> None:
    tiny = sweeps.Sweep("a sweep of 2 runs", JOB, grid={"clip": ("none", "norm"), "seed": ("0",)})
    head = sweeps.Sweep("frozen", JOB, ("freeze=all_but_head",), 2, {"seed": ("0", "1")})
    rows = [
        *single.process(tmp_path / "process", 1, [1], JOB),
        *frozen.table(tmp_path / "frozen", 1, [1], [*frozen.JOB, "epochs=1", "data.n_train=128"]),
        *sweeps.table(tmp_path / "sweep", 1, [1], tiny),
        *sweeps.table(tmp_path / "head", 1, [1], head),
        *startup.table(tmp_path / "startup", 1, [1]),
        *many.table(tmp_path / "many", 1, [1], 40),
    ]
    assert len(rows) == 1 + 6 + 2 + 2 + 4 + 3
    assert not [cells for cells in rows if "void" in " ".join(cells)]


@pytest.mark.long
@pytest.mark.parametrize("peer", contest.PEERS)
@pytest.mark.parametrize("given", [(), ("lean",)])
def test_peer_library_does_same_work_as_plain_loop(
    peer: str, given: tuple[str, ...], tmp_path: Path
) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    path = written.write(tmp_path / "job.pt", *JOB)
    theirs = turns.module(f"duels.peers.{peer}", str(path), *given, folder=tmp_path, threads=1)
    record = Record()
    plain.train(Job.read(path), Job.read(path).network(), record)
    assert theirs.said["loss"] == pytest.approx(record.loss, abs=turns.TOLERANCE)
    assert theirs.said["accuracy"] == pytest.approx(record.accuracy)
    assert theirs.said["val_loss"] == pytest.approx(record.val_loss, abs=turns.TOLERANCE)
    assert theirs.said["val_accuracy"] == pytest.approx(record.val_accuracy)
