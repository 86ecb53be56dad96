"""NaN and infinity: detected before they reach the weights, and reported with their origin.

A training batch whose loss or gradient is not finite ends the run, or is skipped
(`on_nonfinite=skip`): then weights, buffers, optimizer state, scaler, schedule and average are as
without it; only the random streams advance, and it counts as a step in `clip/hit_rate`.
An evaluation with a loss or weights that are not finite always ends the run, so that the best
weights are finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipe.components.data import Split, readable_indices
from recipe.errors import RecipeError
from recipe.formatting import escape_unprintable, format_list, pluralize
from recipe.nn.locate_nonfinite import NonFiniteLocation

NonFinitePolicy = Literal["stop", "skip"]

MAX_LISTED_SAMPLES = 4


class NonFiniteError(RecipeError):
    """A loss, gradient or weight is not finite."""

    def __init__(self, what: str, found: NonFiniteLocation, way_out: str = "") -> None:
        self.summary, self.origin = what, found
        self.way_out = way_out or found.advice
        self.where = self.resume_hint = ""
        self.location: dict[str, Any] = {}
        super().__init__("")
        self._update_message()

    def set_location(
        self,
        part: Literal["training", "validation"],
        step: int,
        epoch: int,
        batch: int,
        split: Split,
        indices: Tensor | None,
    ) -> None:
        """Adds the position, counted from 1 (`batch` within the epoch or evaluation, 0 if it is in
        none), and the batch's samples by their indices in the split."""
        samples = [] if indices is None else readable_indices(split, indices.tolist())
        self.location = {
            "step": step, "epoch": epoch, "batch": batch, "part": part, "samples": samples,
            "not_finite": [samples[row] for row in self.origin.sample_rows],
        }  # fmt: skip
        if samples and split.file_names:
            self.location["names"] = [escape_unprintable(split.file_names[n]) for n in samples]
        self.where = f"step {step} (epoch {epoch}, batch {batch})"
        if part == "validation":
            where = f"step {step}, batch {batch}" if batch else f"step {step}"
            self.where = f"evaluation after epoch {epoch} ({where})"
        self._update_message()

    def set_resume_hint(self, kept: str) -> None:
        """Adds to the message what the run can be resumed from."""
        self.resume_hint = kept
        self._update_message()

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.summary, "where": self.origin.description, "layer": self.origin.layer,
            **self.location, "kept": self.resume_hint,
        }  # fmt: skip

    def _update_message(self) -> None:
        head = f"{self.where}: {self.summary}" if self.where else self.summary
        origin = self.origin.description + self._format_samples()
        self.problems = ["; ".join(filter(None, (head, origin, self.resume_hint, self.way_out)))]

    def _format_samples(self) -> str:
        samples = self.location.get("samples", [])
        if not samples:
            return ""
        wrong = self.location["not_finite"] or samples
        names = dict(zip(samples, self.location.get("names", []), strict=False))
        shown = format_list(
            [f"{i} ({names[i]})" if i in names else i for i in wrong], MAX_LISTED_SAMPLES
        )
        which = f"{self.location['part']} sample{'s' if len(wrong) > 1 else ''} {shown}"
        if not self.location["not_finite"]:
            return f" (the batch is {which})"
        many = "all" if len(wrong) == len(samples) else f"{len(wrong)} of"
        return f", in {many} {pluralize(len(samples), 'sample')} ({which})"

    def __str__(self) -> str:
        return self.problems[0]


class NonFiniteGuard:
    """Stops the run at, or skips, a batch whose loss or gradient is not finite."""

    def __init__(self, policy: NonFinitePolicy, limit: int) -> None:
        self.policy, self.max_skipped = policy, limit
        self.skipped_batches = 0
        self._rng_states: list[tuple[torch.Generator, Tensor]] = []
        self._buffer_owners: list[tuple[dict[str, Tensor | None], str]] | None = None
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        self._buffer_copies: list[Tensor] = []

    def before_step(self, model: nn.Module, device: torch.device) -> None:
        """Saves torch's random streams, to trace a step that is not finite, and, if batches may be
        skipped, the buffers that the forward pass changes."""
        generators = [torch.default_generator]
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            generators.append(torch.cuda.default_generators[number])
        self._rng_states = [(generator, generator.get_state()) for generator in generators]
        if self.policy == "skip":
            self._save_buffers(model)

    def must_skip_step(self, loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler) -> bool:
        """Whether loss or gradient norm, shape (), is not finite and the optimizer must not step.

        Gradients that overflowed because the loss was scaled are left to the scaler. Synchronizes
        the device, as after the optimizer's step it would be too late.
        """
        if math.isfinite(loss.item()) and math.isfinite(norm.item()):
            return False
        return not (scaler.is_enabled() and math.isfinite(loss.item()) and scaler.get_scale() > 1)

    def skip_batch(
        self,
        loss: Tensor,
        norm: Tensor,
        scaler: torch.amp.GradScaler,
        locate: Callable[[Callable[[], None]], NonFiniteLocation],
    ) -> None:
        """Restores the state before the batch if it may be skipped; else raises NonFiniteError."""
        what = f"the loss is {loss:g}"
        if math.isfinite(loss.item()):
            what = f"the norm of the gradients is {norm:g}"
        if self.policy == "stop":
            found = locate(self.restore_rng)
            raise NonFiniteError(
                what, found, f"{found.advice}; on_nonfinite=skip leaves such batches out"
            )
        self._restore_buffers()
        if self.skipped_batches == self.max_skipped:
            what += (
                f", and as many batches as nonfinite_limit={self.max_skipped} allows are left out"
            )
            raise NonFiniteError(what, locate(self.restore_rng))
        self.skipped_batches += 1
        if scaler.is_enabled():
            scaler.update(scaler.get_scale())  # ready for the next step, at the same scale

    def restore_rng(self) -> None:
        """Restores torch's random streams to the start of this step."""
        for generator, state in self._rng_states:
            generator.set_state(state)

    def _save_buffers(self, model: nn.Module) -> None:
        if self._buffer_owners is None:
            modules = [module._buffers for module in model.modules()]
            self._buffer_owners = [(owner, name) for owner in modules for name in owner]
        before = self._buffers
        self._buffers = [
            (owner, name, buffer)
            for owner, name in self._buffer_owners
            if (buffer := owner.get(name)) is not None
        ]
        now = [buffer for _, _, buffer in self._buffers]
        if (
            now
            and len(now) == len(before)
            and all(new is old for new, (_, _, old) in zip(now, before, strict=True))
        ):
            torch._foreach_copy_(self._buffer_copies, now)  # a quarter of what cloning costs
        else:
            self._buffer_copies = [buffer.detach().clone() for buffer in now]

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        """Also restores buffers that the forward pass replaced by another tensor."""
        for (owner, name, buffer), value in zip(self._buffers, self._buffer_copies, strict=True):
            owner[name] = buffer
            buffer.copy_(value)
