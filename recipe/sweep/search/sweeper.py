"""Hydra's sweeper of a search: runs the jobs of trials, chosen by the results of earlier ones.

Where runs can be pruned, the first seed of a trial is run before the others, which are run if it
completes. A trial with the settings of an earlier one is not run, and gets its result.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.store import journal, results, run_dirs, sweep_record
from recipe.store.sweep_jobs import JobResult
from recipe.sweep import hydra_plugins
from recipe.sweep.hydra_plugins import RecipeSweeper, StreamingLauncher
from recipe.sweep.launchers.hydra_launchers import LauncherWrapper
from recipe.sweep.search import dimension
from recipe.sweep.search.study import SweepStudy, TrialParams

TRIAL_STATES = {"FAILED": "FAIL", "REFUSED": "FAIL", "PRUNED": "PRUNED"}
"""The state of a trial by the status of a run. A run that was killed, or that another process is
running, doesn't end its trial: the same command resumes it."""


class SearchSweeper(RecipeSweeper):
    """Gives Hydra's launchers for Ray and submitit `batch` jobs at a time, others one by one."""

    def __init__(self, batch: int, **settings: Any) -> None:
        """`settings` are in sweep.json."""
        self.batch = batch

    def launch_all(self, sweep_dir: Path, arguments: list[str]) -> None:
        jobs = TrialJobIterator(sweep_dir, SweepStudy.load_or_create(sweep_dir))
        if isinstance(self.launcher, StreamingLauncher):
            self.launcher.stream(jobs, sweep_record.read_record(sweep_dir)["jobs"])
        else:
            size = self.batch if isinstance(self.launcher, LauncherWrapper) else 1
            while batch := dict(itertools.islice(jobs, size)):
                for first, overrides in hydra_plugins.group_consecutive(batch):
                    hydra_plugins.launch_jobs(self.launcher, overrides, first)
        jobs.read_ended_jobs()


class TrialJobIterator(Iterator[tuple[int, list[str]]]):
    """The number and the overrides of each job. Raises StopIteration if there is nothing to run
    until another job has ended."""

    def __init__(self, sweep_dir: Path, study: SweepStudy) -> None:
        about = sweep_record.read_record(sweep_dir)
        self._sweep_dir, self._study = sweep_dir, study
        self._dimensions = dimension.load_dimensions(about)
        self._settings, self._seed_overrides = about["search"], about["seeds"]
        self._fixed_overrides = about["fixed"]
        self._planned_overrides: list[list[str]] = about["planned"]
        self._variant_names: list[str] = about["variants"]
        self._trial_numbers: list[int] = about["trials"]
        self._queue: deque[int] = deque()
        self._ended_jobs: dict[int, JobResult] = {}
        self._read_offset = 0
        self._duplicates: dict[int, list[int]] = {}
        """Trials with the settings of an earlier trial, by its number."""
        self._resume_trials()

    def __next__(self) -> tuple[int, list[str]]:
        self.read_ended_jobs()
        while not self._queue:
            if len(self._study.trials) >= self._settings["trials"]:
                raise StopIteration
            self._start_trial(*self._study.ask())
        job = self._queue.popleft()
        return job, [*self._fixed_overrides, *self._planned_overrides[job]]

    def read_ended_jobs(self) -> None:
        """Updates the trials of the jobs that have ended."""
        lines, self._read_offset = journal.read_lines(
            self._sweep_dir / "jobs.jsonl", self._read_offset
        )
        for line in lines:
            ended = JobResult(**line)
            if ended.number < len(self._trial_numbers):
                self._ended_jobs[ended.number] = ended
                self._update_trial(self._trial_numbers[ended.number])

    def _resume_trials(self) -> None:
        """Queues the unfinished jobs of trials that were started before."""
        running = [t.number for t in self._study.trials if not t.state.is_finished()]
        lines, self._read_offset = journal.read_lines(self._sweep_dir / "jobs.jsonl")
        for line in lines:
            ended = JobResult(**line)
            self._ended_jobs[ended.number] = ended
        for number in running:
            if number not in self._trial_numbers:
                self._start_trial(number, self._study.trials[number].params)
                continue
            for job in self._get_jobs(number):
                known = self._ended_jobs.get(job)
                if known is None or known.status not in ("FINISHED", *TRIAL_STATES):
                    self._queue.append(job)
            self._update_trial(number)

    def _start_trial(self, trial: int, params: TrialParams) -> None:
        earlier = self._study.trials[:trial]
        same = [t.number for t in earlier if t.params == params and t.number in self._trial_numbers]
        if same:
            first = same[0]
            state = self._study.trials[first].state
            if state.is_finished():
                self._copy_result(first, trial)
            else:
                self._duplicates.setdefault(first, []).append(trial)
            self._save_plan()
            return
        prunes = self._settings["pruner"] != "none"
        self._plan_jobs(trial, params, self._seed_overrides[:1] if prunes else self._seed_overrides)

    def _plan_jobs(self, trial: int, params: TrialParams, seeds: list[str]) -> None:
        chosen = [d.to_override(params[d.key]) for d in self._dimensions]
        shown = " ".join(d.format_value(params[d.key]) for d in self._dimensions)
        for seed in seeds:
            self._queue.append(len(self._planned_overrides))
            self._planned_overrides.append([*chosen, seed])
            self._variant_names.append(f"trial {trial + 1}: {shown}")
            self._trial_numbers.append(trial)
        self._save_plan()

    def _save_plan(self) -> None:
        """Records the jobs in sweep.json before any of them runs."""
        known = self._study.trials
        planned = set(self._trial_numbers)
        open_ = sum(t.number in planned and not t.state.is_finished() for t in known)
        to_come = (open_ + self._settings["trials"] - len(known)) * len(self._seed_overrides)
        running = sum(not known[t].state.is_finished() for t in self._trial_numbers)
        sweep_record.update_record(
            self._sweep_dir,
            planned=self._planned_overrides,
            variants=self._variant_names,
            trials=self._trial_numbers,
            jobs=len(self._planned_overrides) + to_come - running,
        )

    def _get_jobs(self, trial: int) -> list[int]:
        return [job for job, of in enumerate(self._trial_numbers) if of == trial]

    def _update_trial(self, trial: int) -> None:
        """Ends a trial in the study if its jobs have ended, or plans the jobs of other seeds."""
        known = self._study.trials[trial]
        if known.state.is_finished():
            return
        jobs = self._get_jobs(trial)
        ends = [self._ended_jobs.get(job) for job in jobs]
        final = [TRIAL_STATES[each.status] for each in ends if each and each.status in TRIAL_STATES]
        values = [self._get_metric(each) for each in ends]
        complete = [value for value in values if value is not None]
        if final:
            self._study.end_trial(trial, final[0])
            for job in jobs:
                if job in self._queue:
                    self._queue.remove(job)
        elif len(complete) < len(jobs):
            return
        elif len(jobs) < len(self._seed_overrides):
            return self._plan_jobs(trial, known.params, self._seed_overrides[len(jobs) :])
        else:
            self._study.complete_trial(trial, complete, self._get_metric_curve(ends[0]))
        for copy in self._duplicates.pop(trial, ()):
            self._copy_result(trial, copy)
        self._save_plan()

    def _copy_result(self, first: int, trial: int) -> None:
        known = self._study.trials[first]
        if known.value is not None and known.state.name == "COMPLETE":
            self._study.complete_trial(trial, known.user_attrs["values over seeds"], [])
        else:
            self._study.end_trial(trial, known.state.name)

    def _get_metric(self, ended: JobResult | None) -> float | None:
        """The metric of a finished run after its last epoch; None if there is none."""
        result = self._load_result(ended)
        value = result.last.get(self._settings["metric"], math.nan) if result else math.nan
        return value if math.isfinite(value) else None

    def _get_metric_curve(self, ended: JobResult | None) -> list[float]:
        result = self._load_result(ended) if self._settings["pruner"] != "none" else None
        points: Any = result.curves.get(self._settings["metric"], []) if result else []
        return [value for _, value in points if math.isfinite(value)]

    def _load_result(self, ended: JobResult | None) -> results.RunResult | None:
        if ended is None or ended.status != "FINISHED" or not ended.run:
            return None
        recorded = run_dirs.get_runs_dir(self._sweep_dir.parent.parent)
        return results.read_result(recorded / Path(ended.run).name)
