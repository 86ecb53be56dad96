"""A run that was put back where it stood ends as one that was never stopped, bit for bit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
from nonfinite_model import skipping
from resumed_runs import ended, numbers, stopped

from recipe.checkpoint.state import restore_state, to_plain_data
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError
from recipe.training.build import build

CASES = {
    "dropout and an average": ["model.dropout=0.5", "average=ema", "clip=norm"],
    "thawing layers": [
        "model.batchnorm=true", "epochs=3", "optimizer.momentum=0.9",
        "freeze=gradual",
        "freeze.stages=[{epoch: 1, names: ['convolution2_*','batchnorm2_*']},"
        "{epoch: 2, names: ['convolution1_*','batchnorm1_*']}]",
    ],
    "frozen layers and their statistics": [
        "model.batchnorm=true", "freeze=vgg_first2", "param_groups=head_faster", "optimizer=adamw",
        "scheduler=one_cycle",
    ],
    "groups and a plateau": [
        "epochs=4", "param_groups=vgg_conv1", "scheduler=plateau", "scheduler.patience=0",
        "augment=mixup", "loss=cross_entropy", "loss.takes=[indices,probabilities]",
    ],
    "stochastic weight averaging": [
        "epochs=4", "model.batchnorm=true", "average=swa", "average.start=0.5",
        "augment=flip_crop", "scheduler=warmup_cosine", "scheduler.per=step", "optimizer=adam",
    ],
    "16 bits and mixed images": [
        "precision=bf16", "augment=mixup", "loss=label_smoothing", "average=ema",
    ],
    "an optimizer of another library, with thawing layers": [
        "optimizer=lion", "optimizer.weight_decay=0.1", "epochs=3", "param_groups=head_faster",
        "freeze=gradual", "freeze.stages=[{epoch: 1, names: ['convolution*']}]",
    ],
    "batches that are left out": [*skipping("nan", "average=swa"), "epochs=2"],
}  # fmt: skip

Compose = Callable[..., RunSpec]


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_a_run_stopped_after_any_event_ends_as_one_that_was_not(small: Compose, name: str) -> None:
    spec = small(*CASES[name])
    points, state = ended(spec, None)
    assert len(points) == 4 * spec.epochs  # 3 steps and an evaluation
    for after in range(1, len(points) + 1):
        first, saved = stopped(spec, after)
        rest, end = ended(spec, saved)
        assert numbers(first + rest) == numbers(points), after
        assert end == state, after


@pytest.mark.long
def test_stochastic_depth_resumes_its_random_stream(small: Compose, torchvision: None) -> None:
    spec = small(
        "epochs=1", "data=random", "data.n_train=20", "data.n_val=10", "data.channels=3",
        "data.size=32", "data.classes=3", "data.batch_size=8", "data.eval_batch_size=10",
        "model=torchvision", "model.name=efficientnet_b0", "optimizer.lr=1e-4",
    )  # fmt: skip
    points, state = ended(spec, None)
    first, saved = stopped(spec, 2)
    rest, end = ended(spec, saved)
    assert numbers(first + rest) == numbers(points)
    assert end == state


OWN_CLIP = """
import torch
from torch import Tensor

from recipe.components.contract import needs_model


@needs_model
class Auto:
    \"\"\"Clips to the median norm so far.\"\"\"

    def __init__(self, model, *, share: float):
        self.share, self.norms = share, []

    def __call__(self, params) -> RETURNS:
        gradients = [p.grad for p in params]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.norms.append(float(norm))
        limit = self.share * sorted(self.norms)[len(self.norms) // 2]
        torch.nn.utils.clip_grads_with_norm_(params, limit, norm)
        return RETURNED

    def state_dict(self):
        return {"norms": self.norms}

    def load_state_dict(self, state):
        self.norms = state["norms"]
"""


@pytest.mark.parametrize(
    ("returns", "returned"), [("Tensor", "norm"), ("tuple[Tensor, Tensor]", "(norm, norm > limit)")]
)
def test_the_state_of_a_users_clip_is_restored(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: str, returned: str
) -> None:
    code = OWN_CLIP.replace("RETURNS", returns).replace("RETURNED", returned)
    option = "_target_: own_parts.Auto\nshare: 0.5\n"
    commands.project(tmp_path, {"own_parts.py": code, "conf/clip/auto.yaml": option})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    spec = small("trust=[own_parts]", "clip=auto")
    points, state = ended(spec, None)
    for after in (2, 5):
        first, saved = stopped(spec, after)
        rest, end = ended(spec, saved)
        assert numbers(first + rest) == numbers(points)
        assert end == state


def test_an_unfrozen_layer_keeps_its_momentum(small: Compose) -> None:
    """Two layers of one shape: by position, one would get what belongs to the other."""
    spec = small(
        "epochs=2", "model=mlp", "model.hidden=[8,8,8]", "optimizer.momentum=0.9",
        "freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*1.*']}]",
    )  # fmt: skip
    _, saved = stopped(spec, 6)
    run = build(spec)
    restore_state(run, saved["run"])
    names = {id(p): name for name, p in run.model.named_parameters()}
    for parameter, state in run.optimizer.state.items():
        expected = saved["run"]["optimizer"]["state"][names[id(parameter)]]
        assert torch.equal(state["momentum_buffer"], expected["momentum_buffer"])
    assert len(run.optimizer.state) == len(names)


def test_a_changed_freeze_is_refused(small: Compose) -> None:
    _, saved = stopped(small("freeze=vgg_first2"), 2)
    with pytest.raises(RecipeError, match="other parameters are trained, or"):
        restore_state(build(small()), saved["run"])


def test_state_that_is_not_plain_data_is_named() -> None:
    with pytest.raises(RecipeError, match=r"parts\.clip\.seen\[0\] is a set"):
        to_plain_data({"clip": {"seen": [{1}]}}, "parts")
    with pytest.raises(RecipeError, match=r"has the key \(1, 2\)"):
        to_plain_data({(1, 2): 0}, "scheduler")
