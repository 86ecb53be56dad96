"""Every option file of conf/: it says what it is, and it trains."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trainable_options

from recipe.config import option_files
from recipe.config.groups import GROUPS, OFF_OPTIONS
from recipe.config.instantiate import bind_component
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training.loop import train
from recipe.training.run import Run

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name in GROUPS)
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))


def label(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small data in the working directory."""
    monkeypatch.chdir(tmp_path)
    trainable_options.write(tmp_path)


def missing_hardware(option: str) -> str | None:
    """How a run without the option's hardware is refused; None if it is there."""
    cuda = torch.cuda.is_available()
    wanted = {
        "device=gpu": (cuda, r"^device\.order: there is no GPU 0 .*use device=auto"),
        "device=mps": (torch.backends.mps.is_available(), r"^device=mps: .* no Apple GPU; use"),
        "precision=fp16": (False, r"^precision=fp16 needs a GPU.*use precision=bf16"),
    }
    there, refusal = wanted.get(option, (True, ""))
    return None if there else refusal


@pytest.mark.integration
@pytest.mark.usefixtures("files", "torchvision")
@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_option_trains_with_finite_metrics(built: Callable[..., Run], path: Path) -> None:
    """Two epochs of at least one step, and every number it gives is a number."""
    option = label(path)
    overrides = [option, *trainable_options.NEEDS.get(option, [])]
    overrides += [
        text for needed in overrides[1:] for text in trainable_options.NEEDS.get(needed, [])
    ]
    if path.parent.name == "data":
        overrides += ["epochs=2", *([] if option != "data=random" else ["data.batch_size=10"])]
    if path.parent.name == "tracking":
        overrides += ["epochs=1"]
    refusal = missing_hardware(option)
    if refusal is not None:
        with pytest.raises(SpecError, match=refusal) as caught:
            built(*overrides)
        assert len(caught.value.problems) == 1 and "\n" not in caught.value.problems[0]
        return
    run = built(*overrides)
    points = list(train(run))
    assert points[-1].is_epoch_end and points[-1].step == run.total_steps >= 2
    for point in points:
        assert all(math.isfinite(value) for value in point.metrics.values())


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("data", "shape"), [("data=arrays", (1, 8)), ("data=cifar10", (3, 32)), ("data=digits", (3, 8))]
)
def test_model_input_shape_follows_data(
    built: Callable[..., Run], data: str, shape: tuple[int, int]
) -> None:
    more = ["data.channels=3"] if data == "data=digits" else []
    run = built(
        data, *trainable_options.NEEDS[data], *more, "model=mlp", "model.hidden=[4]", "epochs=1"
    )
    channels, size = shape
    assert run.model.get_parameter("linear1.weight").shape == (4, channels * size * size)
    assert len(list(train(run))) >= 2


def test_every_group_has_options_including_its_off_option() -> None:
    found = {label(path) for path in FILES}
    assert {path.parent.name for path in FILES} == set(GROUPS)
    assert {f"{group}={off}" for group, off in OFF_OPTIONS.items()} <= found


@pytest.mark.parametrize("path", [*FILES, *EXPERIMENTS], ids=label)
def test_option_file_starts_with_one_line_description(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.fullmatch(r"# [A-Z0-9].{10,98}\.", lines[0]), lines[0]
    assert not lines[1].startswith("#") or path in EXPERIMENTS


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_setting_has_descriptive_comment(path: Path) -> None:
    inherited = option_files.Option(path.parent.name, path.stem, path).keys - {path.parent.name}
    notes = option_files.read_comments(path.parent.name, path.stem)
    assert {key for key in inherited if not notes.get(key)} <= {"names", "optimizer"}
    for line in path.read_text().splitlines():
        setting = re.match(r"\s*(\w+):\s*\S", line)
        if setting and setting[1] not in ("_target_", "defaults", "names"):
            assert re.search(r"\s# \S", line), line


@pytest.mark.parametrize("path", sorted((CONF / "tracking").glob("*.yaml")), ids=label)
def test_tracking_option_sets_uri(
    composed: Callable[..., RunSpec], tmp_path: Path, path: Path
) -> None:
    tracking = bind_component(composed(label(path)), "tracking")(tmp_path)
    assert tracking.uri == {
        "local": f"sqlite:///{tmp_path}/mlflow.db",
        "none": None,
        "server": "http://127.0.0.1:5000",
    }.get(path.stem, tracking.uri)
