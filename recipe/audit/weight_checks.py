"""Frozen parameters and BatchNorm statistics: are they what they were, bit for bit? And did what is
trained move?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.audit.expected import NEVER, Expected
from recipe.components.data import digest
from recipe.formatting import counted, listed, percent
from recipe.nn.sharded import own, whole
from recipe.training.run import Run

SAMPLES = 64
"""Numbers of every parameter that are compared with what they were at the start."""

FEW_MOVED = 0.1
"""Share of a group's numbers below which a learning rate is too small; of what gets no gradient,
such as words that aren't in the data, some never move."""


class Weights:
    """Remembers a digest of what is to stay, and compares."""

    def __init__(self, expected: Expected, model: nn.Module) -> None:
        self.expected = expected
        self.digests = {name: digest(whole(value)) for name, value in self._still(model, epoch=0)}

    def moved(self, model: nn.Module, epoch: int) -> Iterator[str]:
        """What should have stayed up to the end of this epoch (the first is 0), but didn't."""
        for name, value in self._still(model, epoch):
            if digest(whole(value)) != self.digests[name]:
                what = "statistics of a frozen BatchNorm" if self._is_buffer(name) else "frozen"
                yield f"{name} ({what}) is not what it was at the start"

    def _still(self, model: nn.Module, epoch: int) -> Iterator[tuple[str, Tensor]]:
        names = self.expected.frozen(epoch)
        yield from ((name, p) for name, p in model.named_parameters() if name in names)
        for layer, thaw in self.expected.batchnorms.items():
            if thaw > epoch:
                for name, buffer in model.get_submodule(layer).named_buffers(recurse=False):
                    yield f"{layer}.{name}", buffer

    def _is_buffer(self, name: str) -> bool:
        return name not in self.expected.thaws

    def said(self) -> str:
        """What is checked, in words."""
        buffers = sum(map(self._is_buffer, self.digests))
        parameters = len(self.digests) - buffers
        if not self.digests:
            return f"all {counted(len(self.expected.thaws), 'parameter')} trainable"
        throughout = sum(epoch == NEVER for epoch in self.expected.thaws.values())
        later = f", {parameters - throughout} of them until their epoch" if (
            parameters > throughout
        ) else ""  # fmt: skip
        also = f" and {counted(buffers, 'BatchNorm buffer')}" if buffers else ""
        return f"{counted(parameters, 'frozen parameter')}{also} bit for bit as before{later}"


class Movement:
    """Compares a sample of what is trained with what it was at the start."""

    def __init__(self, model: nn.Module) -> None:
        self.start = {id(p): _sample(p) for p in model.parameters()}

    def caution(self, run: Run) -> str | None:
        """What hardly moved though it was trained, if anything: the groups by name, with the
        learning rate that they began with."""
        shares = {
            group["name"]: self._share(group["params"], run)
            for group in run.optimizer.param_groups
            if group["params"]
        }
        still = [name for name, share in shares.items() if share < FEW_MOVED]
        if not still:
            return None
        rates = listed([f"{run.base_lr[name]:g} ({name})" for name in still])
        during = f"moved in {counted(run.at.step, 'step')} at a learning rate of {rates}"
        if not any(shares.values()):
            return f"no weight {during}; this run shows what the model was at its start"
        share = percent(max(shares[name] for name in still))
        return (
            f"hardly any weight (at most {share}) of {counted(len(still), 'parameter group')} "
            f"{during}; the rate is too small to change a float32 number, or there is no gradient"
        )

    def _share(self, params: list[nn.Parameter], run: Run) -> float:
        """Share of the numbers that changed, of matrices where there are any: what starts at 0,
        as biases do, is moved by any learning rate."""
        chosen = [p for p in params if p.ndim > 1] or params
        counts = torch.zeros(2, device=run.device)
        for p in chosen:
            start = self.start[id(p)]
            counts[0] += (start != _sample(p)).sum()
            counts[1] += start.numel()
        moved, of = run.ranks.total(counts).tolist()
        return float(moved / max(of, 1))


def _sample(parameter: nn.Parameter) -> Tensor:
    """Some of a parameter's numbers, of this process's part; always the same ones."""
    values = own(parameter.detach()).flatten()
    if values.numel() > SAMPLES:
        places = torch.randint(
            values.numel(), (SAMPLES,), generator=torch.Generator().manual_seed(0)
        )
        values = values[places.to(values.device)]
    return values.clone()


@torch.no_grad()
def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models compute the same: parameters, and statistics such as BatchNorm's."""
    if model is other:
        return True
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # counts of batches change no output
    return all(torch.equal(v, theirs[name]) for name, v in own.items() if v.is_floating_point())
