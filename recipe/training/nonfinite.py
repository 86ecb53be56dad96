"""NaN and infinity: found before they reach the weights, and told with where they began.

A training batch whose loss or gradient isn't finite ends the run, or is left out
(`on_nonfinite=skip`): then weights, buffers, the optimizer's state, the scaler, the schedule and
the average are what they would be without it; only the random streams have been drawn from, and
it is one of the steps of which `clip/hit_rate` is a share.
An evaluation can't be left out: one whose loss isn't finite, or that is of weights which aren't,
ends the run in either case, so what is kept as best is always finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipe.errors import RecipeError
from recipe.formatting import counted, listed
from recipe.nn.locate_nonfinite import Found

Policy = Literal["stop", "skip"]

SHOWN = 4
"""Samples of a batch that are named."""


class NonFinite(RecipeError):
    """A loss, gradient or weight that is no finite number."""

    def __init__(self, what: str, found: Found, way_out: str = "") -> None:
        self.what, self.found = what, found
        self.way_out = way_out or found.advice
        self.where = self.kept = ""
        self.place: dict[str, Any] = {}
        super().__init__("")
        self._tell()

    def in_training(
        self, step: int, epoch: int, batch: int, samples: list[int], names: list[str]
    ) -> NonFinite:
        """With the place in the run, counted from 1; `batch` is that of the epoch, `samples` are
        indices into the training part, `names` what they are called there, if anything."""
        return self._at(
            f"step {step} (epoch {epoch}, batch {batch})",
            {"step": step, "epoch": epoch, "batch": batch, "part": "training"}, samples, names,
        )  # fmt: skip

    def in_evaluation(
        self, step: int, epoch: int, batch: int, samples: list[int], names: list[str]
    ) -> NonFinite:
        """Likewise; `batch` is that of the evaluation after the epoch, 0 if it is in none."""
        where = f"step {step}, batch {batch}" if batch else f"step {step}"
        return self._at(
            f"evaluation after epoch {epoch} ({where})",
            {"step": step, "epoch": epoch, "batch": batch, "part": "validation"}, samples, names,
        )  # fmt: skip

    def _at(
        self, where: str, place: dict[str, Any], samples: list[int], names: list[str]
    ) -> NonFinite:
        wrong = [samples[row] for row in self.found.rows]
        self.place = {**place, "samples": samples, "not_finite": wrong}
        if names:
            self.place["names"] = names
        self.where = where
        self._tell()
        return self

    def keep(self, kept: str) -> None:
        """What there is to go on from, as told in the message."""
        self.kept = kept
        self._tell()

    def facts(self) -> dict[str, Any]:
        """All that is known, for the record."""
        return {
            "what": self.what, "where": self.found.where, "layer": self.found.layer, **self.place,
            "kept": self.kept,
        }  # fmt: skip

    def _tell(self) -> None:
        head = f"{self.where}: {self.what}" if self.where else self.what
        parts = [head, self.found.where + self._samples(), self.kept, self.way_out]
        self.problems = ["; ".join(filter(None, parts))]

    def _samples(self) -> str:
        samples = self.place.get("samples", [])
        if not samples:
            return ""
        wrong = self.place["not_finite"] or samples
        names = dict(zip(samples, self.place.get("names", []), strict=False))
        shown = listed([f"{i} ({names[i]})" if i in names else i for i in wrong], SHOWN)
        which = f"{self.place['part']} sample{'s' if len(wrong) > 1 else ''} {shown}"
        if not self.place["not_finite"]:
            return f" (the batch is {which})"
        many = "all" if len(wrong) == len(samples) else f"{len(wrong)} of"
        return f", in {many} {counted(len(samples), 'sample')} ({which})"

    def __str__(self) -> str:
        return self.problems[0]


class Guard:
    """What is done about a batch that gives a loss or gradient that isn't finite."""

    def __init__(self, policy: Policy, limit: int) -> None:
        self.policy, self.limit = policy, limit
        """Batches that may be skipped in a run."""
        self.skipped = 0
        self._streams: list[tuple[torch.Generator, Tensor]] = []
        self._owners: list[tuple[dict[str, Tensor | None], str]] | None = None
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        self._kept: list[Tensor] = []

    def before_step(self, model: nn.Module, device: torch.device) -> None:
        """Remembers torch's random streams, so a bad step can be traced, and, if it may have to be
        taken back, what the forward pass moves."""
        generators = [torch.default_generator]
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            generators.append(torch.cuda.default_generators[number])
        self._streams = [(generator, generator.get_state()) for generator in generators]
        if self.policy == "skip":
            self._keep_buffers(model)

    def refuses(self, loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler) -> bool:
        """Whether loss (shape ()) or gradient norm (shape ()) must not reach the weights.

        A gradient that overflowed because its loss was scaled up is the scaler's business. Waits
        for the device: after the optimizer's step it would be too late.
        """
        if math.isfinite(loss.item()) and math.isfinite(norm.item()):
            return False
        return not (scaler.is_enabled() and math.isfinite(loss.item()) and scaler.get_scale() > 1)

    def leave_out(
        self,
        loss: Tensor,
        norm: Tensor,
        scaler: torch.amp.GradScaler,
        trace: Callable[[Callable[[], None]], Found],
    ) -> None:
        """Takes the batch back, if it may be skipped; else raises NonFinite."""
        what = f"the loss is {loss:g}"
        if math.isfinite(loss.item()):
            what = f"the norm of the gradients is {norm:g}"
        if self.policy == "stop":
            found = trace(self.rewind)
            raise NonFinite(
                what, found, f"{found.advice}; on_nonfinite=skip leaves such batches out"
            )
        self._restore_buffers()
        if self.skipped == self.limit:
            what += f", and as many batches as nonfinite_limit={self.limit} allows are left out"
            raise NonFinite(what, trace(self.rewind))
        self.skipped += 1
        if scaler.is_enabled():
            scaler.update(scaler.get_scale())  # ready for the next step, at the same scale

    def rewind(self) -> None:
        """Puts torch's random streams where this step found them."""
        for generator, state in self._streams:
            generator.set_state(state)

    def _keep_buffers(self, model: nn.Module) -> None:
        if self._owners is None:
            modules = [module._buffers for module in model.modules()]
            self._owners = [(owner, name) for owner in modules for name in owner]
        before = self._buffers
        self._buffers = [
            (owner, name, buffer)
            for owner, name in self._owners
            if (buffer := owner.get(name)) is not None
        ]
        now = [buffer for _, _, buffer in self._buffers]
        if (
            now
            and len(now) == len(before)
            and all(new is old for new, (_, _, old) in zip(now, before, strict=True))
        ):
            torch._foreach_copy_(self._kept, now)  # a quarter of what cloning costs
        else:
            self._kept = [buffer.detach().clone() for buffer in now]

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        """One that the forward pass replaced by another tensor is put back, too."""
        for (owner, name, buffer), value in zip(self._buffers, self._kept, strict=True):
            owner[name] = buffer
            buffer.copy_(value)
