"""Source: https://skorch.readthedocs.io/en/stable/user/quickstart.html. Lean: nothing is printed or
scored beside the losses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import skorch
import torch
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import TensorDataset

from duels.job import Job, Order, Record, accuracy


class Keeps(skorch.callbacks.Callback):
    """The numbers of every step and epoch."""

    def __init__(self, record: Record, number: int) -> None:
        self.record, self.number, self.right = record, number, 0.0

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, loss: Any = None,
        y_pred: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        right = accuracy(y_pred, batch[1]).item()
        if training:
            self.record.step(loss.item(), right)
        else:
            self.right += len(batch[1]) * right

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self.record.epoch(float(net.history[-1, "valid_loss"]), self.right / self.number)
        self.right = 0.0


def main(path: str, *given: str) -> None:
    job, record, lean = Job.read(path), Record(), "lean" in given
    settings: dict[str, Any] = {f"optimizer__{key}": value for key, value in job.sgd.items()}
    if lean:
        settings |= {"verbose": 0, "callbacks__valid_acc": None, "callbacks__print_log": None}
    net = skorch.NeuralNetClassifier(
        job.network(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD,
        max_epochs=job.epochs, batch_size=job.batch_size, classes=np.arange(job.classes),
        train_split=predefined_split(TensorDataset(*job.val)),
        iterator_train__sampler=Order(job.order), iterator_valid__batch_size=job.eval_batch_size,
        callbacks=[("keeps", Keeps(record, len(job.val[1])))],
        **settings,
    )  # fmt: skip
    with record:
        net.fit(TensorDataset(*job.train), y=None)
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
