"""Averages of the weights: their numbers, BatchNorm's statistics, and what must not be touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from recipe.components.average import Average
from recipe.components.average.ema import ema
from recipe.components.average.none import none
from recipe.components.average.swa import swa
from recipe.training.loop import train
from recipe.training.run import Run


def weight_of(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    set_weight(model, value)
    return model


@torch.no_grad()
def set_weight(model: nn.Linear, value: float) -> None:
    model.weight.fill_(value)


def weight(average: Average) -> float:
    (parameter,) = average.model.parameters()
    return parameter.item()


def no_inputs() -> Iterable[Tensor]:
    raise AssertionError("inputs asked for although nothing is to be measured")


def stay_in_eval(layer: nn.Module, mode: bool = True) -> nn.Module:
    layer.training = False
    return layer


def freeze(layer: nn.Module) -> None:
    """As the engine freezes a BatchNorm layer: its own `train` keeps it in eval mode."""
    layer.train = MethodType(stay_in_eval, layer)  # type: ignore[method-assign]
    layer.train()


class Net(nn.Sequential):
    """Two BatchNorm layers around a dropout; the first one sees the inputs as they are."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(1), nn.Dropout(0.5), nn.BatchNorm1d(1))


# Means 1 and 4, unbiased variances 2 and 8.
BATCHES = [torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [6.0]])]


def batchnorm(model: nn.Module, index: int) -> nn.BatchNorm1d:
    layer = model.get_submodule(str(index))
    assert isinstance(layer, nn.BatchNorm1d)
    return layer


def statistics(model: nn.Module, index: int) -> tuple[float, float, int]:
    layer = batchnorm(model, index)
    assert layer.running_mean is not None and layer.running_var is not None
    assert layer.num_batches_tracked is not None
    return (
        layer.running_mean.item(),
        layer.running_var.item(),
        int(layer.num_batches_tracked.item()),
    )


# all


@pytest.mark.parametrize(
    "make", [none, lambda m: ema(m, decay=0.5, warmup=False), lambda m: swa(m, start=0.5)],
    ids=["none", "ema", "swa"],
)  # fmt: skip
def test_averaged_model_has_the_same_state_names_as_the_trained_one(
    make: Callable[[nn.Module], Average],
) -> None:
    model = Net()
    average = make(model)
    average.after_step(1.0)
    average.after_epoch(1.0, lambda: BATCHES)
    assert list(average.model.state_dict()) == list(model.state_dict())


def test_average_none_is_the_trained_model_itself() -> None:
    model = weight_of(1.0)
    average = none(model)
    average.after_step(0.5)
    average.after_epoch(0.5, no_inputs)
    assert average.model is model


# ema


@pytest.mark.parametrize(
    ("decay", "warmup", "values", "followed"),
    [
        (0.75, False, [8.0, 0.0, 4.0], [8.0, 6.0, 5.5]),  # 0.75 * 8; 0.75 * 6 + 0.25 * 4
        # decays after the first step: min(0.2, 2/11) = 2/11, then min(0.2, 3/12) = 0.2
        (0.2, True, [11.0, 0.0, 12.0], [11.0, 2.0, 0.2 * 2.0 + 0.8 * 12.0]),
    ],
    ids=["from the first step on with its decay", "with a smaller decay while it warms up"],
)
def test_ema_starts_at_first_step_and_follows_with_decay(
    decay: float, warmup: bool, values: list[float], followed: list[float]
) -> None:
    model = weight_of(100.0)
    average = ema(model, decay=decay, warmup=warmup)
    seen = []
    for step, value in enumerate(values):
        set_weight(model, value)
        average.after_step((step + 1) / 3)
        seen.append(weight(average))
    assert seen == pytest.approx(followed)
    assert model.weight.item() == values[-1]


def test_ema_averages_batchnorm_statistics_and_copies_counters() -> None:
    model = Net()
    average = ema(model, decay=0.5, warmup=False)
    for mean, count in [(2.0, 10), (4.0, 11)]:
        layer = batchnorm(model, 0)
        assert layer.running_mean is not None and layer.num_batches_tracked is not None
        layer.running_mean.fill_(mean)
        layer.num_batches_tracked.fill_(count)
        average.after_step(0.5)
    assert statistics(average.model, 0) == (3.0, 1.0, 11)


def test_ema_supports_parameters_with_several_dtypes() -> None:
    model = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1).double()])
    average = ema(model, decay=0.5, warmup=False)
    average.after_step(0.5)
    expected = [p.detach() / 2 for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    average.after_step(1.0)
    for p, half in zip(average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), half)


def test_ema_leaves_frozen_weights_and_statistics_unchanged() -> None:
    model = Net()
    freeze(batchnorm(model, 0))
    with torch.no_grad():
        for tensor in (*batchnorm(model, 0).parameters(), *batchnorm(model, 0).buffers()):
            if tensor.is_floating_point():
                tensor.fill_(0.1)
    average = ema(model, decay=0.99, warmup=False)
    for _ in range(5):
        average.after_step(0.5)
    for ours, theirs in zip(average.model.state_dict().values(), model.state_dict().values(),
                            strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)


def test_ema_continues_from_loaded_state() -> None:
    model = weight_of(8.0)
    first = ema(model, decay=0.75, warmup=False)
    first.after_step(0.5)
    again = ema(model, decay=0.75, warmup=False)
    again.load_state_dict(deepcopy(first.state_dict()))
    set_weight(model, 0.0)
    for average in (first, again):
        average.after_step(1.0)
        assert weight(average) == pytest.approx(6.0)


# swa


def run_swa(start: float, values: list[float]) -> tuple[nn.Linear, list[float]]:
    model = weight_of(100.0)
    average = swa(model, start=start)
    averaged = []
    for epoch, value in enumerate(values):
        set_weight(model, value)
        average.after_step((epoch + 1) / len(values))
        average.after_epoch((epoch + 1) / len(values), no_inputs)
        averaged.append(weight(average))
    return model, averaged


def test_swa_is_the_mean_of_the_weights_after_the_late_epochs() -> None:
    _, averaged = run_swa(0.5, [10.0, 2.0, 4.0, 9.0])
    assert averaged == pytest.approx([10.0, 2.0, 3.0, 5.0])  # raw; then 2, (2+4)/2, (2+4+9)/3


def test_swa_does_not_modify_the_trained_weights() -> None:
    model, _ = run_swa(0.5, [10.0, 2.0, 4.0, 9.0])
    assert model.weight.item() == 9.0


def test_swa_before_its_start_returns_the_trained_model() -> None:
    model = weight_of(1.0)
    average = swa(model, start=0.75)
    average.after_epoch(0.74, no_inputs)
    assert average.model is model
    average.after_epoch(0.75, no_inputs)
    assert average.model is not model


def test_swa_recomputes_batchnorm_statistics_for_averaged_weights() -> None:
    model = Net()
    model(torch.tensor([[10.0], [30.0]]))  # statistics and counters of training, to be forgotten
    average = swa(model, start=0.5)
    with torch.no_grad():
        batchnorm(model, 0).bias.fill_(2.0)
    average.after_epoch(0.5, lambda: BATCHES)
    with torch.no_grad():
        batchnorm(model, 0).bias.fill_(4.0)
    average.after_epoch(1.0, lambda: BATCHES)
    assert statistics(average.model, 0) == (2.5, 5.0, 2)  # means of 1 and 4, of 2 and 8
    # The second layer sees what the first, normalising by the batch, shifts by the mean bias, 3.
    assert statistics(average.model, 2)[0] == pytest.approx(3.0)
    assert batchnorm(average.model, 0).momentum == batchnorm(model, 0).momentum == 0.1
    assert not any(layer.training for layer in average.model.modules())


def test_swa_keeps_statistics_and_mode_of_the_trained_model() -> None:
    for mode in (True, False):
        model = Net().train(mode)
        average = swa(model, start=0.5)
        average.after_epoch(1.0, lambda: BATCHES)
        assert statistics(model, 0) == (0.0, 1.0, 0)
        assert all(layer.training is mode for layer in model.modules())


def test_swa_keeps_the_statistics_of_frozen_batchnorm() -> None:
    model = Net()
    frozen = batchnorm(model, 0)
    assert frozen.running_mean is not None
    frozen.running_mean.fill_(7.0)
    freeze(frozen)
    average = swa(model, start=0.5)
    average.after_epoch(0.5, lambda: BATCHES)
    average.after_epoch(1.0, lambda: BATCHES)
    assert statistics(average.model, 0) == (7.0, 1.0, 0)
    assert statistics(average.model, 2)[2] == 2  # the other one was measured
    # It also normalised by its own statistics meanwhile: mean (1 + 4) / 2 - 7.
    assert statistics(average.model, 2)[0] == pytest.approx(-4.5, abs=1e-3)


def test_swa_recomputes_batchnorm_unfrozen_after_the_copy() -> None:
    model = Net()
    freeze(batchnorm(model, 0))
    average = swa(model, start=0.5)
    del batchnorm(model, 0).train
    average.after_epoch(1.0, lambda: BATCHES)
    assert statistics(average.model, 0) == (2.5, 5.0, 2)


def test_copied_frozen_batchnorm_stays_frozen_independently() -> None:
    model = Net()
    freeze(batchnorm(model, 0))
    copy = deepcopy(model).train()
    assert not batchnorm(copy, 0).training and batchnorm(copy, 2).training
    batchnorm(model, 0).training = True
    copy.train()
    assert batchnorm(model, 0).training  # the copy's `train` is bound to the copy


def test_swa_advances_no_random_stream() -> None:
    class Noise(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + torch.randn_like(inputs)

    average = swa(nn.Sequential(Noise(), nn.BatchNorm1d(1), nn.Dropout(0.5)), start=0.5)
    state = torch.get_rng_state()
    average.after_epoch(1.0, lambda: BATCHES)
    assert torch.equal(torch.get_rng_state(), state)
    assert statistics(average.model, 1)[2] == 2


def test_swa_resumes_from_its_state() -> None:
    model = weight_of(2.0)
    first = swa(model, start=0.5)
    first.after_epoch(0.5, no_inputs)
    again = swa(model, start=0.5)
    again.load_state_dict(deepcopy(first.state_dict()))
    set_weight(model, 4.0)
    for average in (first, again):
        average.after_epoch(1.0, no_inputs)
        assert weight(average) == pytest.approx(3.0)


# in a run


@pytest.mark.parametrize("option", [("ema", "decay=0.9"), ("swa", "start=0.1")])
def test_evaluation_covers_trained_and_averaged_weights(
    built: Callable[..., Run], option: tuple[str, str]
) -> None:
    run = built(f"average={option[0]}", f"average.{option[1]}", "optimizer.lr=0.5")
    end = list(train(run))[-1].metrics
    found = {}
    for name, model in (("raw_", run.model), ("", run.average.model)):
        (inputs, targets) = next(iter(run.data.val.batches([torch.arange(len(run.data.val))])))
        logits = model.eval()(inputs)
        found[f"val/{name}accuracy"] = (logits.argmax(1) == targets).float().mean().item()
        found[f"val/{name}loss"] = nn.functional.cross_entropy(logits, targets).item()
    assert {key: end[key] for key in found} == pytest.approx(found, rel=1e-5)
    assert found["val/raw_loss"] != pytest.approx(found["val/loss"], rel=1e-3)


def test_raw_weights_are_not_evaluated_without_an_average(built: Callable[..., Run]) -> None:
    assert not any("raw" in key for point in train(built()) for key in point.metrics)
