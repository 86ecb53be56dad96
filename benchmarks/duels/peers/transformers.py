"""Source: https://huggingface.co/docs/transformers/trainer. Lean: no bar, no reports, no
checkpoints, and its own log at the end only."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from duels.job import Job, Order, Record, accuracy
from duels.peers import operators

operators.define()

from transformers import Trainer, TrainingArguments  # noqa: E402

LEAN = {
    "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no",
}  # fmt: skip


class Images(Dataset[dict[str, Tensor]]):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    """As the Trainer wants it: named inputs, a dict of loss and logits."""

    def __init__(self, network: nn.Module, record: Record) -> None:
        super().__init__()
        self.network, self.record = network, record

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.record.step(loss.item(), accuracy(logits, labels).item())
        return {"loss": loss, "logits": logits}


class Ordered(Trainer):
    """In the job's order."""

    order: Order

    def _get_train_sampler(self, *given: Any) -> Order:
        return self.order


def main(path: str, *given: str) -> None:
    job, record, lean = Job.read(path), Record(), "lean" in given

    def judged(found: Any) -> dict[str, float]:
        right = float((np.argmax(found.predictions, axis=1) == found.label_ids).mean())
        losses = nn.functional.cross_entropy(
            torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids)
        )
        record.epoch(losses.item(), right)
        return {"accuracy": right}

    arguments = TrainingArguments(
        output_dir="trainer", use_cpu=True, num_train_epochs=job.epochs, eval_strategy="epoch",
        per_device_train_batch_size=job.batch_size, max_grad_norm=0.0,
        per_device_eval_batch_size=job.eval_batch_size, label_names=["labels"],
        **(LEAN if lean else {"logging_steps": 1}),
    )  # fmt: skip
    model = Classifier(job.network(), record)
    optimizer = job.optimizer(model)
    trainer = Ordered(
        model, arguments, train_dataset=Images(*job.train), eval_dataset=Images(*job.val),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        compute_metrics=judged,
    )  # fmt: skip
    trainer.order = Order(job.order)
    with record:
        trainer.train()
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
