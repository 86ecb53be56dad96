import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import commands
import compared_runs
import pytest
from mlflow.tracking import MlflowClient

from recipe.evidence.paired_test import sign_flip_test


def compared(folder: Path, *arguments: str) -> str:
    done = commands.run(folder, "compare", *arguments)
    assert done.status == 0, done.err
    return done.out


def rows(folder: Path, table: str) -> dict[str, dict[str, str]]:
    """A table of the report by its first column."""
    (path,) = (folder / "outputs" / "reports").glob(f"*/{table}.csv")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {next(iter(line.values())): line for line in lines}


def sentences(out: str, trick: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(trick)]


DIFFERENCES = [0.01, 0.02, 0.03, 0.02, 0.01, 0.03, 0.02, 0.02]


def test_a_finding_reports_change_interval_test_clipping_and_cost(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, DIFFERENCES))
    out = compared(tmp_path)
    # mean 0.02, sd 0.00756, t(7) = 2.3646: +- 0.632 points; all of one sign: p = 2 / 2**8
    assert sentences(out, "clip=norm changed") == [
        "clip=norm changed val/accuracy by +2.00 points (95 % interval +1.37 to +2.63, 8 paired "
        "seeds, p = 0.008): shown to help; it clipped 25 % of steps and cost 25 % more time."
    ]
    row = rows(tmp_path, "alone")["clip=norm"]
    assert (row["pairs"], row["tests"], row["seeds_needed"]) == ("8", "1", "6")
    assert float(row["p"]) == 2 / 2**8
    assert float(row["mean"]) == pytest.approx(0.02)
    assert float(row["time_ratio"]) == pytest.approx(1.25)


def test_a_trick_that_lowers_accuracy_is_shown_to_hurt(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    worse = [-difference for difference in DIFFERENCES]
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, worse))
    out = compared(tmp_path)
    assert "changed val/accuracy by -2.00 points (95 % interval -2.63 to -1.37" in out
    assert "): shown to hurt; it clipped" in out


def test_the_csv_file_has_exact_differences_so_that_ties_are_kept(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    found = [right / 359 for right in (0, -2, 9, -2, 11, -2, -9, 0)]
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, found))
    compared(tmp_path)
    row = rows(tmp_path, "alone")["clip=norm"]
    # of the 256 assignments of signs all but 8 reach 5 right answers; of six digits fewer do
    assert float(row["raw_p"]) == 248 / 256
    assert sign_flip_test([float(d) for d in row["differences"].split()]) == 248 / 256


def test_a_smaller_loss_is_better(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = []
    for seed in range(6):
        ids.append(compared_runs.run(outputs, 2 * seed, [0.5], seed=seed, metrics={"val/loss": 1}))
        clip = {"clip": "norm"}
        metrics = {"val/loss": 0.5}
        ids.append(
            compared_runs.run(outputs, 2 * seed + 1, [0.5], clip, seed=seed, metrics=metrics)
        )
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--metric", "val/loss")
    said = "clip=norm changed val/loss by -0.5 (the same in every pair, 6 paired seeds, p = 0.031)"
    assert f"{said}: shown to help." in out


@pytest.mark.parametrize(("seeds", "needed"), [(5, "6"), (2, "6")])
def test_too_few_seeds_give_no_verdict_but_the_number_needed(
    tmp_path: Path, seeds: int, needed: str
) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, DIFFERENCES[:seeds]))
    (told,) = sentences(compared(tmp_path), "clip=norm changed")
    assert f"{seeds} paired seeds): no verdict, which needs {needed} seeds; it clipped" in told
    assert "p =" not in told


def test_two_tricks_need_seven_seeds(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, trick) in enumerate(
        itertools.product(range(6), [{}, {"clip": "norm"}, {"scheduler": "step"}])
    ):
        value = 0.5 + 0.01 * (seed + 1) * len(trick)
        ids.append(compared_runs.run(outputs, number, [value], trick, seed=seed))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert out.count("no verdict, which needs 7 seeds") == 4  # in words and in the table
    assert float(rows(tmp_path, "alone")["scheduler=step"]["p"]) == 2 * 2 / 2**6


def test_a_trick_without_an_effect_is_marked_and_not_tested(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, [0.0] * 6, tags={"recipe.no_effect": "clip=norm"})
    for seed in range(6):
        settings = {"scheduler": "step"}
        ids.append(compared_runs.run(outputs, 100 + seed, [0.6], settings, seed=seed))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert (
        "clip=norm had no effect in any of its 6 runs according to the audit: val/accuracy changed "
        "by exactly 0, which is no evidence about its effect."
    ) in out.splitlines()
    # the other is corrected for itself alone: 6 seeds are enough
    assert "scheduler=step changed val/accuracy by +10.00 points (the same in every pair" in out
    assert rows(tmp_path, "alone")["scheduler=step"]["verdict"] == "shown to help"
    assert rows(tmp_path, "alone")["clip=norm"]["no_effect_runs"] == "6"


def test_runs_with_different_initial_states_are_not_paired(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, DIFFERENCES[:2], start={"weights": "others"})
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert (
        "clip=norm could not be compared: they started from different weights (seed 0, 1)."
        in out.splitlines()
    )


def test_seeds_of_only_one_variant_are_named(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, DIFFERENCES[:2])
    ids.append(compared_runs.run(outputs, 99, [0.5], seed=7))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert "Not paired: run only without it (seed 7)." in out
    assert "not every variant has 3 seeds: clip=norm has fewer" in out


def test_disjoint_seeds_of_two_variants_are_named(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = [compared_runs.run(outputs, seed, [0.5], seed=seed) for seed in (0, 1)]
    ids += [compared_runs.run(outputs, seed, [0.6], {"clip": "norm"}, seed=seed) for seed in (2, 3)]
    compared_runs.sweep(outputs, ids)
    assert (
        "clip=norm could not be compared: run only without it (seed 0, 1); run only with it (seed "
        "2, 3)."
    ) in compared(tmp_path)


def on_two_backgrounds(outputs: Path) -> None:
    """Alone for 2 epochs; with and without all tricks for 4, and without that for 8."""
    both = {"clip": "norm", "scheduler": "step"}
    number = 0
    for epochs, variants in [
        ("2", [{}, {"clip": "norm"}, {"scheduler": "step"}]),
        ("4", [both, {"clip": "norm"}, {"scheduler": "step"}]),
        ("8", [{"clip": "norm"}]),
    ]:
        for variant, seed in itertools.product(variants, range(8)):
            settings = {**variant, "epochs": epochs}
            value = 0.5 + 0.01 * len(variant) + 0.001 * seed + 0.05 * int(epochs)
            compared_runs.run(outputs, number, [value], settings, seed=seed)
            number += 1


def test_tricks_are_compared_on_the_background_of_the_baseline(tmp_path: Path) -> None:
    on_two_backgrounds(tmp_path / "outputs")
    out = compared(tmp_path, "all", "--baseline", "epochs=2")
    assert sentences(out, "clip=norm changed val/accuracy by +1.00 points")
    assert "On top of all the others" not in out
    (said,) = [line for line in out.splitlines() if "the baseline's (epochs=2)" in line]
    assert said.startswith("Caution: 4 variants not compared, as other settings differ from")
    for levels in ("epochs=4 scheduler=step clip=norm", "epochs=8 clip=norm"):
        assert levels in said
    assert said.endswith("use --baseline epochs=4 to compare with those settings.")
    on_top = compared(tmp_path, "all", "--baseline", "epochs=4")
    assert sentences(on_top, "On top of all the others, clip=norm changed val/accuracy by +1.00")
    assert "The baseline is epochs=4, scheduler=constant, clip=none, of which no run is" in on_top


def test_a_baseline_without_runs_is_refused(tmp_path: Path) -> None:
    on_two_backgrounds(tmp_path / "outputs")
    done = commands.run(tmp_path, "compare", "all", "--baseline", "epochs=8")
    assert done.status == 2
    assert done.err == (
        "recipe: baseline: epochs=8: there are no runs of epochs=8 scheduler=constant clip=none; "
        "the nearest are epochs=2 scheduler=constant clip=none, epochs=8 scheduler=constant "
        "clip=norm, epochs=2 scheduler=constant clip=norm, epochs=2 scheduler=step clip=none and 3 "
        "more\n"
    )


def test_variants_without_a_counterpart_are_named(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    three = {"clip": "norm", "scheduler": "step", "freeze": "vgg_first2"}
    two = {"clip": "norm", "scheduler": "step"}
    for number, (settings, seed) in enumerate(
        itertools.product([{}, {"clip": "norm"}, two, three], range(2))
    ):
        compared_runs.run(outputs, number, [0.5 + 0.1 * len(settings)], settings, seed=seed)
    out = compared(tmp_path, "all")
    assert "not compared" not in out  # the full set less freeze is the two
    for name in (outputs / "runs").glob("*-0000000[67]"):
        shutil.rmtree(name)
    for seed in range(2):
        settings = {"freeze": "vgg_first2", "clip": "norm"}
        compared_runs.run(outputs, 6 + seed, [0.7], settings, seed=seed)
    out = compared(tmp_path, "all")
    (said,) = [line for line in out.splitlines() if "not compared" in line]
    assert "scheduler=step clip=norm" in said and "freeze=vgg_first2 clip=norm" in said


def test_the_baseline_has_the_most_common_settings(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.run(outputs, 0, [0.1], {"epochs": "1"})
    for number, (epochs, clip, seed) in enumerate(
        itertools.product(["2", "4"], ["none", "norm"], range(4)), start=1
    ):
        if epochs == "4" or seed == 0:
            compared_runs.run(outputs, number, [0.5], {"epochs": epochs, "clip": clip}, seed=seed)
    out = compared(tmp_path, "all")
    assert sentences(out, "clip=norm changed val/accuracy by 0 points")
    assert "The baseline is epochs=4, clip=none." in out
    told = rows(tmp_path, "variants")
    assert {name: row["efficient"] for name, row in told.items() if "epochs" in name} == {
        "epochs=1": "False", "epochs=2": "False", "epochs=2 clip=norm": "False",
    }  # fmt: skip


def test_the_first_epoch_after_resuming_does_not_count_as_cost(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for seed in range(3):
        for clip in ("none", "norm"):
            number = 2 * seed + (clip == "norm")
            compared_runs.run(outputs, number, [0.5] * 4, {"clip": clip}, seed=seed)
    for folder in (outputs / "runs").iterdir():
        resumed = folder.name.endswith("3")
        seconds = [9.0, 1.0, 7.0 if resumed else 1.0, 1.0]
        lines = [
            {"step": 5 * n, "time": 1000 * n, "metrics": {"val/accuracy": 0.5, "time/epoch_s": s}}
            for n, s in enumerate(seconds, start=1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if resumed:
            events = commands.read_lines(folder / "events.jsonl")
            events[-1:-1] = [{"kind": "end", "time": 2100, "status": "KILLED"},
                             {"kind": "resumed", "time": 2200}]  # fmt: skip
            text = "".join(json.dumps(event) + "\n" for event in events)
            (folder / "events.jsonl").write_text(text)
    compared(tmp_path, "all")
    assert {float(row["epoch_s"]) for row in rows(tmp_path, "variants").values()} == {1.0}


def test_a_variant_that_failed_with_every_seed_is_named_with_the_reason(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, [compared_runs.run(outputs, 0, [0.5])], jobs=3)
    folder = outputs / "sweeps" / compared_runs.SWEEP
    about = json.loads((folder / "sweep.json").read_text())
    planned = [["optimizer.lr=0.1"], ["optimizer.lr=1e20", "seed=0"], ["optimizer.lr=1e20"]]
    (folder / "sweep.json").write_text(json.dumps({**about, "planned": planned}))
    with (folder / "jobs.jsonl").open("a") as file:
        for number in (1, 2):
            problem = "train/loss is nan; lower it"
            line = {"number": number, "name": "j", "status": "FAILED", "problem": problem}
            file.write(json.dumps(line) + "\n")
    out = compared(tmp_path)
    assert "Caution: every run of optimizer.lr=1e20 failed: train/loss is nan." in out


def test_the_default_sweep_is_the_one_started_or_resumed_last(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, DIFFERENCES), name="earlier")
    newer = outputs / "sweeps" / "20261102-120000-00000000"
    shutil.copytree(outputs / "sweeps" / compared_runs.SWEEP, newer)
    about = json.loads((newer / "sweep.json").read_text())
    (newer / "sweep.json").write_text(json.dumps({**about, "name": "newer"}))
    out = compared(tmp_path)
    assert out.startswith(f"Sweep   {newer.name}, the latest; ") and "\nnewer: " in out
    earlier = outputs / "sweeps" / compared_runs.SWEEP / "sweep.json"
    about = json.loads(earlier.read_text())
    earlier.write_text(json.dumps({**about, "begun": "20261103-000000"}))
    out = compared(tmp_path)
    assert out.startswith(f"Sweep   {compared_runs.SWEEP}, the latest; ") and "\nearlier: " in out


def test_tricks_without_a_finished_run_are_reported(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, DIFFERENCES[:1])
    compared_runs.sweep(outputs, ids, jobs=4)
    path = outputs / "sweeps" / compared_runs.SWEEP / "sweep.json"
    planned = [["clip=none", "scheduler=constant", "seed=0"], ["clip=norm", "seed=0"],
               ["clip=none", "scheduler=step", "seed=0"], ["clip=none", "seed=1"]]  # fmt: skip
    names = ["baseline", "clip=norm", "scheduler=step", "baseline"]
    about = {**json.loads(path.read_text()), "planned": planned, "variants": names}
    path.write_text(json.dumps(about))
    out = compared(tmp_path)
    assert "Caution: 2 jobs of 4 not ended yet." in out
    assert "Caution: no run is finished yet of scheduler=step." in out


def full_factorial(outputs: Path, seeds: int) -> None:
    """a adds 0.02, b 0.01, both together 0.04 more: a's effect is 0.02 or 0.06."""
    ids = []
    for number, (seed, a, b) in enumerate(itertools.product(range(seeds), (0, 1), (0, 1))):
        settings = {"clip": "norm"} if a else {}
        settings |= {"scheduler": "step"} if b else {}
        value = 0.5 + 0.01 * seed + 0.02 * a + 0.01 * b + 0.04 * a * b
        metrics = {"time/epoch_s": 2.0 + a}
        ids.append(
            compared_runs.run(outputs, number, [value] * 2, settings, seed=seed, metrics=metrics)
        )
    compared_runs.sweep(outputs, ids)


def test_factorial_plan_gives_main_effects_and_interactions(tmp_path: Path) -> None:
    full_factorial(tmp_path / "outputs", 8)
    out = compared(tmp_path)
    alone, on_top = rows(tmp_path, "alone"), rows(tmp_path, "on-top-of-the-others")
    average, together = rows(tmp_path, "on-average"), rows(tmp_path, "together")
    found = [
        float(table[name]["mean"])
        for table in (alone, on_top, average)
        for name in ("clip=norm", "scheduler=step")
    ]
    assert found == pytest.approx([0.02, 0.01, 0.06, 0.05, 0.04, 0.03])
    (both,) = together.values()
    assert float(both["mean"]) == pytest.approx(0.04)
    assert "together above the sum of both" in out
    assert "On top of all the others, clip=norm changed val/accuracy by +6.00 points" in out


def test_report_is_saved_in_every_format(tmp_path: Path) -> None:
    full_factorial(tmp_path / "outputs", 3)
    compared(tmp_path)
    (folder,) = (tmp_path / "outputs" / "reports").iterdir()
    assert folder.name == compared_runs.SWEEP
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "report.md", "report.html", "forest.png", "pareto.png", "curves.png", "variants.csv",
        "alone.csv", "on-top-of-the-others.csv", "on-average.csv", "together.csv",
    }  # fmt: skip
    assert "clip=norm" in (folder / "report.md").read_text()
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 3


def test_each_variant_has_mean_interval_best_value_and_cost(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, [0.1, 0.2, 0.3]))
    compared(tmp_path)
    row = rows(tmp_path, "variants")["clip=norm"]
    # 0.7 +- 4.3027 * 0.1 / sqrt(3)
    numbers = [float(row[key]) for key in ("mean", "low", "high", "best", "epoch_s")]
    assert numbers == pytest.approx([0.7, 0.7 - 0.24841, 0.7 + 0.24841, 0.8, 2.5], abs=1e-5)
    assert row["efficient"] == "True"


@pytest.mark.parametrize(
    ("baseline", "trick"),
    [("", "clip=norm"), ("clip=norm", "clip=none"), ("clip=norm,scheduler=constant", "refused")],
)
def test_baseline_is_the_off_setting_or_the_requested_one(
    tmp_path: Path, baseline: str, trick: str
) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, DIFFERENCES))
    done = commands.run(tmp_path, "compare", *(["--baseline", baseline] if baseline else []))
    if trick == "refused":
        said = "baseline: scheduler=constant: all runs have the same scheduler; leave it out"
        assert done.problems == [f"recipe: {said}"]
    else:
        assert list(rows(tmp_path, "alone")) == [trick]


def test_each_setting_value_is_compared_as_separate_level(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, norm in enumerate(["", "1.0", "2.0"]):
        settings = {"clip": "norm", "clip.max_norm": norm} if norm else {}
        ids.append(compared_runs.run(outputs, number, [0.5 + number / 10], settings))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    assert list(rows(tmp_path, "alone")) == [
        "clip=norm clip.max_norm=1.0", "clip=norm clip.max_norm=2.0",
    ]  # fmt: skip


def test_a_setting_without_an_effect_is_marked(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    idle = {"recipe.no_effect": "clip=norm"}
    for number, (norm, tags) in enumerate([("9.0", idle), ("1.0", {})]):
        settings = {"clip": "norm", "clip.max_norm": norm}
        metrics = {"clip/hit_rate": 0.5 if norm == "1.0" else 0.0}
        ids.append(compared_runs.run(outputs, number, [0.5], settings, tags=tags, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    row = rows(tmp_path, "alone")["clip.max_norm=9.0"]
    assert (row["verdict"], row["hit_rate"]) == ("no effect", "0.0")


def test_list_settings_are_factor_levels(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, widths in enumerate(["[4, 8]", "[8, 16]"]):
        ids.append(compared_runs.run(outputs, number, [0.5], {"model.widths": widths}))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path, "--baseline", "model.widths=[8,16]")
    assert list(rows(tmp_path, "alone")) == ["model.widths=[4,8]"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("single", "this is a single run, so nothing can be compared"),
        ("one variant", "all runs are of one variant, so there is nothing to compare it with"),
        ("constant", "val/accuracy is 50.00 % in every run"),
        ("failed", "1 run left out: failed"),
        ("branch", "1 run left out: started from another run's checkpoint"),
        ("missing", "3 jobs of 5 not ended yet"),
        ("nan", "1 finished run left out: without a finite val/accuracy"),
        ("device", "the runs are of different devices or numbers of threads: one, two"),
    ],
)
def test_compare_warns_about_incomparable_runs(tmp_path: Path, case: str, said: str) -> None:
    outputs, clip = tmp_path / "outputs", {"clip": "norm"}
    ids = [compared_runs.run(outputs, 0, [0.5], tags={"recipe.device": "one"})]
    if case == "one variant":
        ids.append(compared_runs.run(outputs, 1, [0.6], seed=1))
    elif case in ("constant", "missing"):
        ids.append(compared_runs.run(outputs, 1, [0.5], clip))
    elif case == "failed":
        ids.append(compared_runs.run(outputs, 1, [0.6], clip, status="FAILED"))
    elif case == "branch":
        tags = {"recipe.resumed_from": "another"}
        ids.append(compared_runs.run(outputs, 1, [0.6], clip, tags=tags))
    elif case == "nan":
        ids.append(compared_runs.run(outputs, 1, [float("nan")], clip))
    elif case == "device":
        ids.append(compared_runs.run(outputs, 1, [0.6], clip, tags={"recipe.device": "two"}))
    compared_runs.sweep(outputs, ids, jobs=5 if case == "missing" else 0)
    assert f"Caution: {said}" in compared(tmp_path)


def test_all_runs_are_compared_if_there_is_no_sweep(tmp_path: Path) -> None:
    compared_runs.pairs(tmp_path / "outputs", DIFFERENCES)
    out = compared(tmp_path)
    assert "shown to help" in out and "Report  outputs/reports/all/report.html" in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--sweep", "nothing"], "sweep: no sweep 'nothing' is recorded in"),
        (
            ["metric=val/acuracy"],
            "compare: no finished run of .* has val/acuracy; did you mean val/accuracy",
        ),
        (["--baseline", "clip=agc"], "baseline: clip=agc: no run has it; there are clip=none, "),
        (["--baseline", "none"], "baseline: none: write group=option,group=option"),
        (["--basline", "clip=none"], "compare: --basline: no such argument; did you mean baseline"),
    ],
)
def test_invalid_arguments_are_rejected_by_name(
    tmp_path: Path, arguments: list[str], problem: str
) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, DIFFERENCES))
    done = commands.run(tmp_path, "compare", *arguments)
    assert done.status == 2
    assert re.match(f"recipe: {problem}", done.err)
    assert not (outputs / "reports").exists()


def test_compare_without_recorded_runs_is_rejected(tmp_path: Path) -> None:
    done = commands.run(tmp_path, "compare")
    assert done.status == 2 and "no run is recorded in" in done.err


def test_untrusted_names_are_escaped_in_terminal_and_page(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    evil = {"clip": "norm\x1b[31m<script>alert(1)</script>|x`"}
    ids = [compared_runs.run(outputs, 0, [0.5]), compared_runs.run(outputs, 1, [0.6], evil)]
    compared_runs.sweep(outputs, ids, name="<b>bold</b>\x1b[2J")
    out = compared(tmp_path)
    assert "\x1b" not in out
    page = (outputs / "reports" / compared_runs.SWEEP / "report.html").read_text()
    assert "<script" not in page and "<b>bold" not in page and "\x1b" not in page


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of a clip that never bites, of which the result is compared at its end."""
    folder = tmp_path_factory.mktemp("idle")
    tricks = ("clip=norm", "clip.max_norm=1e9", "seed=range(6)")
    done = commands.sweep(folder, "ablate", *commands.QUICK, *tricks)
    assert done.status == 0, done.err
    (folder / "said.txt").write_text(done.out)
    return folder


def test_a_trick_without_an_effect_changes_nothing_exactly(idle: Path) -> None:
    said = (idle / "said.txt").read_text()
    (told,) = [line for line in said.splitlines() if line.startswith("clip=norm  no effect")]
    assert told.split()[3:8] == ["0", "0", "to", "0", "6"]  # not +0.00, which may be rounded
    row = rows(idle, "alone")["clip=norm"]
    assert [float(row[key]) for key in ("mean", "low", "high", "sd")] == [0, 0, 0, 0]
    assert (row["pairs"], row["verdict"]) == ("6", "no effect")
    assert "clip=norm had no effect in any of its 6 runs" in (idle / "said.txt").read_text()


def test_runs_of_one_seed_record_the_same_initial_state(idle: Path) -> None:
    starts: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for run in commands.run_dirs(idle):
        events = commands.read_lines(run / "events.jsonl")
        (seed,) = (event["seed"] for event in events if event["kind"] == "parameters")
        tags = {k: v for event in events for k, v in event.items() if k.startswith("start.")}
        assert len(tags) == 5
        starts.setdefault(seed, set()).add(tuple(sorted(tags.items())))
    assert {len(alike) for alike in starts.values()} == {1}
    assert len({one for alike in starts.values() for one in alike}) == 6


def test_mlflow_receives_the_report_and_every_variants_mean(idle: Path) -> None:
    client = MlflowClient(f"sqlite:///{idle}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    note = parent.data.tags["mlflow.note.content"]
    assert "`clip=norm` had no effect in any of its 6 runs" in note
    assert "| clip=norm seed=5 | FINISHED |" in note
    kept = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/report.md", "report/forest.png"} <= kept
    variant = rows(idle, "variants")["clip=norm"]
    children = [run for run in found if run.data.params.get("clip") == "norm"]
    assert len(children) == 6
    for run in children:
        said = {k: run.data.metrics[f"val/accuracy/{k}"] for k in ("mean", "low", "high", "seeds")}
        assert said == {
            "mean": float(variant["mean"]), "low": float(variant["low"]),
            "high": float(variant["high"]), "seeds": 6,
        }  # fmt: skip


def test_a_stored_result_equals_that_of_the_journals(idle: Path) -> None:
    before = (idle / "said.txt").read_text().partition("Findings")[2]
    for run in commands.run_dirs(idle):
        (run / "result.json").unlink()
    out = compared(idle)
    assert out.partition("Findings")[2] == before


def test_a_damaged_or_outdated_result_is_computed_again(idle: Path) -> None:
    first, second = commands.run_dirs(idle)[:2]
    before = compared(idle)
    (first / "result.json").write_text("{}")
    content = {
        "format": 1,
        "sizes": [1, 1],
        "result": {"run": "x", "name": "x", "status": "FAILED"},
    }
    (second / "result.json").write_text(json.dumps(content))
    assert compared(idle) == before
