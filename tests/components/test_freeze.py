"""Freezing: what is frozen never moves, whatever optimizer, clip or BatchNorm policy is on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recipe.components.freeze.all_but_head import all_but_head
from recipe.components.freeze.by_name import by_name
from recipe.components.freeze.first_layers import first_layers
from recipe.components.freeze.gradual import gradual
from recipe.components.freeze.none import none
from recipe.components.model.vgg import vgg
from recipe.errors import SpecError
from recipe.runner import parameter_table, plan
from recipe.training.freezing import BatchNormPolicy, FreezeSchedule
from recipe.training.loop import train
from recipe.training.run import Run

Build = Callable[..., Run]
STRONG = ("optimizer.momentum=0.9", "optimizer.weight_decay=0.1")


def narrow_vgg() -> nn.Module:
    return vgg(channels=1, classes=3, widths=[2, 4], convolutions=2, batchnorm=True, dropout=0.0)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Names whose bits changed."""
    return {n for n, tensor in model.state_dict().items() if not torch.equal(before[n], tensor)}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("convolution1_1.weight", {"convolution1_1.weight"}),
        ("convolution1_1", {"convolution1_1.weight", "convolution1_1.bias"}),
        ("*1_2.bias", {"convolution1_2.bias", "batchnorm1_2.bias"}),
        ("re:^class.*weight$", {"classifier.weight"}),
    ],
)
def test_by_name_freezes_parameters_matched_by_each_pattern_kind(
    pattern: str, expected: set[str]
) -> None:
    model = narrow_vgg()
    by_name(model, names=[pattern])
    assert frozen(model) == expected


def test_freeze_sets_every_parameter_of_initially_frozen_model() -> None:
    model = narrow_vgg().requires_grad_(False)
    by_name(model, names=["classifier"])
    assert frozen(model) == {"classifier.weight", "classifier.bias"}
    none(model)
    assert not frozen(model)


def test_first_layers_freezes_the_batchnorm_of_frozen_layers() -> None:
    model = narrow_vgg()
    first_layers(model, count=1)
    assert frozen(model) == {
        "convolution1_1.weight", "convolution1_1.bias", "batchnorm1_1.weight", "batchnorm1_1.bias",
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"^freeze\.count must be below 5, .* got 5; use at most 4"
    ):
        first_layers(model, count=5)


def test_all_but_head_leaves_classifier_trainable() -> None:
    model = narrow_vgg()
    all_but_head(model, head="auto")
    assert {n for n, _ in model.named_parameters()} - frozen(model) == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_gradual_returns_unfreezing_epochs_and_freezes_later_stages() -> None:
    model = narrow_vgg()
    stages = [
        {"epoch": 0, "names": ["classifier"]},
        {"epoch": 1, "names": ["*2_*"]},
        {"epoch": 3, "names": ["*1_*"]},
    ]
    timetable = gradual(model, stages=stages)  # type: ignore[arg-type]
    assert timetable.keys() == {0, 1, 3}
    assert timetable[0] == ["classifier.weight", "classifier.bias"]
    assert frozen(model) == {*timetable[1], *timetable[3]}
    twice = [{"epoch": 1, "names": ["*2_1*"]}, {"epoch": 2, "names": ["*2_*"]}]
    with pytest.raises(
        ValueError, match=r"^freeze\.stages\[1\]\.names: .*2_1\S+ is already in stages\[0"
    ):
        gradual(model, stages=twice)  # type: ignore[arg-type]


def test_vgg_first2_freezes_weights_and_biases_of_two_convolutions(built: Build) -> None:
    assert frozen(built("freeze=vgg_first2").model) == {
        "convolution1_1.weight", "convolution1_1.bias",
        "convolution1_2.weight", "convolution1_2.bias",
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_are_not_optimized_and_never_change(built: Build, optimizer: str) -> None:
    decay = STRONG if optimizer == "sgd" else ["optimizer.weight_decay=0.1"]
    run = built("freeze=first_layers", "freeze.count=2", f"optimizer={optimizer}", *decay)
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    before = state(run.model)
    still = {
        f"{layer}1_{index}.{kind}"
        for layer in ("convolution", "batchnorm")
        for index in (1, 2)
        for kind in ("weight", "bias")
    }
    assert frozen(run.model) == still
    assert held == {id(p) for n, p in run.model.named_parameters() if n not in still}
    list(train(run))
    changed = moved(before, run.model)
    assert not {name for name in changed if "1_" in name}  # BatchNorm's statistics included
    assert {n for n, _ in run.model.named_parameters()} - still <= changed


def test_unfrozen_parameters_join_their_group_at_its_learning_rate(built: Build) -> None:
    """Frozen until epoch 1 and 2; the groups are the source's: convolution1 10 times as fast."""
    run = built(
        "epochs=3",
        "freeze=gradual",
        "freeze.stages=[{epoch: 1, names: ['*2_2*']}, {epoch: 2, names: ['*1_*']}]",
        "param_groups=vgg_conv1",
        *STRONG,
    )
    groups = {group["name"]: group for group in run.optimizer.param_groups}
    first = next(name for name in groups if name != "rest")
    assert groups[first]["params"] == []  # all of it comes later, the group is there
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    seen: list[set[str]] = []
    before = state(run.model)
    for point in train(run):
        if point.is_epoch_end:
            seen.append(moved(before, run.model) & set(names.values()))
            before = state(run.model)
        else:
            # a schedule that is constant: the group's own rate from the first step on
            assert point.metrics[f"lr/{first}"] == 0.01 and point.metrics["lr/rest"] == 0.001
    always = {name for name in names.values() if "2_1" in name or "classifier" in name}
    then = {name for name in names.values() if "2_2" in name}
    assert seen == [always, always | then, set(names.values())]
    held = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert held[first] == {n for n in names.values() if "convolution1_" in n}
    assert held["rest"] == set(names.values()) - held[first]


def test_batchnorm_updates_again_after_unfreezing(built: Build) -> None:
    run = built("freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*1_*']}]")
    layer = run.model.get_submodule("batchnorm1_1")
    counts = [int(layer.num_batches_tracked) for point in train(run) if point.is_epoch_end]  # type: ignore[arg-type]
    assert counts == [0, 3]  # 3 steps in an epoch


def normed() -> nn.Module:
    """A frozen layer with BatchNorm below a trained one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def step(model: nn.Module) -> None:
    """One step of training in plain torch on inputs far from mean 0 and variance 1."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(5 + 3 * torch.randn(8, 2)).square().sum().backward()
    optimizer.step()


def test_frozen_batchnorm_in_plain_torch_keeps_updating_statistics() -> None:
    """The trap that the policy `eval` is for, reproduced without a line of ours."""
    model = normed()
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    model[1].eval()  # type: ignore[index]
    before = state(model)
    step(model)  # its model.train() undoes the eval()
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= moved(before, model)


@pytest.mark.parametrize(
    ("policy", "learns", "normalises_by_batch"),
    [
        ("eval", set(), False),
        ("train", {"running_mean", "running_var", "num_batches_tracked"}, True),
        ("affine_only", {"weight", "bias"}, False),
    ],
)
@pytest.mark.parametrize("copied", [False, True])
def test_frozen_batchnorm_follows_its_policy(
    policy: BatchNormPolicy, learns: set[str], normalises_by_batch: bool, copied: bool
) -> None:
    model = normed()
    by_name(model, names=["0", "1"])
    FreezeSchedule(model, {}, policy)
    original, before = model, state(model)
    if copied:
        model = copy.deepcopy(model)
    for _ in range(2):
        step(model)
    assert {n.removeprefix("1.") for n in moved(before, model) if n.startswith("1.")} == learns
    assert not {name for name in moved(before, model) if name.startswith("0.")}
    model.train()
    assert model[1].training == normalises_by_batch  # type: ignore[index]
    if copied:
        assert not moved(before, original)


def test_partly_frozen_batchnorm_keeps_updating() -> None:
    model = normed()
    by_name(model, names=["1.weight"])
    FreezeSchedule(model, {}, "eval")
    before = state(model)
    step(model)
    assert {"1.bias", "1.running_mean"} <= moved(before, model)


def test_affine_only_policy_trains_batchnorm_weight_and_bias(built: Build) -> None:
    run = built("freeze=all_but_head", "freeze.batchnorm=affine_only")
    before = state(run.model)
    list(train(run))
    assert moved(before, run.model) == {
        *(n for n, _ in run.model.named_parameters() if "batchnorm" in n or "classifier" in n)
    }


def test_unmatched_freeze_pattern_is_rejected_with_nearest_names(built: Build) -> None:
    with pytest.raises(SpecError) as caught:
        built("freeze=by_name", "freeze.names=[convolution1_3]", "clip=norm", "clip.max_norm=-1")
    wrong = {problem.partition(":")[0]: problem for problem in caught.value.problems}
    assert "convolution1_3' matches none of the 18 parameters" in wrong["freeze.names"]
    assert "nearest: convolution1_" in wrong["freeze.names"]
    assert len(wrong) == 2  # the clip's problem is told at once


@pytest.mark.parametrize(
    "override", ["freeze.names=['*']", "freeze.names=[classifier,'*1_*','*2_*']"]
)
def test_freezing_all_parameters_is_rejected(built: Build, override: str) -> None:
    with pytest.raises(SpecError, match=r"^freeze=by_name freezes all 18 parameters, .*head"):
        built("freeze=by_name", override)


def test_unreachable_unfreezing_stage_is_rejected(built: Build) -> None:
    with pytest.raises(
        SpecError, match=r"^freeze=gradual unfreezes after 2 epochs, but the run has 2"
    ):
        built("freeze=gradual", "freeze.stages=[{epoch: 2, names: [classifier]}]")


class SourceNetwork(nn.Module):
    """The shape of the tricks' source: cnn.VGG_16.convolution1_1, ..., convolution2_2."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Module()
        block = nn.Sequential()
        before = 1
        for name, width in (("1_1", 2), ("1_2", 2), ("2_1", 4), ("2_2", 3)):
            block.add_module(f"convolution{name}", nn.Conv2d(before, width, 3, padding=1))
            before = width
        self.cnn.add_module("VGG_16", block)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.cnn.VGG_16(images)  # type: ignore[operator]
        return features.mean((2, 3))


def test_parameter_table_of_the_source_network_matches_the_source(built: Build) -> None:
    names = [
        f"cnn.VGG_16.convolution1_{index}.{kind}" for index in (1, 2) for kind in ("weight", "bias")
    ]
    run = built()
    run.model = SourceNetwork()
    by_name(run.model, names=names)
    run.freeze_schedule = FreezeSchedule(run.model, {}, "eval")
    trained = [p for p in run.model.parameters() if p.requires_grad]
    run.param_groups = [{"name": "all", "params": list(run.model.parameters())}]
    run.optimizer = torch.optim.SGD([{"name": "all", "params": trained}], lr=0.1)
    lines = [
        line.split()
        for line in plan.render_as_text(
            parameter_table.build_table(parameter_table.build_rows(run))
        ).splitlines()
        if line.startswith("cnn.")
    ]
    assert [(words[0], words[-2], words[-1]) for words in lines] == [
        ("cnn.VGG_16.convolution1_1.weight", "True", "False"),
        ("cnn.VGG_16.convolution1_1.bias", "True", "False"),
        ("cnn.VGG_16.convolution1_2.weight", "True", "False"),
        ("cnn.VGG_16.convolution1_2.bias", "True", "False"),
        ("cnn.VGG_16.convolution2_1.weight", "True", "True"),
        ("cnn.VGG_16.convolution2_1.bias", "True", "True"),
        ("cnn.VGG_16.convolution2_2.weight", "True", "True"),
        ("cnn.VGG_16.convolution2_2.bias", "True", "True"),
    ]


def test_frozen_batchnorm_without_affine_keeps_statistics() -> None:
    norms = [nn.BatchNorm1d(2, affine=False) for _ in range(2)]
    model = nn.Sequential(nn.Linear(2, 2), norms[0], nn.Linear(2, 2), norms[1])
    model[0].requires_grad_(False)
    FreezeSchedule(model, {}, "eval")
    model.train()
    model(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    kept, moved = norms[0].running_mean, norms[1].running_mean
    assert kept is not None and moved is not None
    assert kept.tolist() == [0.0, 0.0]
    assert moved.tolist() != [0.0, 0.0]
