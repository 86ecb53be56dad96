"""Checks that need no training step: the sampler, the evaluation, early stopping."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipe.components import contract
from recipe.components.data import first_samples_batch
from recipe.components.sampler.shuffled import shuffled
from recipe.config.spec import RunSpec
from recipe.formatting import format_list, pluralize
from recipe.nn import rng
from recipe.nn.model_state import preserve_model_state
from recipe.training.run import Run, epoch_batches

Finding = tuple[str, str | None]
"""What was checked, and why the trick had no effect, if so."""

EVALUATION_SAMPLES = 4


class RunChecks:
    def __init__(self, spec: RunSpec, run: Run) -> None:
        self.spec, self.run = spec, run

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """(group, problem) pairs at the end of a run."""
        targets = self.run.data.train.targets
        bound, before = self.run.components["sampler"].bind(), rng.snapshot_rng()
        last = max(0, self.run.position.epoch - 1)
        indices = bound(targets, rng.make_generator(self.spec.seed, "order", last))
        if rng.snapshot_rng() != before:
            yield "sampler", "it draws from a global random stream, not from its own"
        if not torch.equal(torch.cat(list(epoch_batches(self.run, last))), indices):
            yield "sampler", "an epoch's order isn't a function of the seed and the epoch alone"
        own = contract.audit.find(bound.func)
        for problem in own(targets, indices, **bound.keywords) if own else ():
            yield "sampler", problem
        early = self.run.position.epoch < self.run.epochs
        accuracies = self.run.position.accuracies
        stop = self.run.components["stop"].bind()
        sooner = [n for n in range(1, len(accuracies)) if stop(accuracies[:n])]
        if early and not stop(accuracies):
            yield (
                "stop",
                f"the run ended after {pluralize(len(accuracies), 'epoch')} for no reason",
            )
        if sooner:
            yield "stop", f"the run continued after epoch {sooner[0]}, where it was to stop"

    def sampler_finding(self) -> Finding:
        data = self.run.data
        first = torch.cat(list(epoch_batches(self.run, 0)))
        names = len(data.classes)
        drawn = data.train.targets[first].bincount(minlength=names).tolist()
        shown = format_list([f"{name} {n}" for name, n in zip(data.classes, drawn, strict=True)])
        description = f"order is a function of seed and epoch; samples an epoch: {shown}"
        return description, self._sampler_no_effect()

    def _sampler_no_effect(self) -> str | None:
        run, spec = self.run, self.spec
        targets = run.data.train.targets
        epochs = {0, max(0, run.position.epoch - 1)}
        usual = {e: shuffled(targets, rng.make_generator(spec.seed, "order", e)) for e in epochs}
        if all(torch.equal(torch.cat(list(epoch_batches(run, e))), usual[e]) for e in epochs):
            return "every epoch's order is that of sampler=shuffled"
        return None

    def evaluation_finding(self) -> Finding:
        run = self.run
        inputs, _ = first_samples_batch(run.data.val, min(EVALUATION_SAMPLES, len(run.data.val)))
        model = run.average.model
        with preserve_model_state(model), torch.inference_mode(), run.autocast():
            model.eval()
            inputs = inputs.to(run.device)
            alike = torch.equal(run.evaluation(model, inputs), model(inputs))
        if alike:
            return ("the outputs are those of a single forward pass",) * 2
        return "the outputs differ from those of a single forward pass", None

    def stop_finding(self) -> Finding:
        run = self.run
        if run.position.epoch < run.epochs:
            epochs = pluralize(run.epochs, "epoch")
            return f"ended after {run.position.epoch} of {epochs}, as specified", None
        return f"all {pluralize(run.epochs, 'epoch')}", "it never stopped the run"
