"""What a person sees of a sweep in the browser: the real `recipe ui`, opened in Chromium."""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import browser
import commands
import pytest
import servers
from browser import Browser

from recipe.store import run_dirs

pytestmark = browser.needed

RUNS = ("clip=none seed=0", "clip=none seed=1", "clip=norm seed=0", "clip=norm seed=1")

SAME_HEIGHT = """
const name = [...document.querySelectorAll('a')].find(a => a.innerText.trim() == arguments[0]);
const top = name.parentElement.style.top;
return [...document.querySelectorAll('[role=rowgroup] > div')]
    .filter(cell => cell.style.top == top).map(cell => cell.innerText.trim());
"""
"""The cells beside a metric's name: they are drawn as two grids, not as a table."""

MLP = (*commands.CPU, "model=mlp", "data.train_size=400", "epochs=1")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four runs, and another run that isn't of it."""
    folder = tmp_path_factory.mktemp("swept")
    done = commands.spawn(folder, "-m", *MLP, "clip=none,norm", "seed=0,1")
    assert done.status == 0, done.err
    assert commands.run(folder, *MLP, "name=another").status == 0
    return folder


@pytest.fixture(scope="module")
def pages(swept: Path) -> Iterator[dict[str, str]]:
    """The addresses that `recipe ui` shows, while it runs."""
    with shown(swept, "clip=none,norm seed=0,1") as found:
        yield found


@contextlib.contextmanager
def shown(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    command = ("ui", *arguments, f"port={servers.free_port()}", "open=false")
    process = commands.start(folder, *command)
    try:
        yield dict(addresses(process))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def addresses(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    """What each line says, and its address."""
    lines: IO[str] | None = process.stdout
    assert lines is not None
    for line in lines:
        if found := re.match(r"(\w+) +(http\S+)", line):
            yield found[1], found[2]
            if found[1] == "Curves":
                return
    pytest.fail(f"recipe ui ended with {process.wait()}: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.started(tmp_path_factory.mktemp("screenshots")) as started:
        yield started


def accuracies(folder: Path) -> dict[str, float]:
    """The last val/accuracy of every recorded run, by its name."""
    found: dict[str, float] = {}
    for run in commands.run_dirs(folder):
        name = commands.read_json(run / "run.json")["name"]
        for line in commands.read_lines(run / "metrics.jsonl"):
            found[name] = line["metrics"].get("val/accuracy", found.get(name, 0.0))
    return found


def test_sweep_page_shows_name_runs_and_results_table(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    chromium.open(pages["Sweep"])
    chromium.shows("clip=none,norm seed=0,1", "Finished", "Child runs")
    (table,) = chromium.wait("a table", chromium.tables)
    chromium.keep("sweep")
    last = accuracies(swept)
    assert [row[:3] for row in table] == [
        ["run", "status", "best val/accuracy"],
        *([name, "FINISHED", f"{100 * last[name]:.2f} %"] for name in RUNS),
    ]
    links = chromium.script("return [...document.querySelectorAll('a')].map(a => a.innerText)")
    assert isinstance(links, list) and set(RUNS) <= set(links)


def test_runs_table_shows_swept_parameters_before_results(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    chromium.open(pages["Runs"])
    grid = chromium.grid(rows=6)
    chromium.keep("runs")
    chromium.shows("4 matching runs")
    last = accuracies(swept)
    seen = [row for row in grid if row["attributes.`Run Name`"] in RUNS]
    assert [row["attributes.`Run Name`"] for row in seen] == list(RUNS)
    for row, name in zip(seen, RUNS, strict=True):
        values = f"clip={row['params.`clip`']} seed={row['params.`seed`']}"
        assert (values, float(row["metrics.`val/accuracy`"])) == (name, last[name])
    headers = chromium.script(browser.HEADERS)
    assert isinstance(headers, list)
    assert [name for name in headers if "`" in name and "attributes" not in name][:4] == [
        "params.`clip`", "params.`seed`", "metrics.`best/val_accuracy`", "metrics.`val/accuracy`",
    ]  # fmt: skip


def test_runs_differing_only_in_the_seed_are_grouped_with_their_mean(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    chromium.open(pages["Runs"])
    grid = chromium.grid(rows=6)
    last = accuracies(swept)
    for row, option, first in ((grid[0], "none", 0), (grid[3], "norm", 2)):
        assert f"Group: {option}" in row["attributes.`Run Name`"]
        mean, said = row["metrics.`val/accuracy`"].split(" ")
        assert said == "(average)"
        wanted = statistics.mean(last[name] for name in RUNS[first : first + 2])
        assert float(mean) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.long
def test_runs_table_includes_runs_reused_from_another_sweep(swept: Path, chromium: Browser) -> None:
    assert commands.sweep(swept, "-m", *MLP, "clip=none,norm", "seed=1,2").status == 0
    with shown(swept, "clip=none,norm seed=1,2") as found:
        chromium.open(found["Runs"])
        grid = chromium.grid(rows=6)
    names = [row["attributes.`Run Name`"] for row in grid]
    seen = ["clip=none seed=1", "clip=none seed=2", "clip=norm seed=1", "clip=norm seed=2"]
    assert [name for name in names if name.startswith("clip=")] == seen


def test_curves_page_shows_training_and_validation_metrics(
    pages: dict[str, str], chromium: Browser
) -> None:
    chromium.open(pages["Curves"])
    chromium.shows("train/accuracy", "train/loss", "val/accuracy", "val/loss")
    chromium.shows("none (val/accuracy)", "norm (val/accuracy)")
    chromium.keep("curves")
    assert "audit/" not in chromium.text


def test_compared_runs_with_the_same_seed_differ_only_in_the_trick(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    chromium.open(pages["Runs"])
    chromium.grid(rows=6)
    for name in ("clip=none seed=0", "clip=norm seed=0"):
        row = f"//*[@role='row'][.//*[normalize-space()='{name}']]"
        chromium.click(name, f"{row}//input[@type='checkbox']")
    chromium.click("Compare", "//*[self::button or self::a][normalize-space()='Compare']")
    chromium.shows("Comparing 2 Runs from 1 Experiment")
    chromium.keep("compare")
    chromium.click("a switch", "//button[@aria-label='Parameters - Show diff only']")
    differing = [
        ["clip", "none", "norm"], ["clip.max_norm", "", "1.0"], ["clip.norm_type", "", "2"],
    ]  # fmt: skip
    chromium.wait("the parameters that differ", lambda: differing in chromium.tables())
    chromium.click("a switch", "//button[@aria-label='Metrics - Show diff only']")
    chromium.wait("only metrics that differ", lambda: "audit/" not in chromium.text)
    last = accuracies(swept)
    best = [f"{last[f'clip={option} seed=0']:.3f}" for option in ("none", "norm")]
    assert chromium.script(SAME_HEIGHT, "best/val_accuracy") == ["best/val_accuracy", *best]
    chromium.keep("compare_differences")


def test_sweep_page_shows_the_compare_report(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    assert commands.run(swept, "compare", "clip=none,norm seed=0,1").status == 0
    chromium.open(pages["Sweep"])
    chromium.shows("Findings", "2 paired seeds): no verdict, which needs 6 seeds")
    chromium.keep("sweep-compared")
    chromium.open(pages["Sweep"].replace("?", "/artifacts/report/report.html?"))
    with chromium.frame("//iframe[@id='html']"):
        chromium.shows("Findings", "Each trick alone, against the baseline", "2 paired seeds")
        drawn = chromium.script(
            "return [...document.images].map(i => [i.alt, i.complete && i.naturalWidth])"
        )
        chromium.keep("report")
    assert isinstance(drawn, list)
    assert [alt for alt, width in drawn if width] == [
        "The change of val/accuracy by each trick, with its interval",
        "val/accuracy of each variant against its seconds per epoch",
        "val/accuracy after each epoch",
    ]


def test_runs_table_shows_the_mean_of_each_variant(
    swept: Path, pages: dict[str, str], chromium: Browser
) -> None:
    (run,) = [
        run
        for run in commands.run_dirs(swept)
        if commands.read_json(run / "run.json")["name"] == "clip=norm seed=1"
    ]
    found = run_dirs.read_info(run, "run").mlflow_run_id
    chromium.open(re.sub(r"/runs/\w+", f"/runs/{found}", pages["Sweep"]))
    chromium.shows("val/accuracy/mean", "val/accuracy/seeds")
    chromium.keep("run-compared")
    chromium.open(pages["Runs"])
    grid = chromium.grid(rows=6)
    chromium.keep("runs-compared")
    last = accuracies(swept)
    mean = statistics.mean(last[name] for name in RUNS[2:])
    (row,) = [row for row in grid if row["attributes.`Run Name`"] == "clip=norm seed=1"]
    shown = {name: float(row[f"metrics.`val/accuracy/{name}`"]) for name in ("mean", "low", "high")}
    assert shown["mean"] == pytest.approx(mean, abs=1e-9)
    assert shown["low"] < mean < shown["high"]
