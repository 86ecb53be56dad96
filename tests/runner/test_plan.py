from pathlib import Path

import commands
import pytest
import torch
from conftest import Compose

from recipe import formatting
from recipe.runner import plan
from recipe.training import build
from recipe.training.run import Run

GOLDEN = Path(__file__).parents[1] / "golden" / "plan.txt"

SHOWN = (*commands.CPU, "freeze=vgg_first2", "scheduler=step", "clip=norm")


def planned(composed: Compose, *overrides: str) -> tuple[plan.Plan, Run]:
    spec = composed(*commands.CPU, "data.train_size=100", *overrides)
    run = build.build(spec)
    return plan.make_plan(spec, run), run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `plan` prints; it must have left nothing behind."""
    folder = tmp_path_factory.mktemp("plan")
    done = commands.run(folder, "plan", *SHOWN)
    assert (done.status, done.err, list(folder.iterdir())) == (0, "", [])
    return done.out


def test_plan_output_matches_the_golden_file(shown: str, pytestconfig: pytest.Config) -> None:
    lines = [line.rstrip() for line in shown.splitlines() if not line.startswith("Time: ")]
    text = "\n".join(lines) + "\n"
    if pytestconfig.getoption("--refresh-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_plan_prints_a_rough_duration(shown: str) -> None:
    (line,) = [line for line in shown.splitlines() if line.startswith("Time: ")]
    assert line.startswith("Time: roughly ") and line.endswith(" an epoch)")


def test_plan_table_shows_trainable_before_and_after_freezing(shown: str) -> None:
    rows = [line.split() for line in shown.splitlines() if line.startswith("convolution")]
    before_and_after = {row[0]: row[-2:] for row in rows}
    assert [name for name, pair in before_and_after.items() if pair == ["True", "False"]] == [
        "convolution1_1.weight", "convolution1_1.bias",
        "convolution1_2.weight", "convolution1_2.bias",
    ]  # fmt: skip
    assert list(before_and_after.values()).count(["True", "True"]) == 12


def test_plan_counts_of_parameters_and_multiply_adds_are_correct(composed: Compose) -> None:
    made, _ = planned(composed, "model.widths=[4]", "model.convolutions=1", "freeze=first_layers",
                      "freeze.count=1")  # fmt: skip
    # 4 x 1 x 3 x 3 weights and 4 biases, 4 + 4 of the normalisation, 10 x 4 weights and 10 biases;
    # multiply-adds: 40 for each of 32 x 32 pixels, one for each other parameter
    assert plan.format_model_size(made) == (
        "Size: 50 of 98 parameters trainable, 0.0 million multiply-adds a sample"
    )
    assert made.model_summary.multiply_adds == 40 * 32 * 32 + 8 + 50


def test_planned_step_decay_keeps_the_ratio_between_groups(composed: Compose) -> None:
    made, _ = planned(
        composed, "param_groups=vgg_conv1", "scheduler=step", "scheduler.step_size=2",
        "scheduler.gamma=0.1", "epochs=5",
    )  # fmt: skip
    fast, slow = made.run.lr_curves.values()
    assert fast == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    assert slow == pytest.approx([0.001, 0.001, 0.0001, 0.0001, 0.00001])


def test_planning_changes_no_schedule_weights_or_random_streams(composed: Compose) -> None:
    spec = composed(*commands.QUICK, "scheduler=step", "scheduler.step_size=1")
    run = build.build(spec)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    made = plan.make_plan(spec, run)
    plan.estimate_epoch_seconds(run)
    assert made.run.lr_curves == {"all": pytest.approx([0.05, 0.005])}
    assert run.optimizer.param_groups[0]["lr"] == 0.05 and not run.optimizer.state
    assert run.lr_schedule.scheduler.last_epoch == 0
    assert torch.equal(torch.get_rng_state(), state)
    after = run.model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([1.0, 0.5], 4, "██▄▄"),
        ([1.0, 1.0, 0.5, 0.5], 2, "█▄"),
        ([0.0, 0.0], 2, "▁▁"),
        ([1.0, 0.001], 2, "█▁"),  # what is above zero stays visible
    ],
)
def test_sparkline_bars_are_scaled_to_largest_value(
    values: list[float], width: int, bars: str
) -> None:
    assert plan.format_sparkline(values, width) == bars


def test_plan_groups_parameters_of_long_model_by_module(composed: Compose) -> None:
    """Five blocks of two convolutions: 42 tensors, more than the 40 that are listed one by one."""
    made, _ = planned(
        composed, "model.widths=[4,4,4,4,4]", "freeze=by_name",
        "freeze.names=[convolution1_1,convolution1_2.bias]",
    )  # fmt: skip
    text = plan.render_as_text(plan.render_plan(made))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    start = lines.index("name group lr trainable before after")
    assert lines[start + 1 : start + 6] == [
        "convolution1_1 (2 tensors, 40 numbers) - - True False",
        "batchnorm1_1 (2 tensors, 8 numbers) all 0.05 True True",
        "convolution1_2 (1 tensor, 144 numbers) all 0.05 True True",
        "convolution1_2 (1 tensor, 4 numbers) - - True False",
        "batchnorm1_2 (2 tensors, 8 numbers) all 0.05 True True",
    ]
    assert len(made.parameter_rows) == 42 and lines.index("", start) - start - 1 == 22


def test_plan_describes_metric_driven_schedule(composed: Compose) -> None:
    made, _ = planned(composed, "scheduler=plateau", "epochs=3", "model.widths=[4]")
    assert made.run.lr_curves == {"all": [0.05, 0.05, 0.05]}
    assert f"falls when {made.spec.scheduler['monitor']} stops improving" in plan.render_as_text(
        plan.render_plan(made)
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_are_formatted_with_units(seconds: float, text: str) -> None:
    assert formatting.format_duration(seconds) == text
