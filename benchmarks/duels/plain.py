"""The loop that most people write, with or without MLflow.

    python -m duels.plain JOB [mlflow]

MLflow gets the epoch's numbers, and at the end the weights.
"""

from __future__ import annotations

import contextlib
import sys

import torch
from torch import nn

from duels.job import Job, Record, accuracy


def train(
    job: Job, network: nn.Module, record: Record | None, *, mlflow: bool = False
) -> tuple[float, float]:
    """Loss and accuracy of the last evaluation; with a `record` every step is in it."""
    if mlflow:
        from mlflow import log_metrics
    optimizer, (learns, looks) = job.optimizer(network), job.loaders()
    for epoch in range(job.epochs):
        network.train()
        total = 0.0
        for inputs, targets in learns:
            optimizer.zero_grad()
            output = network(inputs)
            loss = nn.functional.cross_entropy(output, targets)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if record is not None:
                record.step(loss.item(), accuracy(output, targets).item())
        evaluated = evaluate(network, looks)
        if record is not None:
            record.epoch(*evaluated)
        if mlflow:
            values = {"train/loss": total / len(learns), "val/loss": evaluated[0]}
            log_metrics({**values, "val/accuracy": evaluated[1]}, step=epoch + 1)
    return evaluated


def evaluate(network: nn.Module, looks: torch.utils.data.DataLoader[object]) -> tuple[float, float]:
    """Mean loss and share of right answers."""
    network.eval()
    loss, right, seen = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in looks:
            output = network(inputs)
            loss += nn.functional.cross_entropy(output, targets, reduction="sum").item()
            right += int((output.argmax(1) == targets).sum().item())
            seen += len(targets)
    return loss / seen, right / seen


def main(path: str, *given: str) -> None:
    mlflow = "mlflow" in given
    with contextlib.ExitStack() as stack:
        job = Job.read(path)
        network = job.network()
        if mlflow:
            import mlflow as tracking

            tracking.set_tracking_uri("sqlite:///mlflow.db")
            tracking.set_experiment("duel")
            stack.enter_context(tracking.start_run())
            tracking.log_params({"batch_size": job.batch_size, "epochs": job.epochs, **job.sgd})
        with Record() as record:
            train(job, network, record, mlflow=mlflow)
        if mlflow:
            torch.save(network.state_dict(), "model.pt")
            tracking.log_artifact("model.pt")
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
