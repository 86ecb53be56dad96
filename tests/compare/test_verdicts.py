"""What `compare` may say of a trick, and what it must not."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import compared_runs
import pytest
from compared_runs import CLIP, RISING, STEP, compared, lines, rows

IDLE = {"recipe.no_effect": "clip=norm"}


def factorial(
    folder: Path,
    levels: Sequence[Sequence[Mapping[str, str]]],
    value: Mapping[str, float],
    seeds: int = 8,
) -> None:
    """Every combination; each option adds its `value`, those of `one with other` too, and luck adds
    a little. `clip=norm` does nothing."""
    ids = []
    combinations = itertools.product(range(seeds), itertools.product(*levels))
    for number, (seed, chosen) in enumerate(combinations):
        settings = {key: option for part in chosen for key, option in part.items()}
        on = {f"{key}={option}" for key, option in settings.items()}
        added = [v for name, v in value.items() if set(name.split(" with ")) <= on]
        luck = 0.001 * (seed + 1) * (1 + len(on - {"clip=norm"}))
        tags = IDLE if "clip=norm" in on else {}
        accuracy = 0.3 + sum(added) + luck
        ids.append(
            compared_runs.run(
                folder / "outputs", number, [accuracy], settings, seed=seed, tags=tags
            )
        )
    compared_runs.sweep(folder / "outputs", ids)


@pytest.mark.parametrize(
    "other", [{"loss": "mse_one_hot"}, {"loss.smoothing": "0.2", "loss": "label_smoothing"}]
)
def test_values_of_different_loss_functions_get_no_verdict(
    tmp_path: Path, other: dict[str, str]
) -> None:
    outputs, ids = tmp_path / "outputs", []
    first = {"loss": "label_smoothing", "loss.smoothing": "0.1"}
    for number, (seed, loss) in enumerate(itertools.product(range(6), [first, other])):
        metrics = {"val/loss": 2.0 if loss is first else 0.1, "time/epoch_s": 1.0}
        ids.append(compared_runs.run(outputs, number, [0.5], loss, seed=seed, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--metric", "val/loss")
    (said,) = lines(out, "could not be compared")
    assert "val/loss is of different losses; use --metric val/accuracy" in said
    assert lines(out, "Caution: val/loss has different scales, those of the losses ")
    assert "shown to" not in out.partition("How to read")[0]
    assert not list((outputs / "reports").glob("*/pareto.png"))
    assert {row["efficient"] for row in rows(tmp_path, "variants").values()} == {"False"}


@pytest.mark.parametrize(
    ("trick", "why"),
    [
        ({"augment": "mixup"}, "augment changes the inputs and targets"),
        ({"sampler": "balanced"}, "sampler changes how often each sample occurs"),
        ({"sharpness": "sam"}, "sharpness changes what is minimised"),
        ({"loss": "mse_one_hot"}, "loss changes what is minimised"),
        ({"loss": "label_smoothing", "loss.smoothing": "0.2"}, "loss changes what is minimised"),
    ],
)
@pytest.mark.parametrize("metric", ["train/accuracy", "train/loss"])
def test_metrics_of_training_get_no_verdict_if_measured_on_different_inputs(
    tmp_path: Path, trick: dict[str, str], why: str, metric: str
) -> None:
    usual = {"augment": "none", "sampler": "shuffled", "sharpness": "none"}
    usual |= {"loss": "label_smoothing", "loss.smoothing": "0.1"}
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, on) in enumerate(itertools.product(range(6), [{}, trick, CLIP])):
        start = {"order": f"o{seed}{on.get('sampler', '')}"}
        metrics = {metric: 0.4 if on else 0.6}
        ids.append(
            compared_runs.run(
                outputs, number, [0.5], usual | on, seed=seed, metrics=metrics, start=start
            )
        )
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--metric", metric)
    (said,) = lines(out, "could not be compared")
    reason = f"{metric} is measured on training batches, and {why}"
    assert f"{reason}; use --metric val/accuracy" in said
    assert lines(out, f"Caution: {reason}; --metric val/accuracy compares all variants")
    assert lines(out, "clip=norm changed", "shown to")  # which trains with the same
    assert {row["efficient"] for row in rows(tmp_path, "variants").values()} == {"False"}


def test_training_metric_is_mean_over_last_epoch(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for seed in range(2):
        ids.append(compared_runs.run(outputs, seed, [0.5, 0.5], seed=seed))
        values = [(1, 0.1), (5, 0.2), (6, 0.3), (8, 0.8), (10, 0.7)]  # an epoch has 5 steps
        points = [{"step": n, "time": 0, "metrics": {"train/accuracy": v}} for n, v in values]
        with (outputs / "runs" / ids[-1] / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(point) + "\n" for point in points)
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--metric", "train/accuracy")
    assert float(rows(tmp_path, "variants")["baseline"]["mean"]) == pytest.approx(0.6)
    assert lines(out, "means of train/accuracy over the batches of the last epoch")
    assert lines(out, "Caution: train/accuracy is measured on training batches")


@pytest.mark.parametrize(
    ("trick", "name"),
    [
        ({"sampler": "balanced"}, "order"),
        ({"sampler": "mine", "sampler.power": "2"}, "order"),
        ({"model": "resnet"}, "weights"),
        ({"model.weights": "mine.pt"}, "weights"),
    ],
)
def test_initial_states_may_differ_in_what_the_compared_trick_makes(
    tmp_path: Path, trick: dict[str, str], name: str
) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, on) in enumerate(itertools.product(range(6), [{}, trick, CLIP])):
        start = {"order": f"o{seed}", "weights": f"w{seed}"}
        start[name] += "other" if on else ""
        accuracy = 0.6 if on else 0.5
        settings = {"sampler": "shuffled", **on}
        ids.append(compared_runs.run(outputs, number, [accuracy], settings, seed=seed, start=start))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    level = next(iter(trick))
    assert lines(out, f"{level}=", "changed val/accuracy by +10.00 points", "6 paired seeds")
    assert lines(
        out, f"clip=norm could not be compared: they started from different {name} (seed 0"
    )


def test_a_different_sampler_does_not_allow_different_weights(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, sampler) in enumerate(itertools.product(range(2), ["shuffled", "balanced"])):
        start = {"order": f"{seed}{sampler}", "weights": f"{seed}{sampler}"}
        settings = {"sampler": sampler}
        ids.append(compared_runs.run(outputs, number, [0.5], settings, seed=seed, start=start))
    compared_runs.sweep(outputs, ids)
    said = (
        "sampler=balanced could not be compared: they started from different weights (seed 0, 1)."
    )
    assert lines(compared(tmp_path), said)


def test_interactions_of_a_trick_without_an_effect_are_not_tested(tmp_path: Path) -> None:
    value = {"scheduler=step": 0.1, "average=ema": 0.1, "scheduler=step with average=ema": -0.05}
    factorial(tmp_path, [[{}, CLIP], [{}, STEP], [{}, {"average": "ema"}]], value)
    out = compared(tmp_path)
    together = rows(tmp_path, "together")
    assert len(together) == 3
    for name, row in together.items():
        assert (row["tests"], row["verdict"]) == (
            "1", "no effect" if "clip" in name else "together below the sum of both",
        )  # fmt: skip
    idle = "was exactly 0: clip=norm had no effect in any of its 32 runs according to the audit."
    assert len(lines(out, idle)) == 2


def test_a_baseline_whose_trick_has_no_effect_is_marked_and_not_tested(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids, clip = compared_runs.pairs(outputs, [0.0] * 6, tags=IDLE), {**CLIP, "clip.max_norm": "1.0"}
    for seed in range(6):
        ids.append(compared_runs.run(outputs, 50 + seed, [0.6], {**clip, **STEP}, seed=seed))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--baseline", "clip=norm")
    alone = rows(tmp_path, "alone")
    assert {row["tests"] for row in alone.values()} == {"1"}
    assert alone["scheduler=step"]["verdict"] == "shown to help"
    (none,) = [row for name, row in alone.items() if name.startswith("clip=none")]
    assert none["verdict"] == "no effect"
    assert lines(out, "clip=none turns off clip=norm, which had no effect in any of its 6 runs")


def test_one_pair_gives_no_estimate_of_time(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, [0.02]))
    out = compared(tmp_path)
    assert lines(out, "its cost in time can't be estimated from 1 pair")
    assert "more time" not in out and "+25 %" not in out


def test_a_single_epoch_gives_no_time_per_epoch(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(2), [{}, CLIP])):
        metrics = {"time/epoch_s": 9.0 if not number else 1.0}
        ids.append(compared_runs.run(outputs, number, [0.5], clip, seed=seed, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    assert "time" not in compared(tmp_path).partition("Each trick")[0]
    assert rows(tmp_path, "variants")["baseline"]["epoch_s"] == "nan"


def test_times_are_averaged_within_each_seed_first(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    levels = itertools.product(range(2), [{}, STEP], [{}, CLIP])
    for number, (seed, step, clip) in enumerate(levels):
        seconds = 1.0 if not clip else 1.2 if seed else 1.1
        ids.append(
            compared_runs.run(
                outputs, number, [0.5, 0.5], {**step, **clip}, seed=seed,
                metrics={"time/epoch_s": seconds},
            )
        )  # fmt: skip
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    row = rows(tmp_path, "on-average")["clip=norm"]
    # of two seeds, 1.1 and 1.2: t(1) = 12.7 makes it 0.66 to 1.99; of four pairs 1.06 to 1.24
    assert float(row["time_ratio"]) == pytest.approx((1.1 * 1.2) ** 0.5)
    assert float(row["time_ratio_low"]) < 0.7 < 1.9 < float(row["time_ratio_high"])


@pytest.mark.parametrize(
    ("change", "p", "said"),
    [(0.05, 2 / 2**6, "shown to help"), (-0.05, 4 / 2**6, "no verdict, which needs 7 seeds")],
)
def test_six_seeds_suffice_next_to_a_significant_trick_with_more(
    tmp_path: Path, change: float, p: float, said: str
) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, [0.05 if seed < 5 else change for seed in range(10)])
    for seed in range(6):
        value = 0.5 + 0.01 * (seed + 1)
        ids.append(compared_runs.run(outputs, 50 + seed, [value], STEP, seed=seed))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    row = rows(tmp_path, "alone")["scheduler=step"]
    assert (row["pairs"], float(row["p"]), row["verdict"]) == ("6", p, said)
    others = "shown to help: scheduler=step, clip=norm" if p < 0.05 else (
        "inconclusive: clip=norm; too few seeds for a verdict: scheduler=step"
    )  # fmt: skip
    assert f"Each trick alone, against the baseline: {others}." in out.splitlines()


@pytest.mark.parametrize("differences", [[0.02, 0.01], [0.02, 0.02, 0.02]])
def test_two_pairs_or_equal_ones_give_no_number_of_seeds(
    tmp_path: Path, differences: list[float]
) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, differences))
    out = compared(tmp_path)
    assert lines(out, "no verdict, which needs 6 seeds") and "0.5 points" not in out
    assert rows(tmp_path, "alone")["clip=norm"]["seeds_to_see"] == ""


def test_each_group_option_has_main_effect_and_interactions(tmp_path: Path) -> None:
    value = {"clip=agc": 0.03, "scheduler=step": 0.02, "clip=agc with scheduler=step": 0.04}
    factorial(tmp_path, [[{}, CLIP, {"clip": "agc"}], [{}, STEP]], value)
    compared(tmp_path)
    average, together = rows(tmp_path, "on-average"), rows(tmp_path, "together")
    assert average.keys() == {"clip=norm", "clip=agc", "scheduler=step"}
    # 0.03 and 0.07, and of luck 0.0045 each; 0.02 twice and 0.06 once, and luck
    assert float(average["clip=agc"]["mean"]) == pytest.approx(0.05 + 0.0045)
    assert float(average["scheduler=step"]["mean"]) == pytest.approx(0.1 / 3 + 0.0045)
    assert together.keys() == {"scheduler=step with clip=norm", "scheduler=step with clip=agc"}
    assert float(together["scheduler=step with clip=agc"]["mean"]) == pytest.approx(0.04)


@pytest.mark.parametrize("metric", ["time/samples_per_s", "lr/all", "best/epoch"])
def test_metrics_without_a_better_direction_are_only_raised_or_lowered(
    tmp_path: Path, metric: str
) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(6), [{}, CLIP])):
        metrics = {metric: 5.0 + seed + len(clip), "time/epoch_s": 1.0 + len(clip)}
        ids.append(compared_runs.run(outputs, number, [0.5] * 2, clip, seed=seed, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path, "--metric", metric)
    assert lines(out, f"clip=norm changed {metric} by +1", "shown to raise it")
    assert (
        "help or" not in out.partition("How to read")[0]
        and "shown to h" not in (out.partition("How to read")[0])
    )
    assert "efficient" not in out and not list((outputs / "reports").glob("*/pareto.png"))


def test_an_interaction_has_no_colour_in_the_page(tmp_path: Path) -> None:
    value = {"scheduler=step": 0.02, "average=ema": 0.02, "scheduler=step with average=ema": -0.1}
    factorial(tmp_path, [[{}, STEP], [{}, {"average": "ema"}]], value)
    out = compared(tmp_path)
    (said,) = lines(out, "The effect of")
    assert said.endswith("together below the sum of both.")
    page = next((tmp_path / "outputs" / "reports").glob("*/report.html")).read_text()
    (row,) = re.findall(r"<tr[^>]*>(?:(?!<tr)[^\0])*?together below the sum of both", page)
    assert 'class="red"' not in row and 'class="green"' not in row


def test_an_interval_that_excludes_0_without_a_verdict_is_explained(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    ids = compared_runs.pairs(outputs, [*RISING[:7], -0.002])
    for seed in range(8):
        ids.append(compared_runs.run(outputs, 50 + seed, [0.5 + seed % 2 / 100], STEP, seed=seed))
        ids.append(
            compared_runs.run(
                outputs, 70 + seed, [0.5 - seed % 3 / 100], {"average": "ema"}, seed=seed
            )
        )
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    # one of 8 has the other sign, and is the smallest: 4 of 2**8 assignments, times 3
    (said,) = lines(out, "clip=norm changed", "p = 0.047, corrected for 3 tests")
    assert "excludes 0" not in said
    row = rows(tmp_path, "alone")["clip=norm"]
    assert (float(row["raw_p"]), float(row["p"])) == (4 / 2**8, 12 / 2**8)
    assert [float(d) for d in row["differences"].split()] == pytest.approx([*RISING[:7], -0.002])
    assert int(row["seeds_to_see"]) > 8 and float(row["to_see"]) == 0.005
    first = tmp_path / "less"
    outputs = first / "outputs"
    ids = compared_runs.pairs(outputs, [*RISING[:6], -0.002])
    for seed in range(7):
        ids.append(compared_runs.run(outputs, 50 + seed, [0.5 + seed % 2 / 100], STEP, seed=seed))
    compared_runs.sweep(outputs, ids)
    (said,) = lines(compared(first), "clip=norm changed", "p = 0.062, corrected for 2 tests")
    assert "excludes 0 nevertheless, as it isn't corrected for the other tests; before" in said


def test_a_report_of_several_tables_states_its_error_rate(tmp_path: Path) -> None:
    factorial(tmp_path, [[{}, STEP], [{}, {"average": "ema"}]], {}, seeds=2)
    (said,) = lines(compared(tmp_path), "Each table is corrected by itself")
    assert "with 4 tables" in said and "up to 20 % of" in said


def test_the_report_states_that_more_than_forty_differences_are_sampled(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    compared_runs.sweep(outputs, compared_runs.pairs(outputs, RISING * 6))
    assert lines(compared(tmp_path), "99,999 random signs for more than 40 differences")


def test_intervals_of_accuracies_are_clipped_to_their_range(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(2), [{}, CLIP])):
        value = 0.9 + seed * 0.1 if clip else 0.3 - seed * 0.29
        ids.append(compared_runs.run(outputs, number, [value], clip, seed=seed))
    compared_runs.sweep(outputs, ids)
    compared(tmp_path)
    variants, alone = rows(tmp_path, "variants"), rows(tmp_path, "alone")
    assert (variants["baseline"]["low"], variants["clip=norm"]["high"]) == ("0.0", "1.0")
    assert (alone["clip=norm"]["low"], alone["clip=norm"]["high"]) == ("-1.0", "1.0")


def test_costs_within_noise_count_as_equal(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(4), [{}, CLIP])):
        metrics = {"time/epoch_s": 2.0 if clip else (1.0, 1.1, 2.5, 3.0)[seed]}
        accuracy = 0.6 if clip else 0.5
        ids.append(
            compared_runs.run(outputs, number, [accuracy] * 2, clip, seed=seed, metrics=metrics)
        )
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert lines(out, "its cost in time is within noise")
    efficient = {name: row["efficient"] for name, row in rows(tmp_path, "variants").items()}
    assert efficient == {"baseline": "False", "clip=norm": "True"}


@pytest.mark.parametrize(
    ("seconds", "printed", "cell"),
    [
        # geometric mean 0.0071; t(3) = 3.182 times the logarithms' deviation / 2
        ((0.0067, 0.0069, 0.0073, 0.0075),
         "it took 0.0071 times as long (0.0065 to 0.0077)", "x 0.0071 (0.0065 to 0.0077)"),
        ((40.0, 40.0, 40.0, 40.0), "it took 40 times as long", "x 40"),
        ((0.001, 1.0, 0.001, 1.0), "its cost in time varies too much to be estimated", "-"),
    ],
)  # fmt: skip
def test_a_large_ratio_of_times_is_printed_as_a_ratio(
    tmp_path: Path, seconds: Sequence[float], printed: str, cell: str
) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, freeze) in enumerate(itertools.product(range(4), ["none", "all_but_head"])):
        metrics = {"time/epoch_s": seconds[seed] if freeze != "none" else 1.0}
        on = {"freeze": freeze}
        ids.append(compared_runs.run(outputs, number, [0.5] * 2, on, seed=seed, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    out = compared(tmp_path)
    assert lines(out, f"{printed}."), out
    (report,) = (outputs / "reports").glob("*/report.md")
    (row,) = lines(report.read_text(), "| freeze=all_but_head | no verdict")
    assert f" {cell} " in row


def test_equal_times_are_reported_as_the_same(tmp_path: Path) -> None:
    outputs, ids = tmp_path / "outputs", []
    for number, (seed, clip) in enumerate(itertools.product(range(3), [{}, CLIP])):
        metrics = {"time/epoch_s": 2.0 + 1e-6 * number}
        ids.append(compared_runs.run(outputs, number, [0.5] * 2, clip, seed=seed, metrics=metrics))
    compared_runs.sweep(outputs, ids)
    assert lines(compared(tmp_path), "it took the same time")
