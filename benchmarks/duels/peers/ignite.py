"""Source: https://docs.pytorch.org/ignite/quickstart.html. Lean: an update function of one's own,
and metrics from a single pass."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ProgressBar
from ignite.metrics import Accuracy, Loss
from torch import nn

from duels.job import Job, Record, accuracy
from duels.plain import evaluate


def main(path: str, *given: str) -> None:
    job, record, lean = Job.read(path), Record(), "lean" in given
    network, (learns, looks) = job.network(), job.loaders()
    optimizer, criterion = job.optimizer(network), nn.CrossEntropyLoss()
    if lean:
        trainer = Engine(_update(network, optimizer, criterion))
    else:
        trainer = create_supervised_trainer(
            network, optimizer, criterion,
            output_transform=lambda x, y, output, loss: (loss.item(), accuracy(output, y).item()),
        )  # fmt: skip
        metrics = {"accuracy": Accuracy(), "loss": Loss(criterion)}
        evaluator = create_supervised_evaluator(network, metrics=metrics)
        ProgressBar().attach(trainer)

    @trainer.on(Events.ITERATION_COMPLETED)
    def keep(engine: Engine) -> None:
        record.step(*engine.state.output)

    @trainer.on(Events.EPOCH_COMPLETED)
    def look(engine: Engine) -> None:
        if lean:
            record.epoch(*evaluate(network, looks))
        else:
            found = evaluator.run(looks).metrics
            record.epoch(found["loss"], found["accuracy"])

    with record:
        trainer.run(learns, max_epochs=job.epochs)
    record.tell()


def _update(network: nn.Module, optimizer: Any, criterion: nn.Module) -> Any:
    def update(engine: Engine, batch: Any) -> tuple[float, float]:
        network.train()
        optimizer.zero_grad()
        inputs, targets = batch
        output = network(inputs)
        loss = criterion(output, targets)
        loss.backward()
        optimizer.step()
        return loss.item(), accuracy(output, targets).item()

    return update


if __name__ == "__main__":
    main(*sys.argv[1:])
