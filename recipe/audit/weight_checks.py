"""Checks that frozen parameters and statistics are unchanged, and that trained ones are not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.audit.expected_training import NEVER_TRAINED, ExpectedTraining
from recipe.components.data import hash_tensors
from recipe.formatting import format_list, format_percent, pluralize
from recipe.nn.sharded import gather_full_tensor, get_local_shard
from recipe.training.run import Run

SAMPLED_VALUES = 64

MIN_CHANGED_SHARE = 0.1
"""Below this share of changed values the learning rate of a group is too small. Not 1, as some
values never get a gradient, such as embeddings of words that are not in the data."""


class FrozenWeightChecks:
    """Compares hashes of what is frozen with those at the start."""

    def __init__(self, expected: ExpectedTraining, model: nn.Module) -> None:
        self.expected = expected
        self.digests = {
            name: hash_tensors(gather_full_tensor(value))
            for name, value in self._frozen_tensors(model, epoch=0)
        }

    def find_changed(self, model: nn.Module, epoch: int) -> Iterator[str]:
        """Tensors that changed though they are frozen up to this epoch; the first epoch is 0."""
        for name, value in self._frozen_tensors(model, epoch):
            if hash_tensors(gather_full_tensor(value)) != self.digests[name]:
                what = "statistics of a frozen BatchNorm" if self._is_buffer(name) else "frozen"
                yield f"{name} ({what}) has changed since the start"

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
        buffers = sum(map(self._is_buffer, self.digests))
        parameters = len(self.digests) - buffers
        if not self.digests:
            return f"all {pluralize(len(self.expected.unfreeze_epochs), 'parameter')} trainable"
        throughout = sum(epoch == NEVER_TRAINED for epoch in self.expected.unfreeze_epochs.values())
        later = f", {parameters - throughout} of them until their epoch" if (
            parameters > throughout
        ) else ""  # fmt: skip
        also = f" and {pluralize(buffers, 'BatchNorm buffer')}" if buffers else ""
        return f"{pluralize(parameters, 'frozen parameter')}{also} unchanged{later}"


class WeightChanges:
    """Compares a sample of the trained values with those at the start."""

    def __init__(self, model: nn.Module) -> None:
        self.initial_values = {id(p): _sample_values(p) for p in model.parameters()}

    def find_warning(self, run: Run) -> str | None:
        """Names the groups that hardly changed, with their initial learning rates."""
        shares = {
            group["name"]: self._changed_share(group["params"], run)
            for group in run.optimizer.param_groups
            if group["params"]
        }
        still = [name for name, share in shares.items() if share < MIN_CHANGED_SHARE]
        if not still:
            return None
        rates = format_list([f"{run.base_lr[name]:g} ({name})" for name in still])
        during = f"changed in {pluralize(run.position.step, 'step')} at a learning rate of {rates}"
        if not any(shares.values()):
            return f"no weight {during}; the results are those of the initial model"
        share = format_percent(max(shares[name] for name in still))
        return (
            f"hardly any weight (at most {share}) of {pluralize(len(still), 'parameter group')} "
            f"{during}; the rate is too small to change a float32 number, or there is no gradient"
        )

    def _changed_share(self, params: list[nn.Parameter], run: Run) -> float:
        """Share of changed values, of matrices if there are any: biases that start at 0 change with
        any learning rate."""
        chosen = [p for p in params if p.ndim > 1] or params
        counts = torch.zeros(2, device=run.device)
        for p in chosen:
            start = self.initial_values[id(p)]
            counts[0] += (start != _sample_values(p)).sum()
            counts[1] += start.numel()
        moved, of = run.collectives.all_reduce_sum(counts).tolist()
        return float(moved / max(of, 1))


def _sample_values(parameter: nn.Parameter) -> Tensor:
    """A fixed random sample of a parameter's local values."""
    values = get_local_shard(parameter.detach()).flatten()
    if values.numel() > SAMPLED_VALUES:
        places = torch.randint(
            values.numel(), (SAMPLED_VALUES,), generator=torch.Generator().manual_seed(0)
        )
        values = values[places.to(values.device)]
    return values.clone()


@torch.no_grad()
def has_same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Whether parameters and floating-point buffers are equal."""
    if model is other:
        return True
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # counts of batches change no output
    return all(torch.equal(v, theirs[name]) for name, v in own.items() if v.is_floating_point())
