"""What needs no look into a step: the order of samples, how images are looked at, the end."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipe.components import contract
from recipe.components.data import few
from recipe.components.sampler.shuffled import shuffled
from recipe.config import instantiate
from recipe.config.spec import RunSpec
from recipe.formatting import counted, listed
from recipe.nn import rng
from recipe.nn.preserve import preserved
from recipe.training.run import Run, order

Finding = tuple[str, str | None]
"""What was checked, and why the trick had no effect, if it had none."""

FEW = 4
"""Validation images that are looked at in both ways."""


class Ends:
    """Asked at any time; what is promised is asked of the tricks anew."""

    def __init__(self, spec: RunSpec, run: Run) -> None:
        self.spec, self.run = spec, run

    def problems(self) -> Iterator[tuple[str, str]]:
        """Group and problem, at the end of a run."""
        targets = self.run.data.train.targets
        bound, before = instantiate.part(self.spec, "sampler"), rng.standing()
        last = max(0, self.run.at.epoch - 1)
        indices = bound(targets, rng.generator(self.spec.seed, "order", last))
        if rng.standing() != before:
            yield "sampler", "it draws from a global random stream, not from its own"
        if not torch.equal(torch.cat(list(order(self.run, last))), indices):
            yield "sampler", "an epoch's order isn't a function of the seed and the epoch alone"
        own = contract.beside(bound.func, "audit")
        for problem in own(targets, indices, **bound.keywords) if own else ():
            yield "sampler", problem
        early = self.run.at.epoch < self.run.epochs
        accuracies = self.run.at.accuracies
        stop = instantiate.part(self.spec, "stop")
        sooner = [n for n in range(1, len(accuracies)) if stop(accuracies[:n])]
        if early and not stop(accuracies):
            yield (
                "stop",
                f"the run ended after {counted(len(accuracies), 'epoch')} for no reason",
            )
        if sooner:
            yield "stop", f"the run went on after epoch {sooner[0]}, where it was to stop"

    def sampler(self) -> Finding:
        data = self.run.data
        first = torch.cat(list(order(self.run, 0)))
        names = len(data.classes)
        drawn = data.train.targets[first].bincount(minlength=names).tolist()
        shown = listed([f"{name} {n}" for name, n in zip(data.classes, drawn, strict=True)])
        said = f"order is a function of seed and epoch; samples an epoch: {shown}"
        return said, self._idle_sampler()

    def _idle_sampler(self) -> str | None:
        """Why the sampler had no effect: each order is that of shuffled."""
        run, spec = self.run, self.spec
        targets = run.data.train.targets
        epochs = {0, max(0, run.at.epoch - 1)}
        usual = {e: shuffled(targets, rng.generator(spec.seed, "order", e)) for e in epochs}
        if all(torch.equal(torch.cat(list(order(run, e))), usual[e]) for e in epochs):
            return "every epoch's order is that of sampler=shuffled"
        return None

    def evaluation(self) -> Finding:
        run = self.run
        inputs, _ = few(run.data.val, min(FEW, len(run.data.val)))
        model = run.average.model
        with preserved(model), torch.inference_mode(), run.autocast():
            model.eval()
            inputs = inputs.to(run.device)
            alike = torch.equal(run.evaluation(model, inputs), model(inputs))
        said = "the outputs are those of one look" if alike else "outputs differ from one look's"
        return said, "its outputs are those of one look" if alike else None

    def stop(self) -> Finding:
        run = self.run
        if run.at.epoch < run.epochs:
            said = f"ended after {run.at.epoch} of {counted(run.epochs, 'epoch')}, as it says"
            return said, None
        return f"all {counted(run.epochs, 'epoch')}", "it never stopped the run"
