"""How a run is followed: a live bar in a terminal, one plain line an epoch anywhere else."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from recipe import output
from recipe.formatting import duration
from recipe.training.evaluation import Metrics
from recipe.training.loop import Point
from recipe.training.run import Run


class Follow:
    """Shows every Point it is given."""

    def __init__(self, run: Run, console: Console) -> None:
        self.run = run
        self.console = console
        self.live = console.is_terminal
        self.started = time.perf_counter()
        self.first = run.at.step
        """Steps that were over before, in a run that is taken up again."""
        self.latest: Metrics = {}
        self.epoch = 0
        self.losses: list[float] = []
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(f"epoch 1/{run.epochs}", total=run.steps, numbers="")

    def __enter__(self) -> Follow:
        self.bar.start()
        if not self.live:
            output.task("training, up to the end of an epoch")
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.stop()

    def show(self, point: Point) -> None:
        self.latest |= point.metrics
        if point.epoch != self.epoch:
            self.epoch, self.losses = point.epoch, []
        if "train/loss" in point.metrics:
            self.losses.append(point.metrics["train/loss"])
        if self.live:
            self.bar.update(
                self.task,
                completed=point.step,
                description=f"epoch {point.epoch}/{self.run.epochs}",
                numbers=self._numbers(point.step),
            )
        elif point.ends_epoch:
            spent = time.perf_counter() - self.started
            left = spent * (self.run.steps - point.step) / max(1, point.step - self.first)
            width = len(str(self.run.epochs))
            self.console.print(
                f"epoch {point.epoch:{width}}/{self.run.epochs}  {self._numbers(point.step)}  "
                f"{duration(left)} left",
                highlight=False,
                soft_wrap=True,
            )

    def _numbers(self, step: int) -> str:
        # of the epoch so far, as val/loss is of the whole validation part
        parts = [f"loss {sum(self.losses) / len(self.losses):.4f}"] if self.losses else []
        if "val/accuracy" in self.latest:
            parts.append(f"val/loss {self.latest['val/loss']:.4f}")
            parts.append(f"val/accuracy {self.latest['val/accuracy']:.2%}".replace("%", " %"))
        elif "train/accuracy" in self.latest:
            parts.append(f"accuracy {self.latest['train/accuracy']:.0%}".replace("%", " %"))
        if step == self.first:
            return "  ".join(parts)
        seconds = time.perf_counter() - self.started
        samples = (step - self.first) / self.run.steps_per_epoch * len(self.run.data.train)
        return "  ".join([*parts, f"{samples / seconds:,.0f} samples/s"])
