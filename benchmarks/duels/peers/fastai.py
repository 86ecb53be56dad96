"""Source: https://docs.fast.ai/examples/migrating_pytorch.html. Lean: no bar, nothing logged."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import torch
from fastai.basics import Callback, DataLoaders, Learner, OptimWrapper
from fastai.callback import progress  # noqa: F401, gives Learner its no_bar
from fastai.metrics import accuracy as fastai_accuracy
from torch import nn

from duels.job import Job, Record, accuracy


class Keeps(Callback):
    """The numbers of every step and epoch."""

    order = 60  # after the Recorder

    def __init__(self, record: Record) -> None:
        self.kept = record

    def before_validate(self) -> None:
        self.total = self.rights = 0.0
        self.number = 0

    def after_batch(self) -> None:
        right = accuracy(self.learn.pred, self.learn.yb[0]).item()
        if self.training:
            self.kept.step(self.learn.loss.item(), right)
        else:
            size = len(self.learn.yb[0])
            self.total += size * self.learn.loss.item()
            self.rights += size * right
            self.number += size

    def after_validate(self) -> None:
        self.kept.epoch(self.total / self.number, self.rights / self.number)


def main(path: str, *given: str) -> None:
    job, record, lean = Job.read(path), Record(), "lean" in given
    optimizer = partial(OptimWrapper, opt=partial(torch.optim.SGD, **job.sgd))
    learner = Learner(
        DataLoaders(*job.loaders()), job.network(), loss_func=nn.CrossEntropyLoss(),
        opt_func=optimizer, lr=job.sgd["lr"], metrics=None if lean else fastai_accuracy,
        cbs=Keeps(record), train_bn=True,
    )  # fmt: skip
    with contextlib.ExitStack() as quiet:
        if lean:
            quiet.enter_context(learner.no_bar())
            quiet.enter_context(learner.no_logging())
        with record:
            learner.fit(job.epochs, job.sgd["lr"])
    record.tell()


if __name__ == "__main__":
    main(*sys.argv[1:])
