"""Checks within training steps, a few of which are inspected closely.

The monitor observes the components of a Run, and uses torch's hooks.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.data import hash_tensors
from recipe.nn import rng
from recipe.nn.sharded import get_local_shard
from recipe.training.run import Run
from recipe.training.step import params_with_grad
from recipe.training.step_components import Augment, Clip, Loss, Sharpness

ProblemsByGroup = dict[str, dict[str, None]]
"""By group; each problem once, in order of occurrence."""

STATE_ATTRIBUTES = ("batches", "steps", "augmented", "half", "targets", "steeper")

HALF_DTYPES = (torch.bfloat16, torch.float16)


class StepMonitor:
    """Counts the steps of a run, and inspects `inspected_batches`, counted from 1."""

    def __init__(
        self,
        run: Run,
        inspected_batches: set[int],
        *,
        takes: list[str],
        gives: str,
        check_clip: Callable[[list[nn.Parameter]], Iterator[str]],
        on_before_step: Callable[[int, int], None],
    ) -> None:
        self.run, self.inspected_batches = run, inspected_batches
        self.takes, self.gives = takes, gives
        self.check_clip, self.on_before_step = check_clip, on_before_step
        self.batches = self.steps = 0
        self.clipped_steps = torch.zeros((), device=run.device)
        self.problems: ProblemsByGroup = defaultdict(dict)
        self.augmented = False
        self.half = False
        self.targets = ""
        """Form and shape of the targets inspected last."""
        self._has_clipped = False
        self._raw_fingerprints: dict[int, Tensor] = {}
        self._clipped_fingerprints: dict[int, Tensor] = {}
        self._hooks: list[Any] = []
        self._saved_tensors_hooks = contextlib.ExitStack()
        self.steeper = False
        self._observation = contextlib.ExitStack()
        for block in (
            run.augment.observed_by(self._augment),
            run.loss.observed_by(self._loss),
            run.sharpness.observed_by(self._sharpness),
            run.clip.observed_by(self._clip),
        ):
            self._observation.enter_context(block)
        step_hook = run.optimizer.register_step_pre_hook(self._before_step)
        self._observation.callback(step_hook.remove)

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in STATE_ATTRIBUTES},
            "hits": self.clipped_steps.item(),
            "problems": {group: list(found) for group, found in self.problems.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in STATE_ATTRIBUTES:
            setattr(self, name, state[name])
        self.clipped_steps.fill_(state["hits"])
        for group, found in state["problems"].items():
            self.problems[group] = dict.fromkeys(found)

    def close(self) -> None:
        """Ends the observation and removes all hooks."""
        self._observation.close()
        self._remove_hooks()

    @property
    def is_inspecting(self) -> bool:
        return self.batches in self.inspected_batches

    def add_problem(self, group: str, problem: str) -> None:
        self.problems[group][f"{problem} (batch {self.batches})"] = None

    def gather_problems(self) -> None:
        """Merges the problems of all processes."""
        for theirs in self.run.collectives.all_gather(dict(self.problems)):
            for group, found in theirs.items():
                self.problems[group].update(found)

    def _augment(
        self, augment: Augment, inputs: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.batches += 1
        self._has_clipped = False
        self._remove_hooks()
        if self.is_inspecting:
            self._register_gradient_hooks()
            if self.batches == 1:
                self._register_precision_hook()
            made = self._inspect_augment(augment, inputs, targets, generator)
        else:
            made = augment(inputs, targets, generator)
        for given, got in zip((inputs, targets), made, strict=True):
            if not self.augmented and got is not given:
                self.augmented = got.shape != given.shape or not torch.equal(got, given)
        return made

    def _inspect_augment(
        self, augment: Augment, inputs: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        kept, before = (inputs.clone(), targets.clone()), rng.snapshot_rng()
        start = generator.clone_state()
        made = augment(inputs, targets, generator)
        if not (torch.equal(kept[0], inputs) and torch.equal(kept[1], targets)):
            self.augmented = True
            self.add_problem("augment", "it changes its inputs in place")
        elif rng.snapshot_rng() != before:
            self.add_problem(
                "augment", "it draws from a global random stream, not from its generator"
            )
        elif not self._is_reproducible(made, lambda: augment(inputs, targets, start)):
            self.add_problem(
                "augment",
                "called twice with the same batch and generator state, it returns different "
                "results: it draws from another generator, such as numpy's, or is stateful",
            )
        form = "probabilities" if made[1].is_floating_point() else "indices"
        if form != self.gives:
            self.add_problem("augment", f"it returns {form}, not {self.gives}")
        return made

    def _is_reproducible(
        self, made: tuple[Tensor, Tensor], repeat: Callable[[], tuple[Tensor, Tensor]]
    ) -> bool:
        """Whether a second call returns the same batch; a stateful component is not called."""
        if "augment" in self.run.stateful_components:
            return True
        with rng.isolate_rng():
            second = repeat()
        return all(
            a.shape == b.shape and torch.allclose(a, b, atol=1e-5, equal_nan=True)
            for a, b in zip(made, second, strict=True)
        )

    def _loss(self, loss: Loss, output: Tensor, target: Tensor) -> Tensor:
        self._saved_tensors_hooks.close()  # the forward pass is over
        if self.is_inspecting and torch.is_grad_enabled():  # evaluation computes the loss, too
            form = "probabilities" if target.is_floating_point() else "indices"
            self.targets = f"{form} of shape {tuple(target.shape)}"
            for problem in _target_problems(output, target, self.takes):
                self.add_problem("loss", problem)
        return loss(output, target)

    def _sharpness(
        self,
        sharpness: Sharpness,
        params: list[nn.Parameter],
        recompute_gradients: Callable[[], None],
    ) -> None:
        if not self.is_inspecting:
            return sharpness(params, recompute_gradients)
        weights = [p.detach().clone() for p in params]
        buffers = [buffer.detach().clone() for buffer in self.run.model.buffers()]
        marks, before = {id(p): _gradient_fingerprint(p) for p in params}, rng.snapshot_rng()
        sharpness(params, recompute_gradients)
        if not _is_identical(weights, params):
            self.add_problem("sharpness", "it does not restore the weights")
        if not _is_identical(buffers, self.run.model.buffers()):
            self.add_problem(
                "sharpness", "buffers, such as BatchNorm's statistics, were updated a second time"
            )
        if rng.snapshot_rng() != before:
            self.add_problem("sharpness", "it draws from a global random stream")
        if params_with_grad(self.run.optimizer) != params:
            self.add_problem("sharpness", "other parameters have a gradient than before")
        self.steeper |= any(
            p.grad is None or not torch.equal(marks[id(p)], _gradient_fingerprint(p))
            for p in params
        )

    def _clip(self, clip: Clip, params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        self._has_clipped = True
        looking = self.is_inspecting and bool(self._raw_fingerprints)
        if looking:
            self._check_unscaled(params)
        norm, clipped = clip(params)
        self.clipped_steps += clipped
        if looking:
            self._check_clipped(params, norm, clipped)
        return norm, clipped

    def _check_unscaled(self, params: list[nn.Parameter]) -> None:
        missing = len(params_with_grad(self.run.optimizer)) - len(params)
        if missing:
            self.add_problem("clip", f"it is called without {missing} of the optimizer's gradients")
        scale = self.run.scaler.get_scale()
        seen = {id(p): _gradient_fingerprint(p) for p in params if id(p) in self._raw_fingerprints}
        if not seen:
            return
        handed = torch.stack(list(seen.values())) * scale
        raw = torch.stack([self._raw_fingerprints[key] for key in seen])
        if self.run.collectives.has_local_grad_hooks:
            # of the mean over processes, only sums are known
            raw = self.run.collectives.all_reduce_sum(raw) / self.run.collectives.world_size
            held = (handed[:, 2] - raw[:, 2]).abs() <= 1e-4 * raw[:, 0]
            alike = bool((held | ~raw[:, 0].isfinite()).all())
            self._raw_fingerprints = seen
        else:
            alike = torch.allclose(handed[:, :2], raw[:, :2], 1e-4, 0.0, equal_nan=True)
        if not alike:
            self.add_problem("clip", "its gradients are not those of the unscaled loss")

    def _check_clipped(self, params: list[nn.Parameter], norm: Tensor, clipped: Tensor) -> None:
        self._clipped_fingerprints = {id(p): _gradient_fingerprint(p) for p in params}
        changed = any(
            key in self._raw_fingerprints and not torch.equal(left, self._raw_fingerprints[key])
            for key, left in self._clipped_fingerprints.items()
        )
        if not bool(norm.isfinite()):
            return
        if changed and not bool(clipped) and self.run.scaler.get_scale() == 1:
            self.add_problem("clip", "it changes gradients, but reports that it did not clip")
        for problem in self.check_clip(params):
            self.add_problem("clip", problem)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps += 1
        if not self.is_inspecting:
            return
        if not self._has_clipped:
            self.add_problem("clip", "the optimizer steps before the gradients are clipped")
        else:
            for p in params_with_grad(optimizer):
                if id(p) in self._clipped_fingerprints and not torch.equal(
                    self._clipped_fingerprints[id(p)], _gradient_fingerprint(p)
                ):
                    self.add_problem("clip", "gradients change between the clip and the optimizer")
                    break
        self._remove_hooks()
        self.on_before_step(self.steps, (self.batches - 1) // self.run.steps_per_epoch)

    def _register_gradient_hooks(self) -> None:
        def keep(p: Tensor) -> None:
            self._raw_fingerprints[id(p)] = _gradient_fingerprint(p)

        for group in self.run.optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    self._hooks.append(p.register_post_accumulate_grad_hook(keep))

    def _register_precision_hook(self) -> None:
        """Inspects all tensors that the forward pass saves for the backward pass."""

        def look(kept: Tensor) -> Tensor:
            self.half |= kept.dtype in HALF_DTYPES
            return kept

        self._saved_tensors_hooks.enter_context(
            torch.autograd.graph.saved_tensors_hooks(look, lambda kept: kept)
        )

    def _remove_hooks(self) -> None:
        self._saved_tensors_hooks.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._raw_fingerprints.clear()
        self._clipped_fingerprints.clear()


def _is_identical(kept: list[Tensor], now: Iterable[Tensor]) -> bool:
    """Bit-identical; NaN equals NaN."""
    pairs = zip(kept, now, strict=True)
    return all(torch.equal(a, b) or hash_tensors(a) == hash_tensors(b) for a, b in pairs)


def _gradient_fingerprint(p: Tensor) -> Tensor:
    """Norm, largest entry and sum of the local gradient, shape (3,); -1 if there is none."""
    if p.grad is None:
        return torch.full((3,), -1.0, device=p.device)
    gradient = get_local_shard(p.grad.detach())
    if not gradient.numel():
        return gradient.new_zeros(3)
    largest = torch.linalg.vector_norm(gradient, float("inf"))
    return torch.stack([torch.linalg.vector_norm(gradient), largest, gradient.sum()])


def _target_problems(output: Tensor, target: Tensor, takes: list[str]) -> Iterator[str]:
    """Mismatches of outputs, (batch, classes), and targets with what the loss takes."""
    if target.is_floating_point():
        form, fits = "probabilities", target.shape == output.shape
        if fits and not torch.allclose(target.sum(1), torch.ones_like(target[:, 0]), atol=1e-3):
            yield "targets are probabilities, but a row doesn't add up to 1"
    else:
        form, fits = "indices", target.shape == output.shape[:1] and target.dtype == torch.int64
    if form not in takes:
        yield f"targets are {form}, but the loss takes {' or '.join(takes)}"
    if not fits:
        yield f"targets have shape {tuple(target.shape)} for outputs {tuple(output.shape)}"
