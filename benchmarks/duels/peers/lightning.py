"""Source: https://lightning.ai/docs/pytorch/stable/starter/introduction.html. Lean: no logger,
checkpoint, progress bar, summary or check before the start."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from duels.job import Job, Record, accuracy
from duels.peers import operators

operators.define()

import lightning  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

LEAN = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


class Module(lightning.LightningModule):
    def __init__(self, job: Job, record: Record, logs: bool) -> None:
        super().__init__()
        self.network, self.job, self.record, self.logs = job.network(), job, record, logs
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        inputs, targets = batch
        output = self.network(inputs)
        loss = nn.functional.cross_entropy(output, targets)
        right = accuracy(output, targets)
        self.record.step(loss.item(), right.item())
        if self.logs:
            self.log_dict({"train/loss": loss, "train/accuracy": right})
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        inputs, targets = batch
        output = self.network(inputs)
        loss, right = nn.functional.cross_entropy(output, targets), accuracy(output, targets)
        self.seen.append((len(targets) * loss.item(), len(targets) * right.item()))
        if self.logs:
            self.log_dict({"val/loss": loss, "val/accuracy": right})

    def on_validation_epoch_end(self) -> None:
        losses, rights = zip(*self.seen, strict=True)
        if not self.trainer.sanity_checking:
            number = len(self.job.val[1])
            self.record.epoch(sum(losses) / number, sum(rights) / number)
        self.seen.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.job.optimizer(self.network)


def main(path: str, *given: str) -> None:
    job, lean = Job.read(path), "lean" in given
    record = Record()
    module = Module(job, record, logs=not lean)
    settings = LEAN if lean else {"logger": CSVLogger("."), "log_every_n_steps": 1}
    trainer = lightning.Trainer(max_epochs=job.epochs, accelerator="cpu", devices=1, **settings)
    with record:
        trainer.fit(module, *job.loaders())
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
