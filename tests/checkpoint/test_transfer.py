"""Going on from a checkpoint under a changed spec: what is carried over, new, dropped, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from resumed_runs import ended, numbers, stopped

from recipe.audit.auditor import Audit
from recipe.checkpoint.transfer import TransferReport, transfer_state
from recipe.config.spec import RunSpec
from recipe.training.build import build
from recipe.training.loop import MetricsEvent, train
from recipe.training.run import Run

Compose = Callable[..., RunSpec]


def went_on(
    old: RunSpec, new: RunSpec, after: int, *, same_data: bool = True
) -> tuple[Run, TransferReport, list[MetricsEvent]]:
    """A run of `new` from where one of `old` stood after so many Points, to its end."""
    _, saved = stopped(old, after)
    run = build(new)
    carried = transfer_state(run, saved["run"], old, new, has_same_data=same_data)
    points = []
    with Audit(new, run) as audit:
        for point in train(run):
            verdicts = audit.check(point)
            assert all(verdict.has_passed for verdict in verdicts), verdicts
            points.append(point)
    return run, carried, points


@pytest.mark.parametrize("after", [2, 4, 7])
def test_more_epochs_give_the_run_that_had_them_from_the_start(small: Compose, after: int) -> None:
    changes = ("optimizer.momentum=0.9", "average=ema", "model.dropout=0.5", "augment=flip_crop")
    old, new = small("epochs=2", *changes), small("epochs=4", *changes)
    whole, _ = ended(new, None)
    _, carried, points = went_on(old, new, after)
    assert numbers(points) == numbers(whole)[after:]
    assert carried.new == ["scheduler"] and not carried.dropped


def test_a_schedule_over_more_epochs_continues_where_the_longer_one_would_be(
    small: Compose,
) -> None:
    old, new = (small(f"epochs={n}", "scheduler=cosine", "scheduler.per=step") for n in (2, 4))
    whole, _ = ended(new, None)
    _, _, points = went_on(old, new, 4)
    rates = [[p.metrics.get("lr/all") for p in run] for run in (points, whole[4:])]
    assert rates[0] == rates[1]


def test_newly_frozen_layers_lose_momentum_and_keep_their_weights(small: Compose) -> None:
    common = ("model.batchnorm=false", "optimizer.momentum=0.9")
    old, new = small(*common), small(*common, "freeze=vgg_first2")
    _, saved = stopped(old, 4)
    run, carried, _ = went_on(old, new, 4)
    frozen = [f"convolution1_{n}.{what}" for n in (1, 2) for what in ("weight", "bias")]
    assert carried.dropped == [f"optimizer {name}" for name in frozen]
    for name in frozen:
        assert torch.equal(run.model.get_parameter(name), saved["run"]["model"][name])


def test_newly_unfrozen_layers_start_without_momentum(small: Compose) -> None:
    common = ("model.batchnorm=false", "optimizer.momentum=0.9")
    old, new = small(*common, "freeze=vgg_first2"), small(*common)
    _, carried, _ = went_on(old, new, 4)
    assert carried.new[:4] == [
        f"optimizer convolution1_{n}.{what}" for n in (1, 2) for what in ("weight", "bias")
    ]
    assert not carried.dropped


def test_a_wider_head_is_new_and_the_rest_is_transferred(small: Compose) -> None:
    old, new = small("model.widths=[2,4]"), small("model.widths=[2,5]")
    _, carried, _ = went_on(old, new, 4)
    assert "weights convolution1_1.weight" in carried.transferred
    assert "weights convolution2_1.weight" in carried.new
    assert "weights convolution2_1.weight" in carried.dropped
    assert "best" in carried.dropped


def test_different_optimizer_starts_without_state(small: Compose) -> None:
    old, new = small("optimizer.momentum=0.9"), small("optimizer=adam")
    _, carried, _ = went_on(old, new, 4)
    assert not any(name.startswith("optimizer") for name in carried.transferred)
    assert "optimizer convolution1_1.weight" in carried.dropped
    assert "optimizer convolution1_1.weight" in carried.new


def test_an_added_average_starts_with_the_transferred_weights(small: Compose) -> None:
    old, new = small(), small("average=swa", "epochs=3")
    run, carried, _ = went_on(old, new, 8)
    assert "average" in carried.new
    assert run.best.accuracy >= 0


def test_an_average_of_newly_frozen_layers_starts_again(small: Compose) -> None:
    old, new = small("average=ema"), small("average=ema", "freeze=vgg_first2")
    run, carried, _ = went_on(old, new, 4)
    assert "average" in carried.new
    trained, averaged = (dict(model.named_parameters()) for model in (run.model, run.average.model))
    assert torch.equal(trained["convolution1_1.weight"], averaged["convolution1_1.weight"])


def test_other_batches_start_the_epoch_again(small: Compose) -> None:
    old, new = small(), small("data.batch_size=5")
    _, carried, points = went_on(old, new, 6)  # in the middle of the second epoch
    assert "position" in carried.dropped
    assert [p.step for p in points] == [5, 6, 7, 8, 8]  # 4 steps an epoch


def test_the_transfer_is_reported_in_one_line_per_kind_of_state(small: Compose) -> None:
    common = ("model.batchnorm=false", "optimizer.momentum=0.9")
    _, carried, _ = went_on(small(*common), small(*common, "freeze=vgg_first2"), 4)
    lines = list(carried.format_lines())
    assert lines[0].startswith("carried over: position")
    assert (
        "dropped: optimizer of 4 tensors: convolution1_1.weight, convolution1_1.bias, "
        "convolution1_2.weight, convolution1_2.bias"
    ) in lines


@pytest.mark.parametrize(
    "change",
    [("optimizer=adamw", "optimizer.lr=0.01"), ("data.batch_size=5",), ("seed=3",), ("clip=norm",)],
)
def test_a_plateau_keeps_its_patience_over_more_epochs(
    small: Compose, change: tuple[str, ...]
) -> None:
    waits = ("scheduler=plateau", "scheduler.patience=0")
    run, carried, _ = went_on(small(*waits), small(*waits, "epochs=4", *change), 8)
    assert run.lr_schedule.scheduler.last_epoch == 4
    assert ("scheduler" in carried.transferred) == (not change[0].startswith("optimizer"))


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_an_average_of_a_model_of_other_shapes_starts_again(small: Compose, average: str) -> None:
    old = small(f"average={average}")
    new = small(f"average={average}", "data.classes=4", "epochs=3")
    _, carried, _ = went_on(old, new, 8, same_data=False)
    assert {"average", "weights classifier.weight"} <= {*carried.new}
    assert "best" in carried.dropped


def test_the_learning_rates_before_and_after_a_longer_schedule_are_reported(small: Compose) -> None:
    """Half a cosine from 0.08 is 0.04; its last of six steps has 0.08 * (1 + cos(150 deg)) / 2."""
    old, new = (
        small(f"epochs={n}", "scheduler=cosine", "scheduler.per=step", "optimizer.lr=0.08")
        for n in (2, 4)
    )
    _, carried, points = went_on(old, new, 8)
    assert points[0].metrics["lr/all"] == pytest.approx(0.04)
    assert carried.first_step_changes == [
        "learning rate of group all 0.00536 in the last step, 0.04 now",
        "scheduler=cosine spans the run, and continues as in a run of this length after "
        "epoch 2 of 4; scheduler=constant with optimizer.lr keeps it constant",
        "epochs 2 before, 4 now",
    ]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            ["data.batch_size=5"],
            ["data.batch_size 8 before, 5 now", "steps per epoch 3 before, 4 now"],
        ),
        (
            ["clip=norm"],
            ["clip=none before, clip=norm now, with clip.max_norm=1.0, clip.norm_type=2"],
        ),
        (["optimizer.momentum=0.5"], ["optimizer.momentum 0.9 before, 0.5 now"]),
        (["accumulate=2"], ["accumulate 1 before, 2 now"]),
        (
            ["param_groups=head_faster"],
            [
                "learning rate of the new group body 0.05; in the last step: all 0.05",
                "learning rate of the new group head 0.5; in the last step: all 0.05",
                "param_groups=all before, param_groups=head_faster now, with param_groups.lr=0.05, "
                "param_groups.factor=10.0, param_groups.head=auto",
            ],
        ),
        (
            ["freeze=all_but_head"],
            [
                "freeze=none before, freeze=all_but_head now, with freeze.head=auto, "
                "freeze.batchnorm=eval",
                "trained tensors 18 before, 2 now; frozen now: batchnorm1_1.bias, "
                "batchnorm1_1.weight, batchnorm1_2.bias and 13 more",
            ],
        ),
    ],
)  # fmt: skip
def test_first_step_changes_are_reported_with_old_and_new_values(
    small: Compose, changes: list[str], lines: list[str]
) -> None:
    _, carried, _ = went_on(small(), small(*changes), 4)
    if "param_groups" not in changes[0]:
        lines = ["learning rate of group all 0.05, as in the last step", *lines]
    assert carried.first_step_changes == lines
    assert list(carried.format_lines())[-len(lines) :] == [f"first step: {line}" for line in lines]


def test_changed_tricks_are_listed_as_new_after_transfer(small: Compose) -> None:
    _, carried, _ = went_on(small(), small("clip=norm", "augment=mixup"), 4)
    assert {"clip=norm", "augment=mixup"} <= {*carried.new}
