"""Frozen parameters and BatchNorm statistics: are they what they were, bit for bit? And did what is
trained move?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.audit.expected import NEVER_TRAINED, ExpectedTraining
from recipe.components.data import hash_tensors
from recipe.formatting import format_list, format_percent, pluralize
from recipe.nn.sharded import gather_full_tensor, get_local_shard
from recipe.training.run import Run

SAMPLED_VALUES = 64
"""Numbers of every parameter that are compared with what they were at the start."""

MIN_CHANGED_SHARE = 0.1
"""Share of a group's numbers below which a learning rate is too small; of what gets no gradient,
such as words that aren't in the data, some never move."""


class FrozenWeightChecks:
    """Remembers a digest of what is to stay, and compares."""

    def __init__(self, expected: ExpectedTraining, model: nn.Module) -> None:
        self.expected = expected
        self.digests = {
            name: hash_tensors(gather_full_tensor(value))
            for name, value in self._frozen_tensors(model, epoch=0)
        }

    def find_changed(self, model: nn.Module, epoch: int) -> Iterator[str]:
        """What should have stayed up to the end of this epoch (the first is 0), but didn't."""
        for name, value in self._frozen_tensors(model, epoch):
            if hash_tensors(gather_full_tensor(value)) != self.digests[name]:
                what = "statistics of a frozen BatchNorm" if self._is_buffer(name) else "frozen"
                yield f"{name} ({what}) is not what it was at the start"

    def _frozen_tensors(self, model: nn.Module, epoch: int) -> Iterator[tuple[str, Tensor]]:
        names = self.expected.frozen_names(epoch)
        yield from ((name, p) for name, p in model.named_parameters() if name in names)
        for layer, thaw in self.expected.batchnorm_unfreeze_epochs.items():
            if thaw > epoch:
                for name, buffer in model.get_submodule(layer).named_buffers(recurse=False):
                    yield f"{layer}.{name}", buffer

    def _is_buffer(self, name: str) -> bool:
        return name not in self.expected.unfreeze_epochs

    def describe(self) -> str:
        """What is checked, in words."""
        buffers = sum(map(self._is_buffer, self.digests))
        parameters = len(self.digests) - buffers
        if not self.digests:
            return f"all {pluralize(len(self.expected.unfreeze_epochs), 'parameter')} trainable"
        throughout = sum(epoch == NEVER_TRAINED for epoch in self.expected.unfreeze_epochs.values())
        later = f", {parameters - throughout} of them until their epoch" if (
            parameters > throughout
        ) else ""  # fmt: skip
        also = f" and {pluralize(buffers, 'BatchNorm buffer')}" if buffers else ""
        return f"{pluralize(parameters, 'frozen parameter')}{also} bit for bit as before{later}"


class WeightChanges:
    """Compares a sample of what is trained with what it was at the start."""

    def __init__(self, model: nn.Module) -> None:
        self.initial_values = {id(p): _sample_values(p) for p in model.parameters()}

    def find_warning(self, run: Run) -> str | None:
        """What hardly moved though it was trained, if anything: the groups by name, with the
        learning rate that they began with."""
        shares = {
            group["name"]: self._changed_share(group["params"], run)
            for group in run.optimizer.param_groups
            if group["params"]
        }
        still = [name for name, share in shares.items() if share < MIN_CHANGED_SHARE]
        if not still:
            return None
        rates = format_list([f"{run.base_lr[name]:g} ({name})" for name in still])
        during = f"moved in {pluralize(run.position.step, 'step')} at a learning rate of {rates}"
        if not any(shares.values()):
            return f"no weight {during}; this run shows what the model was at its start"
        share = format_percent(max(shares[name] for name in still))
        return (
            f"hardly any weight (at most {share}) of {pluralize(len(still), 'parameter group')} "
            f"{during}; the rate is too small to change a float32 number, or there is no gradient"
        )

    def _changed_share(self, params: list[nn.Parameter], run: Run) -> float:
        """Share of the numbers that changed, of matrices where there are any: what starts at 0,
        as biases do, is moved by any learning rate."""
        chosen = [p for p in params if p.ndim > 1] or params
        counts = torch.zeros(2, device=run.device)
        for p in chosen:
            start = self.initial_values[id(p)]
            counts[0] += (start != _sample_values(p)).sum()
            counts[1] += start.numel()
        moved, of = run.collectives.all_reduce_sum(counts).tolist()
        return float(moved / max(of, 1))


def _sample_values(parameter: nn.Parameter) -> Tensor:
    """Some of a parameter's numbers, of this process's part; always the same ones."""
    values = get_local_shard(parameter.detach()).flatten()
    if values.numel() > SAMPLED_VALUES:
        places = torch.randint(
            values.numel(), (SAMPLED_VALUES,), generator=torch.Generator().manual_seed(0)
        )
        values = values[places.to(values.device)]
    return values.clone()


@torch.no_grad()
def has_same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models compute the same: parameters, and statistics such as BatchNorm's."""
    if model is other:
        return True
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # counts of batches change no output
    return all(torch.equal(v, theirs[name]) for name, v in own.items() if v.is_floating_point())
