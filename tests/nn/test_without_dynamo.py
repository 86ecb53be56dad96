"""Runs do without torch's compiler, and optimizers step as they do with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from recipe.nn import without_dynamo

MAKES: dict[str, Callable[[list[torch.Tensor]], Optimizer]] = {
    "sgd": lambda weights: SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda weights: Adam(weights, lr=0.1),
    "adamw, fused": lambda weights: AdamW(weights, lr=0.1, fused=True),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_step_is_bit_identical_to_torchs(make: Callable[[list[torch.Tensor]], Optimizer]) -> None:
    ends, counts = [], []
    for spared in (False, True):
        torch.manual_seed(0)
        weights = [torch.randn(5, requires_grad=True), torch.randn(3, 2, requires_grad=True)]
        optimizer = make(weights)
        if spared:
            without_dynamo.replace_optimizer_step(optimizer)
        called: list[str] = []
        optimizer.register_step_pre_hook(lambda *_, to=called: to.append("pre"))
        optimizer.register_step_post_hook(lambda *_, to=called: to.append("post"))
        schedule = StepLR(optimizer, 1, gamma=0.5)  # warns if it doesn't see the steps
        for _ in range(3):
            torch.stack([(weight**2).sum() for weight in weights]).sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        assert optimizer.step(lambda: 7.0) == 7.0
        ends.append([weight.detach().clone() for weight in weights])
        counts.append(called)
    assert all(map(torch.equal, *ends))
    assert counts == [["pre", "post"] * 4] * 2


RUN = """
import sys
from recipe.cli import main
status = main.run_command_line(sys.argv[1:])
print("compiler:", "torch._dynamo" in sys.modules)
sys.exit(status)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "options", [(), ("optimizer=adamw", "scheduler=step", "average=ema"), ("freeze=all_but_head",)]
)
def test_run_does_not_import_torch_compiler(tmp_path: Path, options: tuple[str, ...]) -> None:
    given = ("-c", RUN, *commands.QUICK, *options, "tracking=none")
    done = commands.spawn(tmp_path, *given, program=(sys.executable,))
    assert (done.status, done.err) == (0, "")
    assert "compiler: False" in done.out
