"""Layers in order, and which of them is the head, on our models and on those of others."""

from __future__ import annotations

import pytest
import torch
from library_models import foreign
from torch import Tensor, nn

from recipe.components.freeze.all_but_head import all_but_head
from recipe.components.model.mlp import mlp
from recipe.components.model.resnet import resnet
from recipe.components.model.vgg import vgg
from recipe.components.param_groups.head_faster import head_faster
from recipe.errors import SpecError
from recipe.nn import layers


def narrow_vgg(batchnorm: bool = True) -> nn.Module:
    return vgg(
        channels=1, classes=3, widths=[2, 4], convolutions=2, batchnorm=batchnorm, dropout=0.0
    )


def test_vgg_layers_are_convolutions_with_batchnorm_and_classifier() -> None:
    found = layers.find_layers(narrow_vgg())
    assert [layer.name for layer in found] == [
        "convolution1_1", "convolution1_2", "convolution2_1", "convolution2_2", "classifier",
    ]  # fmt: skip
    assert found[1].parameters == [
        "convolution1_2.weight", "convolution1_2.bias", "batchnorm1_2.weight", "batchnorm1_2.bias",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (narrow_vgg(batchnorm=False), 5),
        (
            resnet(channels=1, classes=3, widths=[2, 4], blocks=1, drop_path=0.0),
            7,
        ),  # 1 + 2 + 2, shortcut, head
        (mlp(channels=1, size=4, classes=3, hidden=[5, 5], dropout=0.1), 3),
    ],
    ids=["vgg", "resnet", "mlp"],
)
def test_builtin_models_end_with_the_classifier_layer(model: nn.Module, count: int) -> None:
    assert len(layers.find_layers(model)) == count
    head = layers.find_head_parameters(model, "auto", "freeze.head")
    assert head == ["classifier.weight", "classifier.bias"]


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("library", "name", "first", "count", "head"),
    [
        # 8 blocks of 2 convolutions, 3 shortcuts, stem and head
        ("torchvision", "resnet18", "conv1", 21, "fc"),
        ("torchvision", "mobilenet_v3_small", "features.0.0", 54, "classifier.3"),
        # 12 blocks of 4 (attention's output, with its input inside, and two of the MLP make 3)
        ("torchvision", "vit_b_16", "conv_proj", 38, "heads.head"),
        ("torchvision", "convnext_tiny", "features.0.0", 59, "classifier.2"),
        ("torchvision", "efficientnet_b0", "features.0.0", 82, "classifier.1"),
        # 12 blocks of qkv, projection and two of the MLP
        ("timm", "vit_tiny_patch16_224", "patch_embed.proj", 50, "head"),
        ("timm", "resnet18", "conv1", 21, "fc"),
    ],
)
def test_models_of_other_libraries_are_read_without_special_cases(
    library: str, name: str, first: str, count: int, head: str
) -> None:
    model = foreign(library, name)
    found = layers.find_layers(model)
    assert (found[0].name, len(found)) == (first, count)
    assert layers.find_head_parameters(model, "auto", "k") == [f"{head}.weight", f"{head}.bias"]
    own = [parameter for layer in found for parameter in layer.parameters]
    assert sorted(own) == sorted(name for name, _ in model.named_parameters())  # each once


@pytest.mark.usefixtures("torchvision")
def test_class_token_and_position_embedding_belong_to_next_layer() -> None:
    first = layers.find_layers(foreign("timm", "vit_tiny_patch16_224"))[0]
    assert first.parameters[:4] == [
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    ]  # fmt: skip


class Cosine(nn.Module):
    """A layer with a weight of its own beside a module that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))
        self.activation = nn.Tanh()

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.activation(features @ self.weight.T)
        return scores


def test_module_with_own_weight_and_activation_counts_as_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 2), Cosine())
    assert [layer.name for layer in layers.find_layers(model)] == ["0", "1"]
    assert layers.find_head_parameters(model, "auto", "k") == ["1.weight"]


def test_leading_normalisation_belongs_to_first_layer() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2), nn.GroupNorm(1, 2))
    (only,) = layers.find_layers(model)
    assert only == layers.Layer(
        "1", ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    )


def test_head_is_selectable_by_pattern() -> None:
    model = narrow_vgg()
    assert layers.find_head_parameters(model, "*2_2*", "freeze.head") == [
        "convolution2_2.weight", "convolution2_2.bias", "batchnorm2_2.weight", "batchnorm2_2.bias",
    ]  # fmt: skip
    with pytest.raises(SpecError, match=r"^freeze\.head: 'clasifier' .*nearest: classifier"):
        layers.find_head_parameters(model, "clasifier", "freeze.head")


class TwoHeads(nn.Module):
    """A body whose last layers have the heads' shape, and two heads as in a distilled model."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(3, 8))
        self.square = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.head_distilled = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        features = self.square(self.body(features))
        logits: Tensor = (self.head(features) + self.head_distilled(features)) / 2
        return logits


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("deit_tiny_distilled_patch16_224", {"head", "head_dist"}),
        ("repvit_m0_9", {"head.head.bn", "head.head.l", "head.head_dist.bn", "head.head_dist.l"}),
        ("two heads", {"head", "head_distilled"}),
    ],
)
def test_head_includes_every_classifier_of_model(name: str, heads: set[str]) -> None:
    model = TwoHeads() if name == "two heads" else foreign("timm", name)
    found = set(layers.find_head_parameters(model, "auto", "k"))
    assert {parameter.rpartition(".")[0] for parameter in found} == heads
    all_but_head(model, head="auto")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == found
    faster = head_faster(model, lr=1.0, factor=2.0, head="auto")[1]["params"]
    assert {id(p) for p in faster} == {id(model.get_parameter(n)) for n in found}


def test_consecutive_layers_of_one_shape_are_not_all_heads() -> None:
    model = mlp(channels=1, size=4, classes=3, hidden=[3, 3], dropout=0.0)
    assert layers.find_head_parameters(model, "auto", "k") == [
        "classifier.weight",
        "classifier.bias",
    ]
    square = TwoHeads()
    square.head, square.head_distilled = nn.Linear(8, 8), nn.Linear(8, 8)
    assert layers.find_head_parameters(square, "auto", "k") == [
        "head_distilled.weight",
        "head_distilled.bias",
    ]
