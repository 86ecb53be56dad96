"""The jobs of a search, each handed out when somebody has room for it, by what came of the earlier
ones.

`next` raises StopIteration where there is nothing to do now; when a job has ended, there may be
something again. Where trials are pruned, only the first seed of a trial is run at first, and the
others once it is known to be whole. A trial that asks for settings which another one has tried, or
is trying, is not run, and ends as that one does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.store import journal, results, run_dirs, sweep_record
from recipe.store.sweep_jobs import Ended
from recipe.sweep.search import dimension
from recipe.sweep.search.study import Point, Study

FINAL = {"FAILED": "FAIL", "REFUSED": "FAIL", "PRUNED": "PRUNED"}
"""What a run's end means for its trial. One that was killed, or run elsewhere, ends nothing: the
same command makes up for it."""


class Trials(Iterator[tuple[int, list[str]]]):
    """The number and the overrides of each job."""

    def __init__(self, sweep: Path, study: Study) -> None:
        about = sweep_record.read(sweep)
        self._sweep, self._study = sweep, study
        self._dimensions = dimension.of(about)
        self._asked, self._seeds = about["search"], about["seeds"]
        self._fixed = about["fixed"]
        self._planned: list[list[str]] = about["planned"]
        self._variants: list[str] = about["variants"]
        self._trials: list[int] = about["trials"]
        self._queue: deque[int] = deque()
        self._ended: dict[int, Ended] = {}
        self._read = 0
        self._copies: dict[int, list[int]] = {}
        """Trials that ask for what another one tries, by that one's number."""
        self._take_up()

    def __next__(self) -> tuple[int, list[str]]:
        self.hear()
        while not self._queue:
            if len(self._study.trials) >= self._asked["trials"]:
                raise StopIteration
            self._begin(*self._study.ask())
        job = self._queue.popleft()
        return job, [*self._fixed, *self._planned[job]]

    def hear(self) -> None:
        """Takes note of the jobs that have ended."""
        lines, self._read = journal.read(self._sweep / "jobs.jsonl", self._read)
        for line in lines:
            ended = Ended(**line)
            if ended.number < len(self._trials):
                self._ended[ended.number] = ended
                self._settle(self._trials[ended.number])

    def _take_up(self) -> None:
        """What isn't done of the trials that were begun before; the ends of jobs that are known
        are heard without running anything."""
        running = [t.number for t in self._study.trials if not t.state.is_finished()]
        lines, self._read = journal.read(self._sweep / "jobs.jsonl")
        for line in lines:
            ended = Ended(**line)
            self._ended[ended.number] = ended
        for number in running:
            if number not in self._trials:
                self._begin(number, self._study.trials[number].params)
                continue
            for job in self._jobs(number):
                known = self._ended.get(job)
                if known is None or known.status not in ("FINISHED", *FINAL):
                    self._queue.append(job)
            self._settle(number)

    def _begin(self, trial: int, point: Point) -> None:
        first = self._same(trial, point)
        if first is not None:
            state = self._study.trials[first].state
            if state.is_finished():
                self._copy(first, trial)
            else:
                self._copies.setdefault(first, []).append(trial)
            self._note()
            return
        prunes = self._asked["pruner"] != "none"
        self._plan(trial, point, self._seeds[:1] if prunes else self._seeds)

    def _same(self, trial: int, point: Point) -> int | None:
        """An earlier trial of the same settings, of which runs are planned."""
        for known in self._study.trials[:trial]:
            if known.params == point and known.number in self._trials:
                return known.number
        return None

    def _plan(self, trial: int, point: Point, seeds: list[str]) -> None:
        chosen = [d.override(point[d.key]) for d in self._dimensions]
        shown = " ".join(d.short(point[d.key]) for d in self._dimensions)
        for seed in seeds:
            self._queue.append(len(self._planned))
            self._planned.append([*chosen, seed])
            self._variants.append(f"trial {trial + 1}: {shown}")
            self._trials.append(trial)
        self._note()

    def _note(self) -> None:
        """In sweep.json before any of it runs."""
        known = self._study.trials
        planned = set(self._trials)
        open_ = sum(t.number in planned and not t.state.is_finished() for t in known)
        to_come = (open_ + self._asked["trials"] - len(known)) * len(self._seeds)
        running = sum(not known[t].state.is_finished() for t in self._trials)
        sweep_record.note(
            self._sweep,
            planned=self._planned,
            variants=self._variants,
            trials=self._trials,
            jobs=len(self._planned) + to_come - running,
        )

    def _jobs(self, trial: int) -> list[int]:
        return [job for job, of in enumerate(self._trials) if of == trial]

    def _settle(self, trial: int) -> None:
        """Tells Optuna what came of a trial, if its jobs say so, or plans the rest of them."""
        known = self._study.trials[trial]
        if known.state.is_finished():
            return
        jobs = self._jobs(trial)
        ends = [self._ended.get(job) for job in jobs]
        final = [FINAL[each.status] for each in ends if each and each.status in FINAL]
        values = [self._value(each) for each in ends]
        whole = [value for value in values if value is not None]
        if final:
            self._study.ended(trial, final[0])
            for job in jobs:
                if job in self._queue:
                    self._queue.remove(job)
        elif len(whole) < len(jobs):
            return
        elif len(jobs) < len(self._seeds):
            return self._plan(trial, known.params, self._seeds[len(jobs) :])
        else:
            self._study.whole(trial, whole, self._curve(ends[0]))
        for copy in self._copies.pop(trial, ()):
            self._copy(trial, copy)
        self._note()

    def _copy(self, first: int, trial: int) -> None:
        """The same settings have the same end."""
        known = self._study.trials[first]
        if known.value is not None and known.state.name == "COMPLETE":
            self._study.whole(trial, known.user_attrs["values over seeds"], [])
        else:
            self._study.ended(trial, known.state.name)

    def _value(self, ended: Ended | None) -> float | None:
        """The metric of a run that finished, after its last epoch; None where there is none."""
        result = self._result(ended)
        value = result.last.get(self._asked["metric"], math.nan) if result else math.nan
        return value if math.isfinite(value) else None

    def _curve(self, ended: Ended | None) -> list[float]:
        result = self._result(ended) if self._asked["pruner"] != "none" else None
        points: Any = result.curves.get(self._asked["metric"], []) if result else []
        return [value for _, value in points if math.isfinite(value)]

    def _result(self, ended: Ended | None) -> results.Result | None:
        if ended is None or ended.status != "FINISHED" or not ended.run:
            return None
        recorded = run_dirs.folder(self._sweep.parent.parent)
        return results.read(recorded / Path(ended.run).name)
