"""Did each trick do what it says? Looked at while a run goes on, and told when it ends.

Checked after the first steps, at the epochs at which something thaws, and at the end; a few steps
(the first two, the one in the middle, the last) are watched closely. A promise that is broken ends
the run. What is promised is asked of the tricks anew (`expected`), so nothing that the engine
built is taken on trust; weights and random streams are only looked at.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from recipe.audit.expected import Expected
from recipe.audit.optimizer_groups import CLOSE, Groups
from recipe.audit.run_checks import Ends
from recipe.audit.step_checks import Watch
from recipe.audit.weight_checks import Movement, Weights, same
from recipe.components import contract
from recipe.config import instantiate, option_files
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError
from recipe.formatting import counted, percent
from recipe.training.loop import Point
from recipe.training.run import Run

EARLY = 2
"""The step after which promises are first looked at: momentum moves what the first one doesn't."""


SEEN = ("epoch", "hit_rate", "rates_moved", "looked")
"""What an Audit remembers from Point to Point."""


@dataclass(frozen=True)
class Verdict:
    """What became of one trick's promise."""

    group: str
    option: str
    said: str
    """What was checked, in words."""
    broken: tuple[str, ...] = ()
    no_effect: str | None = None
    """Why the trick did nothing at all, if so."""
    caution: str | None = None
    """What else a reader of the result must know, if anything."""

    @property
    def shown(self) -> list[str]:
        """The first problems, and how many more there are."""
        more = len(self.broken) - 3
        return [*self.broken[:3], *([f"and {more} more"] if more > 0 else [])]

    @property
    def held(self) -> bool:
        return not self.broken


class BrokenPromise(RecipeError):
    """A trick didn't do what it says; the numbers of the run aren't those of its spec."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        self.verdicts = verdicts
        super().__init__(
            f"audit: {v.group}={v.option} didn't keep its promise: {problem}"
            for v in verdicts
            for problem in v.shown
        )


class Audit:
    """Follows a run that is about to begin; within the `with`, hand it every Point."""

    def __init__(self, spec: RunSpec, run: Run, expected: Expected | None = None) -> None:
        """`expected` is given where the model is cut in parts, of which no copy can be asked."""
        self.spec, self.run = spec, run
        self.expected = expected or Expected.of(spec, run.model, run.steps_per_epoch)
        self.weights = Weights(self.expected, run.model)
        self.movement = Movement(run.model)
        self.groups = Groups(self.expected, run.model, run.schedule)
        self.epoch = 0
        self.hit_rate = 0.0
        self.rates_moved = False
        self.looked = False
        self.ends = Ends(spec, run)
        self._idle_loss = _idle(inspect.unwrap(run.loss))

    def __enter__(self) -> Audit:
        first = self.run.at.step
        closely = {first + 1, first + 2, (self.run.steps + 1) // 2, self.run.steps}
        self.watch = Watch(
            self.run,
            closely,
            takes=self.spec.loss.get("takes", ["indices"]),
            gives=self.spec.augment.get("gives", "indices"),
            promise=_promise(self.spec, self.run.model),
            before_step=self._before_step,
        )
        self.epoch = self.run.at.epoch
        self.watch.batches = first  # of a run that goes on from another's
        self.watch.steps = first - self.run.nonfinite.skipped
        self.watch.hits.fill_(float(self.run.at.bitten))
        return self

    def __exit__(self, *raised: object) -> None:
        self.watch.close()

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, and what is to stay as it was: plain data, by name."""
        return {
            **{name: getattr(self, name) for name in SEEN},
            "digests": self.weights.digests,
            "watch": self.watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; within the `with`."""
        for name in SEEN:
            setattr(self, name, state[name])
        self.weights.digests = state["digests"]
        self.watch.load_state_dict(state["watch"])

    def look(self, point: Point) -> list[Verdict]:
        """The verdicts so far, at the Points after which there are any; else none."""
        if not point.ends_epoch:
            self._follow_rates(point)
        else:
            self.epoch = point.epoch
            self.hit_rate = point.metrics["clip/hit_rate"]
        last = point.ends_run
        early = not self.looked and point.step >= min(EARLY, self.run.steps)
        thaws = point.ends_epoch and point.epoch in self.expected.thaws.values()
        if not (last or early or thaws):
            return []
        self.looked = True
        for problem in self.weights.moved(self.run.model, point.epoch - 1):
            self.watch.broken("freeze", problem)
        if last:
            self._look_at_the_end()
        self.watch.agree()
        return list(self.verdicts(ended=last))

    def verdicts(self, *, ended: bool) -> Iterator[Verdict]:
        """One for every trick, in the order in which they are built."""
        for group, (said, no_effect) in self._findings().items():
            option = self.spec.options[group]
            on = option_files.OFF.get(group) != option  # a loss is always on
            yield Verdict(
                group,
                option,
                said,
                tuple(self.watch.problems.get(group, ())),
                no_effect if ended and on else None,
                self.movement.caution(self.run) if ended and group == "optimizer" else None,
            )

    def _follow_rates(self, point: Point) -> None:
        """Whether the schedule changed a learning rate so far; what the warm-up changed is its own
        effect."""
        schedule, moves = self.run.schedule, point.epoch - 1
        if schedule.per == "step":
            moves = point.step - 1
        for group, last in zip(
            self.run.optimizer.param_groups, schedule.scheduler.get_last_lr(), strict=True
        ):
            name = group["name"]
            lr = float(last) if schedule.waits else self.expected.rates[name][moves]
            self.rates_moved |= not math.isclose(lr, self.expected.base_lr[name], rel_tol=CLOSE)

    def _before_step(self, step: int, epoch: int) -> None:
        optimizer, watch = self.run.optimizer, self.watch
        for problem in self.groups.members(optimizer, epoch):
            watch.broken("optimizer", problem)
        for problem in self.groups.trainable(epoch):
            watch.broken("freeze", problem)
        for problem in self.groups.options(optimizer):
            watch.broken("param_groups", problem)
        moves = step - 1 if self.run.schedule.per == "step" else epoch
        if not watch.problems.get("param_groups") and self._counted:
            for problem in self.groups.planned(optimizer, moves, step - 1):
                watch.broken("scheduler", problem)

    @property
    def _counted(self) -> bool:
        """Whether every call of the optimizer is a step: a fused one is called for a step that
        overflowed as well, and leaves it out itself."""
        fused = any(group.get("fused") for group in self.run.optimizer.param_groups)
        return not (fused and self.run.scaler.is_enabled())

    def _look_at_the_end(self) -> None:
        watch, run = self.watch, self.run
        skipped = run.nonfinite.skipped
        if not run.scaler.is_enabled() and watch.steps != watch.batches - skipped:
            watch.broken(
                "optimizer",
                f"it stepped {watch.steps} times in {watch.batches} batches, {skipped} skipped",
            )
        moves = watch.steps if run.schedule.per == "step" else self.epoch
        if run.schedule.scheduler.last_epoch != moves and self._counted:
            watch.broken(
                "scheduler",
                f"it moved {run.schedule.scheduler.last_epoch} times, the optimizer stepped "
                f"{watch.steps} times in {counted(self.epoch, 'epoch')}",
            )
        share = watch.hits.item() / max(1, watch.batches)
        if abs(share - self.hit_rate) > 1e-6:
            watch.broken("clip", f"it bit on {percent(share)} of steps, not {self.hit_rate:.4f}")
        for problem in self.weights.moved(run.average.model, self.epoch - 1):
            watch.broken("average", problem)
        for group, problem in self.ends.problems():
            watch.broken(group, problem)

    def _findings(self) -> dict[str, tuple[str, str | None]]:
        """By group: what was checked, and why it had no effect, if it had none."""
        watch, run, expected = self.watch, self.run, self.expected
        share = watch.hits.item() / max(1, watch.batches)
        return {
            "sampler": self.ends.sampler(),
            "loss": (f"targets were {watch.targets}, as it takes them", self._idle_loss),
            "freeze": (
                self.weights.said(),
                None if any(expected.thaws.values()) else "nothing was frozen",
            ),
            "param_groups": (
                f"{counted(len(expected.base_lr), 'group')}, options and ratios as specified",
                "every parameter got the optimizer's own settings"
                if expected.usual_alone
                else None,
            ),
            "optimizer": (
                f"held exactly what is trained; {counted(watch.steps, 'step')} for "
                f"{watch.batches} batches",
                None,
            ),
            "sharpness": (
                "it left the weights, BatchNorm's statistics and random streams as they were",
                None if watch.steeper else "the gradients stayed as they were",
            ),
            "scheduler": (
                f"{counted(run.schedule.scheduler.last_epoch, 'move')}, one every "
                f"{run.schedule.per}; learning rates as planned",
                None if self.rates_moved else "it never changed a learning rate",
            ),
            "warmup": self._warmup(),
            "clip": (
                "saw unscaled gradients, the optimizer what it left"
                + (f"; bit on {percent(share)} of steps" if share else ""),
                None if watch.hits.item() else "it never bit",
            ),
            "precision": (
                "the forward pass computed in 16 bits" if watch.half else "no 16-bit output",
                None if watch.half else "no layer computed in 16 bits",
            ),
            "augment": (
                f"gave {watch.gives}, drawing from its own stream alone",
                None if watch.augmented else "no batch was changed",
            ),
            "average": (
                "what was frozen is in the average as it was",
                "the averaged weights and statistics are those of the last step"
                if same(run.model, run.average.model)
                else None,
            ),
            "evaluation": self.ends.evaluation(),
            "stop": self.ends.stop(),
        }

    def _warmup(self) -> tuple[str, str | None]:
        rise = [f for f in self.expected.ramp if f != 1]
        if not rise:
            return "learning rates as the scheduler has them", "it never changed a learning rate"
        return f"learning rates times {rise[0]:g} to 1 in {counted(len(rise), 'step')}", None


def _idle(part: Callable[..., Any]) -> str | None:
    """Why a part with its settings does nothing, as the `idle_` function beside it says."""
    own = contract.beside(getattr(part, "func", part), "idle")
    return own(**getattr(part, "keywords", {})) if own else None


def _promise(spec: RunSpec, model: nn.Module) -> Callable[[list[nn.Parameter]], Iterator[str]]:
    """What the clip's own `audit_` function says, if it has one."""
    bound = instantiate.part(spec, "clip")
    own = contract.beside(bound.func, "audit")
    if own is None:
        return lambda params: iter(())
    if next(iter(inspect.signature(bound.func).parameters)) == "model":
        return lambda params: own(params, model, **bound.keywords)
    return functools.partial(own, **bound.keywords)
