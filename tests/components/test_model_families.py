"""The tricks that name layers, on six families of models as two libraries write them."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
from library_models import MODELS, foreign

from recipe.components.freeze.all_but_head import all_but_head
from recipe.components.freeze.first_layers import first_layers
from recipe.components.param_groups.head_faster import head_faster
from recipe.components.param_groups.layer_decay import layer_decay
from recipe.nn import layers

pytestmark = pytest.mark.usefixtures("torchvision")

LITTLE = (
    *commands.CPU, "data=random", "data.channels=3", "data.classes=7", "data.n_train=16",
    "data.n_val=8", "data.batch_size=8", "epochs=1", "tracking=none",
)  # fmt: skip
"""Two steps."""


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_first_layers_and_all_but_head_freeze_every_model_family(library: str, name: str) -> None:
    model = foreign(library, name)
    ordered = layers.find_layers(model)
    first_layers(model, count=3)
    frozen = {n for n, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for layer in ordered[:3] for n in layer.parameters}
    all_but_head(model, head="auto")
    trained = [n for n, parameter in model.named_parameters() if parameter.requires_grad]
    weight, bias = (model.get_parameter(n) for n in trained)
    assert trained == [f"{ordered[-1].name}.weight", f"{ordered[-1].name}.bias"]
    assert (len(weight), len(bias)) == (7, 7)


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_layer_decay_rates_increase_towards_the_head(library: str, name: str) -> None:
    model = foreign(library, name)
    groups = layer_decay(model, lr=1.0, decay=0.5)
    assert [group["lr"] for group in groups] == [0.5**k for k in reversed(range(len(groups)))]
    assert 8 < len(groups) < 21  # by block: an EfficientNet has 82 layers
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    rest, head = head_faster(model, lr=1.0, factor=3.0, head="auto")
    assert (rest["lr"], head["lr"], len(head["params"])) == (1.0, 3.0, 2)


@pytest.mark.parametrize(
    ("library", "name"),
    [
        pytest.param(*model, marks=[] if model[1] == "mobilenetv3_small_050" else pytest.mark.long)
        for model in MODELS
    ],
)
def test_frozen_model_trains_and_its_summary_counts_all_parameters(
    tmp_path: Path, library: str, name: str
) -> None:
    size = 224 if name.startswith("vit") else 64
    line = (*LITTLE, f"model={library}", f"model.name={name}", f"data.size={size}")
    tricks = ("freeze=first_layers", "freeze.count=3", "param_groups=layer_decay")
    done = commands.run(tmp_path, *line, *tricks)
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(tmp_path)
    trained = sum(parameter.numel() for parameter in foreign(library, name).parameters())
    summary = (run / "summary.txt").read_text()
    assert f"Total params: {trained:,}" in summary
    (held,) = {
        value
        for point in commands.read_lines(run / "metrics.jsonl")
        for key, value in point["metrics"].items()
        if key == "audit/freeze"
    }
    assert held == 1.0
