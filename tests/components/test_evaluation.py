"""How validation images are looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recipe.audit.auditor import Audit
from recipe.components.evaluation.flip import flip
from recipe.components.evaluation.plain import plain
from recipe.config.spec import RunSpec
from recipe.training import build
from recipe.training.loop import train
from recipe.training.run import Run


class FirstColumn(nn.Module):
    """Logits: the pixel on the left, and twice it."""

    def forward(self, inputs: Tensor) -> Tensor:
        left = inputs[:, 0, 0, 0]
        return torch.stack([left, 2 * left], 1)


def test_flip_evaluation_averages_logits_of_image_and_mirror_image() -> None:
    image = torch.tensor([[[[1.0, 0.0, 5.0]]]])  # on the left 1, mirrored 5: 3 in the mean
    assert flip(FirstColumn(), image).tolist() == [[3.0, 6.0]]
    assert plain(FirstColumn(), image).tolist() == [[1.0, 2.0]]


def test_flip_evaluation_does_not_change_training(
    small: Callable[..., RunSpec], built: Callable[..., Run]
) -> None:
    spec = small("evaluation=flip", "freeze=by_name", "freeze.names=['*1_*']")
    run, other = build.build(spec), built("freeze=by_name", "freeze.names=['*1_*']")
    with Audit(spec, run) as audit:
        mine = [(audit.check(point), point)[1] for point in train(run)]
    theirs = list(train(other))
    for a, b in zip(mine, theirs, strict=True):
        assert (a.metrics.get("train/loss"), a.step) == (b.metrics.get("train/loss"), b.step)
    assert all(map(torch.equal, run.model.parameters(), other.model.parameters()))
    assert mine[-1].metrics["val/loss"] != theirs[-1].metrics["val/loss"]
    found = {v.group: v for v in audit.results(is_final=True)}["evaluation"]
    assert found.has_passed and found.no_effect_reason is None


def test_flip_evaluation_has_no_effect_on_mirror_symmetric_model(
    small: Callable[..., RunSpec],
) -> None:
    spec = small("evaluation=flip", "data.size=1", "model=mlp", "model.hidden=[4]")
    run = build.build(spec)
    with Audit(spec, run) as audit:
        for point in train(run):
            audit.check(point)
    found = {v.group: v for v in audit.results(is_final=True)}["evaluation"]
    assert found.no_effect_reason == "the outputs are those of a single forward pass"
