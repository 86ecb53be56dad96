"""Weights that a run starts from: a library's own, by name, from where it keeps what it fetched.

Nothing is downloaded: a file of random numbers lies where torch or huggingface_hub look first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from recipe.components.model.library_weights import IMAGENET_INPUT_FORMAT
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training.run import Run

pytestmark = pytest.mark.usefixtures("torchvision", "photos")

NOWHERE = "http://127.0.0.1:9"

MOBILE = ("model=torchvision", "model.name=mobilenet_v3_small", "model.weights=IMAGENET1K_V1")
TIMM = ("model=timm", "model.name=test_resnet")
FOLDER = ("data=image_folder", "data.path=photos", "data.val=0.5", "data.batch_size=4")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of photographs, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    noise = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "photos" / ("cat", "dog", "owl")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (40, 40, 3), np.uint8)).save(path)


def kept_by_torch(folder: Path, name: str, file: str) -> dict[str, Tensor]:
    """A state_dict of random numbers, where torch keeps that file once it is fetched."""
    from torchvision import models

    weights: dict[str, Tensor] = models.get_model(name, weights=None).state_dict()
    path = folder / "torch" / "hub" / "checkpoints" / file
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    return weights


@pytest.fixture
def mobile(tmp_path: Path) -> dict[str, Tensor]:
    return kept_by_torch(tmp_path, "mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth")


def test_torchvision_weights_are_loaded_and_the_classifier_is_replaced(
    small: Callable[..., RunSpec], built: Callable[..., Run], mobile: dict[str, Tensor]
) -> None:
    run = built(*MOBILE, *FOLDER, "data.size=32")
    own = run.model.state_dict()
    assert own["classifier.3.weight"].shape == (3, 1024)
    for name, value in mobile.items():
        if not name.startswith("classifier.3."):
            assert torch.equal(own[name], value), name
    assert run.initial_weights is not None
    assert run.initial_weights.description == (
        "242 of 244 tensors from torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1; "
        "classifier.3.weight (there (1000, 1024), here (3, 1024)), classifier.3.bias (there "
        "(1000,), here (3,)) start from scratch; made for 224 pixels, mean [0.485, 0.456, 0.406], "
        "std [0.229, 0.224, 0.225], but data.size is 32"
    )


def test_head_initialisation_does_not_depend_on_pretrained_weights(
    built: Callable[..., Run], mobile: dict[str, Tensor]
) -> None:
    with_weights = built(*MOBILE, *FOLDER, "data.size=32")
    without = built(*MOBILE[:2], *FOLDER, "data.size=32")
    for name in ("classifier.3.weight", "classifier.3.bias"):
        assert torch.equal(
            with_weights.model.get_parameter(name), without.model.get_parameter(name)
        )


def test_image_size_and_normalisation_default_to_the_weights(
    tmp_path: Path, built: Callable[..., Run]
) -> None:
    """timm's test_resnet was trained on images of 160 pixels, normalised by 0.5 and 0.5."""
    kept_by_hub(tmp_path)
    run = built(*TIMM, "model.weights=r160_in1k", *FOLDER)
    assert (run.data.size, run.data.mean, run.data.std) == ((160, 160), (0.5,) * 3, (0.5,) * 3)
    assert run.initial_weights is not None and "but data." not in run.initial_weights.description
    stated = built(*TIMM, "model.weights=DEFAULT", *FOLDER, "data.mean=[0.4,0.5,0.5]")
    assert stated.initial_weights is not None
    assert stated.initial_weights.description.endswith(
        "made for 160 pixels, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5], but data.mean is "
        "[0.4, 0.5, 0.5]"
    )
    without = built(*TIMM, *FOLDER, "data.size=32")
    assert without.data.mean == (0.485, 0.456, 0.406)
    gray = built("model.widths=[2,4]", *FOLDER, "data.size=16", "data.channels=1")
    assert (gray.data.mean, gray.data.std) == ((0.449,), (0.226,))


def kept_by_hub(folder: Path) -> dict[str, Tensor]:
    """A file of random numbers, laid out as huggingface_hub keeps what it fetched."""
    import timm
    from huggingface_hub import constants

    made: nn.Module = timm.create_model("test_resnet", pretrained=False)
    weights = made.state_dict()
    home = folder / "hub" / "models--timm--test_resnet.r160_in1k"
    revision = "0" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    (home / "snapshots" / revision).mkdir(parents=True)
    save_file(weights, home / "snapshots" / revision / "model.safetensors")
    patch = pytest.MonkeyPatch()
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    PATCHES.append(patch)
    return weights


PATCHES: list[pytest.MonkeyPatch] = []


@pytest.fixture(autouse=True)
def unpatched() -> Any:
    yield
    while PATCHES:
        PATCHES.pop().undo()


def test_timm_weights_are_loaded_by_tag_or_default(
    tmp_path: Path, built: Callable[..., Run]
) -> None:
    weights = kept_by_hub(tmp_path)
    for source in ("r160_in1k", "DEFAULT"):
        run = built(*TIMM, f"model.weights={source}", *FOLDER, "data.size=32")
        own = run.model.state_dict()
        assert torch.equal(own["conv1.0.weight"], weights["conv1.0.weight"])
        assert own["fc.weight"].shape[0] == 3
        assert run.initial_weights is not None
        assert (
            "tensors from timm test_resnet.r160_in1k; fc.weight" in run.initial_weights.description
        )


def test_weights_that_cannot_be_downloaded_are_reported_in_one_line(tmp_path: Path) -> None:
    (problem,) = commands.rejected(tmp_path, *commands.CPU, *MOBILE, *FOLDER)
    assert problem.startswith(
        "model.weights: torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1 can't be fetched: "
    )
    assert problem.endswith(
        "; connect to the internet, or get https://download.pytorch.org/models/"
        "mobilenet_v3_small-047dcff4.pth elsewhere and give model.weights=<file>"
    )


def test_an_unknown_name_of_weights_is_refused(built: Callable[..., Run]) -> None:
    with pytest.raises(SpecError, match=r"model\.weights.*IMAGENET1K_V9"):
        built(*MOBILE[:2], "model.weights=IMAGENET1K_V9", *FOLDER)


def test_the_same_weights_from_a_file_give_the_same_initial_weights(
    tmp_path: Path, built: Callable[..., Run], mobile: dict[str, Tensor]
) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in mobile.items()}}, "mine.pt")
    by_name = built(*MOBILE, *FOLDER, "data.size=32")
    by_file = built(*MOBILE[:2], "model.weights=mine.pt", *FOLDER, "data.size=32")
    assert by_file.initial_weights is not None and by_file.initial_weights.description.startswith(
        "242 of 244 tensors from"
    )
    for name, value in by_name.model.state_dict().items():
        assert torch.equal(value, by_file.model.state_dict()[name]), name


def test_weights_files_of_older_torchvision_versions_are_loaded(
    tmp_path: Path, built: Callable[..., Run]
) -> None:
    """DenseNet's files have a dot that its modules lack, and no counters."""
    from torchvision import models

    theirs = models.get_model("densenet121", weights=None).state_dict()
    layer = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    old = {layer.sub(r"\1.\2", k): v for k, v in theirs.items() if "num_batches" not in k}
    assert len(old.keys() - theirs.keys()) == 58 * 10
    torch.save(old, "old.pth")
    given = ("model=torchvision", "model.name=densenet121", "model.weights=old.pth")
    run = built(*given, *FOLDER, "data.size=32")
    own = run.model.state_dict()
    for name, value in theirs.items():
        if "num_batches" not in name and not name.startswith("classifier"):
            assert torch.equal(own[name], value), name
    assert run.initial_weights is not None
    assert run.initial_weights.description.startswith(
        "604 of 727 tensors from old.pth; classifier.weight (there"
    )
    assert run.initial_weights.description.endswith(
        "; 121 num_batches_tracked are not there and stay as they are"
    )


def test_one_command_fine_tunes_on_a_folder_and_another_predicts_classes(
    tmp_path: Path, mobile: dict[str, Tensor]
) -> None:
    done = commands.run(
        tmp_path, *commands.CPU, *MOBILE, *FOLDER, "data.size=32", "freeze=all_but_head",
        "loss=class_weights", "evaluation=flip", "epochs=2", "tracking=none",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "Weights: 242 of 244 tensors from torchvision" in done.out
    (run,) = commands.run_dirs(tmp_path)
    assert "242 of 244 tensors" in (run / "plan.txt").read_text().replace("\n", " ")
    seen = commands.run(tmp_path, "predict", f"run={run.name}", "input=photos/owl", "top=3")
    assert seen.status == 0, seen.err
    assert all(name in seen.out for name in ("cat", "dog", "owl"))


@pytest.mark.filterwarnings("ignore:The default weight init:FutureWarning")
def test_auxiliary_classifiers_are_omitted_from_model(
    built: Callable[..., Run], tmp_path: Path
) -> None:
    from torchvision import models

    weights = kept_by_torch(tmp_path, "googlenet", "googlenet-1378be20.pth")
    assert any(name.startswith("aux1.") for name in weights)
    run = built(
        "model=torchvision", "model.name=googlenet", "model.weights=DEFAULT", *FOLDER,
        "data.size=32",
    )  # fmt: skip
    theirs = models.googlenet(num_classes=3, transform_input=True, init_weights=False).eval()
    theirs.load_state_dict(run.model.state_dict(), strict=False)
    mean, std = (
        torch.tensor(each)[:, None, None]
        for each in (IMAGENET_INPUT_FORMAT.mean, IMAGENET_INPUT_FORMAT.std)
    )
    pixels = torch.rand(2, 3, 32, 32)
    run.model.eval()
    # run.data is normalised by the mean and deviation of 0.5 that the weights are made for
    assert (run.data.mean, run.data.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(run.model((pixels - 0.5) / 0.5), theirs((pixels - mean) / std))
