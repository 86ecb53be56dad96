"""Chained schedules: numbers, ratios, resuming, and options that can't be part of a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import pytest
import torch
from conftest import Compose
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, SequentialLR, StepLR

from recipe.audit.auditor import Audit
from recipe.checkpoint import state
from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.runner import plan
from recipe.training import build
from recipe.training.loop import train
from recipe.training.run import Run


def chain(*parts: str) -> tuple[str, str]:
    return "scheduler=chained", f"scheduler.parts=[{','.join('{' + p + '}' for p in parts)}]"


PER_STEP = "scheduler.per=step"

THREE = (
    *chain(
        "option: exponential, gamma: 0.5, length: 3",
        "option: multistep, milestones: [1], gamma: 0.1, length: 2",
        "option: constant, scale: 0.2",
    ),
    PER_STEP,
)
FACTORS = [1, 0.5, 0.25, 1, 0.1, 0.2]
"""Of its 6 steps: each part starts from the base rate, the last from a fifth."""


def rates(run: Run, group: str = "all") -> list[float]:
    points = [point for point in train(run) if not point.is_epoch_end]
    return [point.metrics[f"lr/{group}"] for point in points]


def planned(spec: RunSpec) -> list[float]:
    """What the learning rates are multiplied by over the run."""
    run = build.build(spec)
    (curve,) = run.lr_curves.values()
    return [rate / run.base_lr["all"] for rate in curve]


def test_chained_schedules_each_start_from_the_base_learning_rate(
    built: Callable[..., Run],
) -> None:
    assert rates(built(*THREE, "optimizer.lr=0.01")) == pytest.approx([f * 0.01 for f in FACTORS])


def test_chained_schedules_match_torch_sequential_lr(built: Callable[..., Run]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    torchs = SequentialLR(
        optimizer, [ExponentialLR(optimizer, 0.5), StepLR(optimizer, 2, 0.1)], milestones=[2]
    )
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    parts = chain("option: exponential, gamma: 0.5, length: 2", "option: step, step_size: 2")
    assert rates(built(*parts, PER_STEP, "optimizer.lr=0.01")) == pytest.approx(expected)
    assert expected == pytest.approx([0.01, 0.005, 0.01, 0.01, 0.001, 0.001])


def test_chain_lengths_count_epochs_unless_schedules_move_per_step(
    small: Callable[..., RunSpec],
) -> None:
    parts = chain("option: constant, length: 2", "option: step, step_size: 1, gamma: 0.5")
    assert planned(small(*parts, "epochs=5")) == pytest.approx([1, 1, 1, 0.5, 0.25])
    per_step = planned(small(*parts, PER_STEP))  # 3 steps in each of 2 epochs
    assert per_step == pytest.approx([1, 1, 1, 0.5, 0.25, 0.125])


def test_chained_schedule_part_uses_own_length_instead_of_run_length(
    small: Callable[..., RunSpec],
) -> None:
    """A cosine of 2 moves is at 1 and 1/2, with its minimum at the third, which isn't its own; a
    cycle of 4 rises from 1/4 over 2 moves and falls to 1/20, in lines."""
    parts = chain(
        "option: cosine, minimum: 0, length: 2",
        "option: one_cycle, pct_start: 0.5, div_factor: 4, final_div_factor: 5, "
        "anneal_strategy: linear",
    )
    found = planned(small(*parts, "epochs=6"))
    assert found == pytest.approx([1, 0.5, 0.25, 0.625, 1, 0.525], abs=1e-6)


def test_two_chained_one_cycles_keep_separate_initial_rates(small: Callable[..., RunSpec]) -> None:
    """torch keeps the start of a cycle in the optimizer's groups, where there is room for one."""
    cycle = "option: one_cycle, pct_start: 0.5, final_div_factor: 1, anneal_strategy: linear"
    parts = chain(f"{cycle}, div_factor: 4, length: 2", f"{cycle}, div_factor: 10")
    assert planned(small(*parts, "epochs=4")) == pytest.approx([0.25, 1, 0.1, 1])


def test_final_chained_rate_is_end_of_last_part(small: Callable[..., RunSpec]) -> None:
    run = build.build(small(*chain("option: constant, length: 1", "option: cosine, minimum: 0.1")))
    list(train(run))
    assert run.lr_schedule.scheduler.last_epoch == 2
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * run.base_lr["all"])


def test_learning_rate_ratios_are_kept_and_pass_the_audit(small: Callable[..., RunSpec]) -> None:
    spec = small(*THREE, "param_groups=head_faster")
    run = build.build(spec)
    with Audit(spec, run) as audit:
        for point in train(run):
            audit.check(point)
            if not point.is_epoch_end:
                assert point.metrics["lr/head"] == pytest.approx(10 * point.metrics["lr/body"])
    verdicts = {v.group: v for v in audit.results(is_final=True)}
    assert all(v.has_passed for v in verdicts.values())
    assert (
        verdicts["scheduler"].description
        == "6 scheduler steps, one per step; learning rates as planned"
    )


@pytest.mark.parametrize("at", [1, 3, 5])
def test_resume_in_any_chained_part_keeps_learning_rates(
    small: Callable[..., RunSpec], at: int
) -> None:
    spec = small(*THREE)
    whole = rates(build.build(spec))
    half = build.build(spec)
    steps: Iterator[float] = (p.metrics["lr/all"] for p in train(half) if not p.is_epoch_end)
    begun = [next(steps) for _ in range(at)]
    resumed = build.build(spec)
    state.restore_state(resumed, state.capture_state(half))
    assert begun + rates(resumed) == whole


def test_spec_of_chained_schedules_is_self_contained(
    small: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = small(*chain("option: step, length: 1", "option: cosine"))
    assert spec.scheduler["parts"][0] == {
        "_target_": "recipe.components.scheduler.step.step", "_partial_": True,
        "option": "step", "length": 1, "step_size": 10, "gamma": 0.1,
    }  # fmt: skip
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    again = RunSpec.from_file(path, [])
    assert again == spec
    assert planned(again) == planned(spec)


OWN = {
    "conf/scheduler/halves.yaml": "# Halves.\n_target_: mine.halves\nto: 0.5  # what is left\n"
    "per: step  # moves\n",
    "mine.py": "from recipe.components.contract import lr_factor\n\n@lr_factor\n"
    "def halves(progress, *, to):\n    return 1.0 if progress < 0.5 else to\n",
}


def test_user_option_is_usable_as_chained_part(tmp_path: Path) -> None:
    folder = commands.project(tmp_path, OWN)
    parts = chain("option: halves, to: 0.25, length: 2", "option: halves")
    done = commands.run(folder, "plan", *commands.QUICK, "epochs=4", *parts, "trust=[mine]")
    assert done.status == 0, done.err
    assert "all  0.05" in done.out and "  0.025" in done.out
    untrusted = commands.run(folder, "plan", *commands.QUICK, "epochs=4", *parts)
    assert untrusted.problems == [
        "recipe: scheduler=chained: _target_ mine.halves: the package mine isn't trusted; if it is "
        "yours, give trust=[mine]"
    ]


CONSTANT = "option: constant"


@pytest.mark.parametrize(
    ("parts", "problems"),
    [
        (("option: stp, length: 1", "option: chained"),
         ["scheduler.parts[0].option: scheduler=stp: no such option; did you mean step?",
          "scheduler.parts[1].option: chained has parts, too; list those parts here"]),
        (("option: step, length: x, gama: 2, per: step", "length: 3", "option: cosine, scale: 0"),
         ["scheduler.parts[0].length must be a whole number, got 'x'; give another value",
          "scheduler.parts[0].per: all parts step together; set scheduler.per",
          "scheduler.parts[0].gama: scheduler=step has no such setting; did you mean gamma?",
          "scheduler.parts[1] has no option; write {option: <name>, length: <steps>}",
          "scheduler.parts[2].scale must be greater than 0, got 0; give another value"]),
        ((CONSTANT, "option: cosine, minimum: 3, length: 1"),
         ["scheduler.parts[0].length is missing; give it for each part except the last",
          "scheduler.parts[1].length: the last part ends with the run; leave it out",
          "scheduler.parts[1].minimum must be less than 1, got 3; use 0.0, the default (final "
          "learning "
          "rate, as a fraction of each group's own learning rate)"]),
        (("option: plateau, length: 1", CONSTANT),
         ["scheduler.parts[0]: the learning rates of plateau depend on a metric, so they "
          "aren't known in advance; use it without a chain"]),
        ((f"{CONSTANT}, length: 1", f"{CONSTANT}, length: 1", CONSTANT),
         ["scheduler.parts[2] begins after 2 epochs, but the run has 2 epochs, so it would "
          "never begin; use a shorter length before it, or more epochs"]),
        ((f"{CONSTANT}, length: 1", "option: one_cycle"),
         ["scheduler.parts[1].pct_start is 0.3, but the part has 1 epoch, so it would end during "
          "the warm-up; use scheduler.per=step, a smaller pct_start, or a longer part"]),
        (("option: step, length: 1, step_size: 0", CONSTANT),
         ["scheduler.parts[0].step_size must be greater than 0, got 0; use 10, the default (epochs "
          "between two reductions; has no effect in a run that is not longer)"]),
    ],
    ids=lambda value: value[0][:40],
)  # fmt: skip
def test_invalid_chained_schedules_are_rejected_by_position(
    built: Callable[..., Run], parts: tuple[str, ...], problems: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        built(*chain(*parts))
    assert caught.value.problems == problems


def test_warmup_is_rejected_if_the_first_schedule_warms_up_itself(
    built: Callable[..., Run],
) -> None:
    parts = chain("option: warmup_cosine, length: 3, warmup: 0.5", CONSTANT)
    with pytest.raises(SpecError) as caught:
        built(*parts, PER_STEP, "warmup=linear", "warmup.share=0.5")
    assert caught.value.problems == [
        "warmup=linear doesn't go with scheduler.parts[0], warmup_cosine, which has its own "
        "warm-up; use warmup=none, or another option there"
    ]


def test_a_part_that_is_no_scheduler_is_refused(composed: Compose) -> None:
    with compose.composition_context():
        config = compose.compose_config([*chain(f"{CONSTANT}, length: 1", CONSTANT), "epochs=2"])
    config.scheduler.parts[0]._target_ = "recipe.components.clip.none.none"
    choices = config.hydra.runtime.choices
    del config["hydra"]
    with pytest.raises(SpecError) as caught:
        build.build(RunSpec.from_config(config, choices))
    assert caught.value.problems == [
        "scheduler.parts[0]: recipe.components.clip.none is not a scheduler; choose an option "
        "of scheduler"
    ]


@pytest.mark.parametrize(
    ("parts", "shown", "caution"),
    [
        ((CONSTANT + ", length: 2", PER_STEP),
         "Parts: constant 2 steps, cosine 4 steps; an epoch has 3 steps",
         ["scheduler.parts[0].length is 2 training steps, less than an epoch of 3; with "
          "scheduler.per=epoch it counts epochs"]),
        ((CONSTANT + ", length: 3", PER_STEP),
         "Parts: constant 3 steps, cosine 3 steps; an epoch has 3 steps", []),
        ((CONSTANT + ", length: 3", "epochs=5"), "Parts: constant 3 epochs, cosine 2 epochs", []),
    ],
)  # fmt: skip
def test_plan_shows_lengths_of_chained_schedules_and_of_an_epoch(
    small: Callable[..., RunSpec], parts: tuple[str, str], shown: str, caution: list[str]
) -> None:
    spec = small(*chain(parts[0], "option: cosine"), parts[1])
    made = plan.make_plan(spec, build.build(spec))
    assert (made.schedule_description, made.cautions) == (shown, caution)
    text = plan.render_as_text(plan.render_plan(made))
    assert shown in text and ("Caution scheduler.parts[0].length" in text) == bool(caution)


@pytest.mark.parametrize(
    ("overrides", "caution"),
    [
        ("scheduler=step scheduler.step_size=2", "scheduler.step_size is 2 training steps, less"),
        ("scheduler=multistep scheduler.milestones=[1,5]", "scheduler.milestones[0] is 1 training"),
        ("optimizer.lr=0", "the learning rate is 0 at every step, so no weight will change"),
        ("scheduler=step scheduler.step_size=3", None),
    ],
)
def test_suspicious_schedule_plan_gives_caution(
    small: Callable[..., RunSpec], overrides: str, caution: str | None
) -> None:
    spec = small(*overrides.split(), PER_STEP)
    found = plan.make_plan(spec, build.build(spec)).cautions
    assert len(found) == (caution is not None)
    assert caution is None or found[0].startswith(caution)
