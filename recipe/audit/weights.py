"""Frozen parameters and BatchNorm statistics: are they what they were, bit for bit?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recipe.audit.expected import NEVER, Expected
from recipe.data import digest
from recipe.distributed.shards import whole
from recipe.wording import counted


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


@torch.no_grad()
def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models compute the same: parameters, and statistics such as BatchNorm's."""
    if model is other:
        return True
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # counts of batches change no output
    return all(torch.equal(v, theirs[name]) for name, v in own.items() if v.is_floating_point())
