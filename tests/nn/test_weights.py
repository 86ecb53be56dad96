"""Weights on disk: whole or not at all, and nothing but weights."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from recipe.errors import SpecError
from recipe.nn.weights import load_weights, read_weights, save_weights, strip_wrapper_prefixes
from recipe.training.pretrained import KEEP_HEAD_SETTING
from recipe.training.run import Run

OLD = {"weight": torch.tensor([1.0, 2.0])}


def linear(classes: int = 3, inputs: int = 2) -> nn.Module:
    model = nn.Sequential()
    model.add_module("body", nn.Linear(inputs, 4))
    model.add_module("head", nn.Linear(4, classes))
    return model


HEAD = {"head.weight", "head.bias"}


def test_saved_weights_are_read_bit_identical(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 2).T, "count": torch.tensor(7), "half": torch.ones(2).bfloat16()}
    save_weights(weights, tmp_path / "model.safetensors")
    again = read_weights(tmp_path / "model.safetensors")
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype


def test_failed_write_keeps_previous_weights_file(tmp_path: Path) -> None:
    """The system itself stops the write, at 1000 bytes, as a full disk would."""
    path = tmp_path / "model.safetensors"
    save_weights(OLD, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_weights({"weight": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    save_weights({"weight": torch.zeros(10_000)}, path)  # what the failure left is in nobody's way
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert load_file(path)["weight"].shape == (10_000,)


class Code:
    """Unpickling it makes the folder `ran`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_weights_file_with_code_is_rejected_without_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "more": Code()}, "evil.pt")
    with pytest.raises(ValueError, match=r"^evil\.pt: holds more than weights and isn't loaded$"):
        read_weights(Path("evil.pt"))
    assert not Path("ran").exists()
    torch.load("evil.pt", weights_only=False)
    assert Path("ran").exists()  # it would have run


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=rf"{name}: ") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_torch_state_dict_is_read_and_other_content_is_rejected(tmp_path: Path) -> None:
    torch.save(OLD, tmp_path / "good.pt")
    assert torch.equal(read_weights(tmp_path / "good.pt")["weight"], OLD["weight"])
    torch.save({"epoch": 3, "weights": OLD}, tmp_path / "wrapped.pt")
    with pytest.raises(ValueError, match=r"wrapped\.pt: is no state_dict") as caught:
        read_weights(tmp_path / "wrapped.pt")
    assert str(caught.value).endswith(
        "; its keys are epoch, weights; save a state_dict alone or under state_dict or "
        "model_state_dict or model"
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize(
    "prefix",
    [
        "", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.",
        "model._orig_mod.",
    ],
)  # fmt: skip
def test_a_training_scripts_checkpoint_loads_with_any_wrapper_of_its_model(
    tmp_path: Path, key: str, prefix: str
) -> None:
    source, model = linear(), linear()
    wrapped = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save({"epoch": 3, key: wrapped, "optimizer": {"state": {}}}, tmp_path / "theirs.pt")
    weights = strip_wrapper_prefixes(read_weights(tmp_path / "theirs.pt"), model)
    assert load_weights(model, weights, set()).not_loaded == []
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_names_of_the_model_itself_are_not_stripped() -> None:
    model = nn.ModuleDict({"model": linear()})
    assert strip_wrapper_prefixes(model.state_dict(), model).keys() == model.state_dict().keys()
    compiled = {name.replace("body", "body._orig_mod"): t for name, t in model.state_dict().items()}
    assert strip_wrapper_prefixes(compiled, model).keys() == model.state_dict().keys()


def test_missing_batchnorm_counters_keep_model_values() -> None:
    source, model = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    model.load_state_dict(model.state_dict() | {"1.num_batches_tracked": torch.tensor(7)})
    given = {name: t + 1 for name, t in source.state_dict().items() if "tracked" not in name}
    loaded = load_weights(model, given, set())
    assert loaded.missing_counters == ["1.num_batches_tracked"] and len(loaded.loaded) == 6
    own = model.state_dict()
    assert own["1.num_batches_tracked"] == 7
    assert all(torch.equal(own[name], value) for name, value in given.items())


def test_head_with_mismatched_shape_keeps_initial_values() -> None:
    source, model = linear(classes=5), linear(classes=3)
    head = model.state_dict()["head.weight"].clone()
    loaded = load_weights(model, source.state_dict(), HEAD)
    assert (loaded.loaded, loaded.not_loaded) == (
        ["body.bias", "body.weight"],
        ["head.weight", "head.bias"],
    )
    assert torch.equal(model.state_dict()["body.weight"], source.state_dict()["body.weight"])
    assert torch.equal(model.state_dict()["head.weight"], head)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (linear(inputs=3).state_dict(), "does not fit or is missing: body.weight;"),
        ({"head.bias": torch.zeros(3)}, "does not fit or is missing: body.weight, body.bias;"),
        (linear().state_dict() | {"tail": torch.zeros(1)}, "unexpected: tail;"),
    ],
)
def test_other_weight_mismatch_is_named_and_loads_nothing(
    source: dict[str, torch.Tensor], problem: str
) -> None:
    model = linear()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{problem} is it a file of this model"):
        load_weights(model, source, HEAD)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recorded run."""
    home = tmp_path_factory.mktemp("trained")
    assert commands.run(home, *commands.QUICK, "epochs=1", "tracking=none", "name=w").status == 0
    return home


def test_nonfinite_weights_are_rejected_with_their_names(tmp_path: Path, trained: Path) -> None:
    (run,) = commands.run_dirs(trained)
    weights = load_file(run / "model.safetensors")
    first, second = "convolution1_1.weight", "convolution1_1.bias"
    weights[first].flatten()[:2], weights[second].flatten()[0] = float("nan"), float("inf")
    save_file(weights, tmp_path / "diverged.safetensors")
    assert commands.rejected(
        tmp_path, *commands.QUICK, f"model.weights={tmp_path / 'diverged.safetensors'}"
    ) == [
        "model.weights: 3 NaN or infinite values in 2 tensors: convolution1_1.weight, "
        "convolution1_1.bias; the training that they are from diverged, use other weights"
    ]
    bad = tmp_path / "outputs" / "runs" / run.name
    shutil.copytree(run, bad)
    shutil.copy(tmp_path / "diverged.safetensors", bad / "model.safetensors")
    Image.new("L", (8, 8)).save(tmp_path / "digit.png")
    done = commands.run(tmp_path, "predict", "run=w", "input=digit.png")
    assert done.status == 2
    assert done.err.startswith("recipe: run: 3 NaN or infinite values in 2 tensors")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({1: torch.zeros(2)}, "is no state_dict (a dict of dense tensors by parameter name)"),
        ({"head.bias": torch.zeros(2).to_sparse()}, "is no state_dict (a dict of dense"),
        (b"", "can't be read as weights: it is empty or was cut off"),
        (b"words" * 99, "can't be read as weights: it is neither .safetensors nor a state_dict"),
    ],
)
def test_files_without_weights_are_rejected(tmp_path: Path, content: Any, problem: str) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    (told,) = commands.rejected(tmp_path, *commands.QUICK, f"model.weights={file}")
    assert told.startswith(f"model.weights: {file}: {problem}")


def test_integers_for_weights_are_refused(tmp_path: Path, trained: Path) -> None:
    (run,) = commands.run_dirs(trained)
    rounded = {key: value.int() for key, value in load_file(run / "model.safetensors").items()}
    save_file(rounded, tmp_path / "w.safetensors")
    (told,) = commands.rejected(
        tmp_path, *commands.QUICK, f"model.weights={tmp_path / 'w.safetensors'}"
    )
    assert told.startswith("model.weights: int32 where the model has float32: convolution1_1.w")


def test_head_without_class_names_is_reinitialised_unless_kept(
    tmp_path: Path, built: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = built("seed=1").model.state_dict()
    torch.save(other, "w.pt")
    head = {name for name in other if name.startswith("classifier")}
    assert head

    def head_is_loaded(run: Run) -> bool:
        own = run.model.state_dict()
        assert all(torch.equal(own[name], other[name]) for name in other.keys() - head)
        same = {torch.equal(own[name], other[name]) for name in head}
        assert len(same) == 1
        return same == {True}

    new, kept = built("model.weights=w.pt"), built("model.weights=w.pt", KEEP_HEAD_SETTING)
    assert not head_is_loaded(new) and head_is_loaded(kept)
    assert new.initial_weights is not None and kept.initial_weights is not None
    assert new.initial_weights.description.endswith(
        "(there without class names) start from scratch; model.weights_head=keep keeps a head "
        "that was trained for the same classes"
    )
    assert kept.initial_weights.description == f"{len(other)} of {len(other)} tensors from w.pt"
    assert new.initial_weights.fingerprint != kept.initial_weights.fingerprint
    with pytest.raises(SpecError, match=r"^model\.weights_head is keep, but model\.weights is"):
        built(KEEP_HEAD_SETTING)
    with pytest.raises(SpecError, match=r"model\.weights: does not fit or is missing: classifier"):
        built("model.weights=w.pt", KEEP_HEAD_SETTING, "data.classes=4")


def test_weights_file_in_run_folder_uses_class_names_of_run(
    tmp_path: Path, built: Callable[..., Run], trained: Path
) -> None:
    (recorded,) = commands.run_dirs(trained)
    run = tmp_path / recorded.name
    shutil.copytree(recorded, run)
    digits = ("data=digits", "data.train_size=100", "model.widths=[4,8]", "epochs=1")
    given = (*digits, f"model.weights={run / 'model.safetensors'}")
    same = built(*given)
    assert (
        same.initial_weights is not None
        and "start from scratch" not in same.initial_weights.description
    )
    facts = json.loads((run / "data.json").read_text())
    renamed = [f"glyph {name}" for name in facts["classes"]]
    (run / "data.json").write_text(json.dumps(facts | {"classes": renamed}))
    other = built(*given)
    assert (
        other.initial_weights is not None
        and "(other classes) start from scratch" in other.initial_weights.description
    )
