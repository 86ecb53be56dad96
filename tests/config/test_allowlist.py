"""`_target_` runs code: what a spec may name, and that nothing else is called or imported."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipe.config import instantiate
from recipe.config.allowlist import locate_target
from recipe.config.groups import GROUPS
from recipe.config.option_files import builtin_targets
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training.run import Run

MINE = """
import os
import subprocess
from os import system
from functools import partial
from torch.hub import load as model
from torch import nn

class Net(nn.Module):
    def __init__(self): super().__init__()

def clip(params, *, limit: float):
    ...

def _hidden():
    ...

NUMBER = 3
shell = partial(system)
"""

STRANGER = """
from pathlib import Path
Path("imported").touch()

def clip(params): ...
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`minepackage`, which the user trusts, and `strangerpackage`, which nobody does."""
    (tmp_path / "minepackage.py").write_text(MINE)
    (tmp_path / "strangerpackage.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("minepackage", "strangerpackage"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "target",
    [
        "recipe.components.clip.norm.norm",
        "recipe.components.device.gpu.Gpu",
        "torch.optim.AdamW",
        "torch.nn.CrossEntropyLoss",
        "torch.optim.lr_scheduler.StepLR",
    ],
)
def test_own_components_and_torch_building_blocks_are_allowed(target: str) -> None:
    assert locate_target(target, ()).__name__ == target.rpartition(".")[2]


def test_only_optimizers_of_pytorch_optimizer_are_allowed() -> None:
    assert locate_target("pytorch_optimizer.Lion", (), "optimizer").__name__ == "Lion"
    refused = {
        "pytorch_optimizer.load_optimizer": "optimizer",
        "pytorch_optimizer.Lion": "model",
        "pytorch_optimizer.Lookahead": "optimizer",  # a wrapper, whose optimizer isn't saved
        "pytorch_optimizer.optimizer.lion.torch.load": "optimizer",
        "pytorch_optimizer.base.optimizer.BaseOptimizer": "optimizer",
    }
    for target, group in refused.items():
        with pytest.raises(
            ValueError, match=f"^_target_ {target}.* is not a component that a spec may"
        ):
            locate_target(target, (), group)


@pytest.mark.usefixtures("torchvision")
def test_torchvision_functions_other_than_models_are_rejected() -> None:
    assert callable(locate_target("torchvision.models.resnet18", ()))
    for target in ("torchvision.io.read_image", "torchvision.models._api.load_state_dict_from_url",
                   "torchvision.datasets.utils.download_url"):  # fmt: skip
        with pytest.raises(ValueError, match=f"^_target_ {target}"):
            locate_target(target, ())


@pytest.mark.usefixtures("torchvision")
def test_only_models_and_builders_of_torchvision_are_allowed() -> None:
    for target in ("torchvision.models.ResNet", "torchvision.models.detection.fcos.FCOS",
                   "torchvision.models.vgg.vgg11"):  # fmt: skip
        assert callable(locate_target(target, (), "model"))
    for target in (
        "torchvision.models.get_model", "torchvision.models.get_weight",
        "torchvision.models.resnet.ResNet18_Weights", "torchvision.models.resnet._resnet",
        "torchvision.models.feature_extraction.create_feature_extractor",
        "torchvision.models.feature_extraction.DualGraphModule",
        "torchvision.models._utils.handle_legacy_interface",
    ):  # fmt: skip
        with pytest.raises(
            ValueError, match=f"^_target_ {target} .*not a component that a spec may"
        ):
            locate_target(target, (), "model")
    with pytest.raises(ValueError, match="not a component that a spec may call"):
        locate_target("torchvision.models.resnet18", (), "clip")


@pytest.mark.usefixtures("torchvision")
def test_torchvision_weights_to_be_downloaded_are_rejected(
    composed: Callable[..., RunSpec],
) -> None:
    spec = composed()
    resnet = {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}
    fcn = "torchvision.models.segmentation.fcn_resnet50"
    for model in (
        {**spec.model, "dropout": resnet}, {"_target_": fcn, "weights_backbone": "DEFAULT"}
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^weights\w*: torchvision would download 'DEFAULT'"):
            instantiate.bind_component(spec.with_settings(model=model), "model")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (
            {"_args_": ["IMAGENET1K_V1"]},
            "_target_ torchvision.models.resnet18 could download weights given by position",
        ),
        (
            {"_partial_": True},  # as a layer it would be called with a number of channels
            "_target_ torchvision.models.resnet18 could download weights given by position",
        ),
        (
            {"_target_": "torchvision.models.segmentation.fcn_resnet50"},
            "weights_backbone: torchvision would download ResNet50_Weights.IMAGENET1K_V1; use "
            "weights_backbone: null",
        ),
    ],
    ids=["by position", "later, by position", "unless told otherwise"],
)
def test_implicit_torchvision_downloads_are_rejected(
    composed: Callable[..., RunSpec], node: dict[str, object], problem: str
) -> None:
    """The builders of torchvision take a value in the first place for `weights`, and those of
    detection and segmentation download a backbone where nothing is said."""
    resnet = {"_target_": "torchvision.models.resnet18"}
    spec = composed().with_settings(model={**resnet, "norm_layer": {**resnet, **node}})
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        instantiate.bind_component(spec, "model")


@pytest.mark.usefixtures("torchvision")
def test_nested_torchvision_model_gets_random_weights(composed: Callable[..., RunSpec]) -> None:
    target = "torchvision.models.segmentation.fcn_resnet50"
    inner = {"_target_": target, "weights_backbone": None, "num_classes": 2}
    spec = composed().with_settings(model={"_target_": "torchvision.models.resnet18", "x": inner})
    assert isinstance(instantiate.bind_component(spec, "model").keywords["x"], torch.nn.Module)


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("clip", "recipe.components.tracking.server.server"),
        ("clip", "torch.nn.Linear"),
        ("model", "torch.optim.SGD"),
        ("scheduler", "torch.optim.SGD"),
        ("loss", "recipe.components.model.vgg.vgg"),
    ],
)
def test_target_from_another_group_raises(group: str, target: str) -> None:
    with pytest.raises(
        ValueError, match=f"^_target_ {target} .*not a component that a spec may call"
    ):
        locate_target(target, (), group)


def test_nested_target_supports_keyword_positional_and_partial_arguments(
    composed: Callable[..., RunSpec],
) -> None:
    nodes = [
        "{_target_: torch.nn.Linear, in_features: 2, out_features: 3}",
        "{_target_: torch.nn.Linear, _args_: [2, 3]}",
        "{_target_: torch.nn.Linear, _partial_: true, _args_: [2, 3]}",
    ]
    spec = composed(f"model.widths=[{', '.join(nodes)}]")
    *made, later = instantiate.bind_component(spec, "model").keywords["widths"]
    assert [str(layer) for layer in (*made, later())] == [str(torch.nn.Linear(2, 3))] * 3
    assert spec.model["widths"][1]["_args_"] == [2, 3]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.run",
        "pickle.loads",
        "shutil.rmtree",
        "hydra.utils.instantiate",
        "torch.load",
        "torch.hub.load",
        "torch.save",
        "torch.nn.modules.module.torch.load",
        "torch.optim.optimizer.torch.hub.load",
        "torch.utils.cpp_extension.load",
        "torch.nn.init.ones_",
        "torch.nn.Linear.forward",
        "torch.os.system",
        "recipe.cli.main.main",
        "recipe.cli.main.run_command_line",
        "recipe.nn.weights.read_weights",
        "recipe.components.clip.norm.torch.load",
        "recipe.components.clip.norm.clip_grads_with_norm_",
        "recipe.components.data.cifar10.pickle.loads",
        "recipe.components.data.cifar10._find_files",
        "recipe.components.model.torchvision.suggest_nearest",
        "recipe",
        "torch",
        "",
        "os;system",
        "recipe.components.clip.norm.norm.__globals__",
    ],
)
def test_targets_outside_the_allowlist_are_rejected_by_name(target: str) -> None:
    if target.startswith("recipe."):
        pkgutil.resolve_name(target)  # one that doesn't exist would be rejected for that
    with pytest.raises(ValueError, match=r"^_target_ "):
        locate_target(target, ())


def test_only_targets_in_option_files_are_allowed_from_recipe_modules() -> None:
    for group in GROUPS:
        package = importlib.import_module(f"recipe.components.{group}")
        for module in pkgutil.iter_modules(package.__path__, f"recipe.components.{group}."):
            home = importlib.import_module(module.name)
            for name, found in vars(home).items():
                target = f"{module.name}.{name}"
                if target in builtin_targets(group):
                    assert locate_target(target, (), group) is found
                elif callable(found):
                    with pytest.raises(ValueError, match="not a component that a spec may call"):
                        locate_target(target, (), group)


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"_target_": "os.system"}])
def test_target_other_than_dotted_name_raises(target: object) -> None:
    with pytest.raises(ValueError, match=r"^_target_ must be the dotted name of a callable"):
        locate_target(target, ())


@pytest.mark.usefixtures("packages")
def test_trusted_package_definitions_are_allowed_targets() -> None:
    assert locate_target("minepackage.clip", ["minepackage"]).__name__ == "clip"
    assert issubclass(locate_target("minepackage.Net", ["minepackage"]), torch.nn.Module)  # type: ignore[arg-type]


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    "name", ["system", "os.system", "subprocess.Popen", "model", "nn.Linear", "shell", "NUMBER"]
)
def test_names_imported_by_a_trusted_package_are_rejected(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^_target_ minepackage\.{name} .*not a component that a"
    ):
        locate_target(f"minepackage.{name}", ["minepackage"])


def test_untrusted_package_is_not_imported(packages: Path) -> None:
    message = r"^_target_ strangerpackage\.clip: .* isn't trusted; .* trust=\[strangerpackage\]$"
    with pytest.raises(ValueError, match=message):
        locate_target("strangerpackage.clip", ["minepackage"])
    assert not (packages / "imported").exists() and "strangerpackage" not in sys.modules


def test_unknown_target_raises_with_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"^_target_ torch\.optim\.Adan: .*mean Adam"):
        locate_target("torch.optim.Adan", ())
    with pytest.raises(ValueError, match=r"^_target_ nowhere\.x: there is no module nowhere"):
        locate_target("nowhere.x", ["nowhere"])


@pytest.mark.parametrize("where", ["model.dropout", "model.hidden[0]", "data.size"])
def test_hostile_nested_target_is_rejected_before_construction(
    built: Callable[..., Run], tmp_path: Path, where: str
) -> None:
    evil = f"{{_target_: os.mkdir, path: {tmp_path}/ran}}"
    value = f"[{evil}]" if where.endswith("]") else evil
    with pytest.raises(SpecError, match=r"_target_ os\.mkdir: the package os isn't trusted"):
        built("model=mlp", f"{where.removesuffix('[0]')}={value}")
    assert not (tmp_path / "ran").exists()


def test_single_component_from_untrusted_spec_is_rejected(
    composed: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """As predict does it, which makes the model of a recorded spec and nothing else."""
    evil = f"{{_target_: builtins.open, file: {tmp_path}/ran, mode: w}}"
    path = tmp_path / "spec.yaml"
    path.write_text(composed("model=mlp", f"model.hidden=[{evil}]", "trust=[builtins]").to_yaml())
    spec = RunSpec.from_file(path, trust=[])
    with pytest.raises(ValueError, match=r"^_target_ builtins\.open: .* isn't trusted"):
        instantiate.bind_component(spec, "model")
    assert not (tmp_path / "ran").exists()
