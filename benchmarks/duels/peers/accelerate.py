"""Source: https://huggingface.co/docs/accelerate/quicktour. Lean: nothing is gathered."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch import nn

from duels.job import Job, Record, accuracy


def main(path: str, *given: str) -> None:
    job, accelerator, lean = Job.read(path), Accelerator(cpu=True), "lean" in given
    network = job.network()
    network, optimizer, learns, looks = accelerator.prepare(
        network, job.optimizer(network), *job.loaders()
    )

    def gathered(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensors if lean else accelerator.gather_for_metrics(tensors)

    with Record() as record:
        for _ in range(job.epochs):
            network.train()
            for inputs, targets in learns:
                optimizer.zero_grad()
                output = network(inputs)
                loss = nn.functional.cross_entropy(output, targets)
                accelerator.backward(loss)
                optimizer.step()
                record.step(loss.item(), accuracy(output, targets).item())
            network.eval()
            total, right = 0.0, 0.0
            for inputs, targets in looks:
                with torch.no_grad():
                    output = network(inputs)
                output, targets = gathered(output, targets)
                total += nn.functional.cross_entropy(output, targets, reduction="sum").item()
                right += (output.argmax(1) == targets).sum().item()
            record.epoch(total / len(job.val[1]), right / len(job.val[1]))
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
