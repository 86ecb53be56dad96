"""Parameter groups: who learns how fast, and that no parameter is lost or counted twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from library_models import foreign
from torch import Tensor, nn

from recipe.components.model.resnet import resnet
from recipe.components.model.vgg import vgg
from recipe.components.param_groups.all import all as all_
from recipe.components.param_groups.by_name import by_name
from recipe.components.param_groups.head_faster import head_faster
from recipe.components.param_groups.layer_decay import layer_decay
from recipe.components.param_groups.no_decay import no_decay
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.runner import parameter_table
from recipe.training import build
from recipe.training.run import Run

Build = Callable[..., Run]
Compose = Callable[..., RunSpec]
Groups = list[dict[str, Any]]


def narrow_vgg(batchnorm: bool = True) -> nn.Module:
    return vgg(
        channels=1, classes=3, widths=[2, 4], convolutions=2, batchnorm=batchnorm, dropout=0.0
    )


def members(model: nn.Module, groups: Groups) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


def assert_each_once(model: nn.Module, groups: Groups) -> None:
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))


def held_by_optimizer(run: Run) -> Mapping[str, Any]:
    """name -> (lr, weight decay) of what the built optimizer has."""
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in run.optimizer.param_groups
        for p in group["params"]
    }


def test_all_forms_one_group_with_optimizer_settings(built: Build) -> None:
    run = built("param_groups=all", "optimizer.lr=0.3")
    (group,) = run.optimizer.param_groups
    assert (group["name"], group["lr"], len(group["params"])) == ("all", 0.3, 18)
    assert_each_once(run.model, all_(run.model))


def test_vgg_conv1_uses_the_learning_rates_of_the_source(composed: Compose, built: Build) -> None:
    spec = composed("param_groups=vgg_conv1")
    assert spec.param_groups["rules"] == [{"match": "*convolution1*", "lr": 0.01}]
    assert (spec.optimizer["lr"], spec.optimizer["weight_decay"]) == (0.001, 0.001)
    held = held_by_optimizer(built("param_groups=vgg_conv1"))
    assert len(held) == 18
    for name, numbers in held.items():
        assert numbers == ((0.01 if "convolution1" in name else 0.001), 0.001)


def test_by_name_sets_given_options_and_keeps_optimizer_defaults(built: Build) -> None:
    run = built(
        "optimizer=adam",
        "optimizer.lr=0.2",
        "param_groups=by_name",
        "param_groups.rules=[{match: ['*1_1*', '*2_1*'], betas: [0.5, 0.6], name: firsts},"
        " {match: classifier, lr: 0.7, weight_decay: 0.8}]",
    )
    groups = {group["name"]: group for group in run.optimizer.param_groups}
    assert list(groups) == ["firsts", "classifier", "rest"]
    assert {n: (g["lr"], tuple(g["betas"]), g["weight_decay"]) for n, g in groups.items()} == {
        "firsts": (0.2, (0.5, 0.6), 0.0),
        "classifier": (0.7, (0.9, 0.999), 0.8),
        "rest": (0.2, (0.9, 0.999), 0.0),
    }
    rules = {row.name: row.rule for row in parameter_table.build_rows(run)}
    assert rules["convolution2_1.bias"] == "*1_1*, *2_1*" and rules["batchnorm1_2.bias"] == "rest"


def test_head_faster_multiplies_the_learning_rate_of_the_classifier(built: Build) -> None:
    run = built("param_groups=head_faster", "optimizer.lr=0.01", "param_groups.factor=5")
    held = held_by_optimizer(run)
    assert {n: lr for n, (lr, _) in held.items() if "classifier" in n} == {
        "classifier.weight": 0.05,
        "classifier.bias": 0.05,
    }
    assert {lr for n, (lr, _) in held.items() if "classifier" not in n} == {0.01}
    with pytest.raises(ValueError, match=r"^param_groups\.head: '\*' matches all parameters"):
        head_faster(narrow_vgg(), lr=0.1, factor=2.0, head="*")


class Misnamed(nn.Module):
    """Names and shapes that tell nothing: a norm called weight, a matrix called bias_like."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_layer = nn.LayerNorm([2, 2])  # a norm with a matrix for a weight
        self.batchnorm = nn.Linear(4, 3, bias=True)  # no norm, whatever its name
        self.scale = nn.Parameter(torch.ones(3))  # one dimension, though neither bias nor norm

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.batchnorm(self.weight_layer(inputs).flatten(1)) * self.scale
        return logits


def test_no_decay_depends_on_module_type_and_dimensions_not_on_names() -> None:
    model = Misnamed()
    groups = no_decay(model)
    assert members(model, groups) == {
        "decay": ["batchnorm.weight"],
        "no_decay": ["scale", "weight_layer.weight", "weight_layer.bias", "batchnorm.bias"],
    }
    assert "weight_decay" not in groups[0] and groups[1]["weight_decay"] == 0.0


class Tokens(nn.Module):
    """What a transformer has besides the weights of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.positions = nn.Parameter(torch.ones(1, 3, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.single = nn.Linear(4, 1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.table = nn.Embedding(5, 4)

    def no_weight_decay(self) -> set[str]:
        return {"table.*", "not there"}


def test_no_decay_excludes_tokens_positions_and_names_from_the_model() -> None:
    model = nn.Sequential(Tokens())  # also where another module holds the one that names them
    groups = members(model, no_decay(model))
    assert groups["decay"] == [
        "0.attention.in_proj_weight", "0.attention.out_proj.weight", "0.single.weight",
    ]  # fmt: skip
    assert {"0.token", "0.positions", "0.gain", "0.table.weight"} < set(groups["no_decay"])


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet18"]
)
def test_no_decay_excludes_the_same_parameters_as_timm(name: str) -> None:
    from timm.optim import param_groups_weight_decay

    model = foreign("timm", name)
    named: set[str] = getattr(model, "no_weight_decay", set)()
    theirs = param_groups_weight_decay(model, 0.1, no_weight_decay_list=named)
    spared = {id(p) for group in theirs if group["weight_decay"] == 0 for p in group["params"]}
    assert {id(p) for p in no_decay(model)[1]["params"]} == spared


def test_no_decay_keeps_the_optimizer_decay_for_weights(built: Build) -> None:
    held = held_by_optimizer(built("param_groups=no_decay", "optimizer.weight_decay=0.3"))
    for name, (_, decay) in held.items():
        spared = name.endswith("bias") or "batchnorm" in name
        assert decay == (0.0 if spared else 0.3)


def test_layer_decay_is_per_layer_in_models_without_blocks() -> None:
    model = narrow_vgg()
    groups = layer_decay(model, lr=0.8, decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("0_convolution1_1", 0.05), ("1_convolution1_2", 0.1), ("2_convolution2_1", 0.2),
        ("3_convolution2_2", 0.4), ("4_classifier", 0.8),
    ]  # fmt: skip
    assert members(model, groups)["0_convolution1_1"][2:] == [
        "batchnorm1_1.weight", "batchnorm1_1.bias",
    ]  # fmt: skip


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("library", "name", "first", "head", "count"),
    [
        # the stem, the blocks and the classifier
        ("recipe", "resnet", "convolution.weight", "classifier.weight", 1 + 4 + 1),
        ("torchvision", "resnet18", "conv1.weight", "fc.weight", 1 + 8 + 1),
        # a convolution and a linear layer are between its last block and the classifier
        ("torchvision", "mobilenet_v3_small", "features.0.0.weight", "classifier.3.weight", 15),
        ("torchvision", "vit_b_16", "class_token", "heads.head.weight", 1 + 12 + 1),
        ("torchvision", "convnext_tiny", "features.0.0.weight", "classifier.2.weight", 1 + 18 + 1),
        ("timm", "vit_tiny_patch16_224", "cls_token", "head.weight", 1 + 12 + 1),
    ],
)
def test_layer_decay_rates_grow_toward_head_and_cover_all_parameters(
    library: str, name: str, first: str, head: str, count: int
) -> None:
    if library == "recipe":
        model: nn.Module = resnet(channels=1, classes=3, widths=[2, 4], blocks=2, drop_path=0.0)
    else:
        model = foreign(library, name)
    groups = layer_decay(model, lr=1.0, decay=0.9)
    assert_each_once(model, groups)
    rates = [group["lr"] for group in groups]
    assert len(rates) == count
    assert rates == sorted(rates) and rates[-1] == 1.0
    assert rates[0] == pytest.approx(0.9 ** (len(groups) - 1))
    held = list(members(model, groups).values())
    assert first in held[0] and head in held[-1]
    assert_each_once(model, no_decay(model))
    assert_each_once(model, head_faster(model, lr=1.0, factor=2.0, head="auto"))
    assert all(p.ndim > 0 for p in no_decay(model)[0]["params"])


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("vit_tiny_patch16_224", 0.75**13),
        ("convnext_atto", 0.75**13),
        ("mixer_s16_224", 0.75**9),
        ("resnet18", 0.75**9),
        ("deit_tiny_distilled_patch16_224", 0.75**13),
        ("efficientnet_b0", 0.75**17),
        ("vgg11", 0.75**8),
    ],
)
def test_layer_decay_of_timm_models_matches_timm(name: str, lowest: float) -> None:
    from timm.optim import param_groups_layer_decay

    model = foreign("timm", name)
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.75)
        for parameter in group["params"]
    }
    ours = {id(p): g["lr"] for g in layer_decay(model, lr=1.0, decay=0.75) for p in g["params"]}
    assert ours == pytest.approx(theirs)
    assert min(ours.values()) == pytest.approx(lowest)


class Layer(nn.Module):
    """A transformer's layer, with lists of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)})
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.norm = nn.LayerNorm(4)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(), Layer()])
        self.norm = nn.LayerNorm(4)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.embeddings = nn.Linear(2, 4)
        self.encoder = Encoder()
        self.pooler = nn.Linear(4, 4)


class Transformer(nn.Module):
    """Built as in the library transformers: a body within the model, lists within the body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.classifier = nn.Linear(4, 3)


def test_layer_decay_is_per_block_for_nested_blocks() -> None:
    model = Transformer()
    groups = layer_decay(model, lr=1.0, decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("0_body.embeddings", 0.0625), ("1_body.encoder.layer.0", 0.125),
        ("2_body.encoder.layer.1", 0.25), ("3_body.pooler", 0.5), ("4_classifier", 1.0),
    ]  # fmt: skip
    held = members(model, groups)
    assert held["0_body.embeddings"][0] == "body.token"
    assert held["2_body.encoder.layer.1"][-1] == "body.encoder.norm.bias"
    assert_each_once(model, groups)


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@settings(max_examples=60)
@given(data=st.data(), batchnorm=st.booleans())
def test_accepted_rules_assign_every_parameter_to_exactly_one_group(
    data: st.DataObject, batchnorm: bool
) -> None:
    model = narrow_vgg(batchnorm)
    piece = st.sampled_from(
        ["*1_1*", "*1_*", "*bias", "*.weight", "re:2_[12]", "classifier", "convolution1_2", "*"]
    )
    patterns = data.draw(st.lists(piece, min_size=1, max_size=3))
    rules = [{"match": p, "lr": 0.1, "name": f"r{i}"} for i, p in enumerate(patterns)]
    try:
        groups = by_name(model, rules=rules)
    except ValueError as error:
        assert "is already matched by rules[" in str(error)
        return
    assert_each_once(model, groups)
    assert [g["name"] for g in groups if g["name"] != "rest"] == [r["name"] for r in rules]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "[{match: '*conv9*', lr: 1}]",
            r"^param_groups\.rules\[0\]: '\*conv9\*' matches none of the 18 parameters \(nearest",
        ),
        (
            "[{match: '*1_1*', lr: 1}, {match: '*weight', lr: 2}]",
            r"^param_groups\.rules\[1\] \(\*weight\): convolution1_1\.weight is already matched by "
            r"rules\[0\] \(\*1_1\*\)",
        ),
        (
            "[{match: classifier, lrr: 1}]",
            r"the rule 'classifier' sets lrr=1: optimizer=sgd has no such option.*did you mean lr",
        ),
        (
            "[{match: classifier, betas: [0.9, 0.9]}]",
            r"the rule 'classifier' sets betas=.*optimizer=sgd has no such option; it has lr, mom",
        ),
        (
            "[{match: classifier, lr: -1}]",
            r"the rule 'classifier' sets lr=-1: Invalid learning rate: -1",
        ),
        ("[{lr: 1}]", r"^param_groups\.rules\[0\] must have a match, .*; write"),
        (
            "[{match: '*1_1*', name: a, lr: 1}, {match: '*1_2*', name: a, lr: 1}]",
            r"^param_groups\.rules\[1\]: 'a' can't be the group's name",
        ),
        ("[]", r"^param_groups\.rules is empty; .* param_groups=all"),
        ("[{match: classifier}]", r"^param_groups\.rules\[0\] sets nothing; add a setting"),
        (
            "[{match: classifier, lr: fast}]",
            r"the rule 'classifier' sets lr=fast: it must be a number",
        ),
        ("[{match: classifier, lr: nan}]", r"^param_groups\.rules must be a finite number"),
        (
            "[{match: classifier, lr: 1e39}]",
            r"^param_groups\.rules must be within .* 32-bit floats",
        ),
        ("[{match: classifier, lr: true}]", r"sets lr=True: it must be a number, got true"),
        (
            "[{match: classifier, nesterov: maybe}]",
            r"sets nesterov=maybe: it must be true or false, got 'maybe'",
        ),
        ("[{match: classifier, 3: 4}]", r"sets 3=4: optimizer=sgd has no such option; it has lr"),
        ("[{match: 3, lr: 1}]", r"^param_groups\.rules\[0\] must have a match, .*; write"),
        (
            "[{match: {classifier: 1}, lr: 1}]",
            r"^param_groups\.rules\[0\] must have a match, .*; write",
        ),
    ],
    ids=[
        "nothing",
        "twice",
        "typo",
        "foreign",
        "range",
        "no match",
        "name",
        "empty",
        "no option",
        "type",
        "nan",
        "beyond float32",
        "boolean",
        "switch",
        "key",
        "number for a pattern",
        "mapping for a pattern",
    ],
)
def test_invalid_param_group_rule_is_named(built: Build, rules: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        built("param_groups=by_name", f"param_groups.rules={rules}")
    assert len(caught.value.problems) == 1


def test_learning_rate_overflowing_by_group_factor_is_rejected(built: Build) -> None:
    factor = ("optimizer.lr=1e30", "param_groups.factor=1e30")
    with pytest.raises(
        SpecError, match=r"'head=auto' sets lr=1\S+: it must be within .*32-bit floats"
    ):
        built("param_groups=head_faster", *factor)


def test_betas_in_param_group_rule_require_two_values(built: Build) -> None:
    rule = "{match: classifier, betas: [0.9]}"
    with pytest.raises(SpecError, match=r"sets betas=\[0\.9\]: it must be a list of 2 values"):
        built("optimizer=adam", "param_groups=by_name", f"param_groups.rules=[{rule}]")


def test_head_faster_with_frozen_head_is_rejected(built: Build) -> None:
    with pytest.raises(SpecError, match=r"^param_groups=head_faster: .* takes only frozen"):
        built("param_groups=head_faster", "freeze=by_name", "freeze.names=[classifier]")


def test_param_group_rule_matching_only_frozen_parameters_is_named(built: Build) -> None:
    with pytest.raises(SpecError, match=r"the rule '\*convolution1\*' takes only frozen"):
        built("param_groups=vgg_conv1", "freeze=vgg_first2")


def test_interdependent_optimizer_settings_are_accepted_together(built: Build) -> None:
    """torch's SGD refuses nesterov without momentum, wherever the momentum comes from."""
    (group,) = built("optimizer.nesterov=true").optimizer.param_groups
    assert group["nesterov"] is True and group["momentum"] == 0.9
    rule = "{match: classifier, nesterov: true, momentum: 0.5}"
    run = built("optimizer.momentum=0", "param_groups=by_name", f"param_groups.rules=[{rule}]")
    assert run.optimizer.param_groups[0]["nesterov"] is True
    with pytest.raises(SpecError, match=r"^optimizer\.nesterov: Nesterov momentum requires"):
        built("optimizer.nesterov=true", "optimizer.momentum=0")


@pytest.mark.parametrize("switch", ["differentiable", "capturable"])
def test_optimizer_switch_failing_at_first_step_is_rejected(built: Build, switch: str) -> None:
    with pytest.raises(SpecError, match=rf"^optimizer\.{switch}: it is for .*; leave {switch} out"):
        built("optimizer=adam", f"+optimizer.{switch}=true")
    rule = f"{{match: classifier, {switch}: true}}"
    with pytest.raises(SpecError, match=rf"the rule 'classifier' sets {switch}=True: it is for"):
        built("optimizer=adam", "param_groups=by_name", f"param_groups.rules=[{rule}]")


def forgets_the_head(model: nn.Module) -> Groups:
    return [{"name": "body", "params": [p for n, p in model.named_parameters() if "cl" not in n]}]


def takes_all_twice(model: nn.Module) -> Groups:
    return [{"name": name, "params": list(model.parameters())} for name in ("a", "b")]


def takes_a_stranger(model: nn.Module) -> Groups:
    return [{"name": "a", "params": [*model.parameters(), nn.Parameter(torch.zeros(1))]}]


def calls_two_the_same(model: nn.Module) -> Groups:
    first, *others = model.parameters()
    return [{"name": "a", "params": [first]}, {"name": "a", "params": others}]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (forgets_the_head, r"classifier\.weight is in no group"),
        (takes_all_twice, r"convolution1_1\.weight is in more than one group: a, b"),
        (takes_a_stranger, r"the group 'a' holds a parameter that is not part of the model"),
        (calls_two_the_same, r"two groups are called a"),
    ],
)
def test_user_param_groups_breaking_contract_are_rejected(
    composed: Compose, part: Callable[[nn.Module], Groups], message: str
) -> None:
    mine = [f"param_groups._target_={__name__}.{part.__name__}", f"trust=[{__name__}]"]
    spec = composed("data=random", "data.n_train=8", "data.n_val=8", "device.threads=1", *mine)
    with pytest.raises(SpecError, match=message):
        build.build(spec)
