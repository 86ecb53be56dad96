"""Progress of a run: a live bar on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from recipe import output
from recipe.formatting import format_duration
from recipe.training.evaluation import Metrics
from recipe.training.loop import MetricsEvent
from recipe.training.run import Run


class ProgressDisplay:
    def __init__(self, run: Run, console: Console) -> None:
        self.run = run
        self.console = console
        self.is_live = console.is_terminal
        self.start_time = time.perf_counter()
        self.start_step = run.position.step
        """Steps before this process, in a resumed run."""
        self.latest_metrics: Metrics = {}
        self.epoch = 0
        self.losses: list[float] = []
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.is_live,
        )
        self.task = self.bar.add_task(f"epoch 1/{run.epochs}", total=run.total_steps, numbers="")

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        if not self.is_live:
            output.set_current_task("training, up to the end of an epoch")
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.stop()

    def update(self, point: MetricsEvent) -> None:
        self.latest_metrics |= point.metrics
        if point.epoch != self.epoch:
            self.epoch, self.losses = point.epoch, []
        if "train/loss" in point.metrics:
            self.losses.append(point.metrics["train/loss"])
        if self.is_live:
            self.bar.update(
                self.task,
                completed=point.step,
                description=f"epoch {point.epoch}/{self.run.epochs}",
                numbers=self._format_metrics(point.step),
            )
        elif point.is_epoch_end:
            spent = time.perf_counter() - self.start_time
            done, total = point.step - self.start_step, self.run.total_steps
            left = spent * (total - point.step) / max(1, done)
            width = len(str(self.run.epochs))
            self.console.print(
                f"epoch {point.epoch:{width}}/{self.run.epochs}  "
                f"{self._format_metrics(point.step)}  {format_duration(left)} left",
                highlight=False,
                soft_wrap=True,
            )

    def _format_metrics(self, step: int) -> str:
        # the mean over the epoch so far, as val/loss is the mean over the validation data
        parts = [f"loss {sum(self.losses) / len(self.losses):.4f}"] if self.losses else []
        if "val/accuracy" in self.latest_metrics:
            parts.append(f"val/loss {self.latest_metrics['val/loss']:.4f}")
            parts.append(f"val/accuracy {100 * self.latest_metrics['val/accuracy']:.2f} %")
        elif "train/accuracy" in self.latest_metrics:
            parts.append(f"accuracy {100 * self.latest_metrics['train/accuracy']:.0f} %")
        if step == self.start_step:
            return "  ".join(parts)
        seconds = time.perf_counter() - self.start_time
        samples = (step - self.start_step) / self.run.steps_per_epoch * len(self.run.data.train)
        return "  ".join([*parts, f"{samples / seconds:,.0f} samples/s"])
