"""Two variants side by side: which of their runs are pairs, and what the pairs say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from recipe.compare.finding import Finding, Question
from recipe.compare.metric_unit import Unit
from recipe.compare.variants import Variant
from recipe.config import option_files
from recipe.evidence import statistics
from recipe.evidence.statistics import Interval
from recipe.store.results import Result

Runs = Mapping[str, Result]
"""By seed."""


def finding(
    trick: str, question: Question, with_it: Variant, without: Variant, unit: Unit, kept: str = ""
) -> Finding:
    """What the pairs of the two say, not judged yet."""
    seeds, refused = pair(with_it.runs, without.runs, unit)
    pairs = [(with_it.runs[seed], without.runs[seed]) for seed in seeds]
    return replace(
        about(trick, list(with_it.runs.values()), list(without.runs.values())),
        question=question,
        of=(with_it.levels, without.levels),
        kept=kept,
        seeds=seeds,
        differences=[unit.of(one) - unit.of(other) for one, other in pairs],
        unpaired=refused,
        slower=slower([[each] for each in pairs]),
    )


def pair(
    one: Runs,
    other: Runs,
    unit: Unit,
    only: tuple[str, str] = ("only run with it", "only run without it"),
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which both have a run, started alike and measured alike; and why others could
    not be paired. `only` is what to say where it was just the first, or just the other."""
    seeds, refused = [], defaultdict(list)
    for seed in in_order({*one, *other}):
        if seed not in one or seed not in other:
            refused[only[seed in other]].append(seed)
        elif reason := _unlike(one[seed], other[seed], unit):
            refused[reason].append(seed)
        else:
            seeds.append(seed)
    return seeds, dict(refused)


def _unlike(one: Result, other: Result, unit: Unit) -> str:
    """Why two runs of one seed can't be compared; empty if they can."""
    if not one.start or not other.start:
        return "recorded without hashes of what it started from"
    names = [
        name
        for name in one.start
        if one.start[name] != other.start.get(name) and not _explained(name, one, other)
    ]
    if names:
        return f"they started from other {' and '.join(names)}"
    groups = _measured_otherwise([one, other], unit)
    if unit.is_training and groups:
        return f"{training_only(groups, unit)}; take --metric val/accuracy"
    if groups:
        accuracy = f"{unit.metric.removesuffix('loss')}accuracy"
        return f"{unit.metric} is of another loss there; take --metric {accuracy}"
    return ""


MADE_BY = {"weights": "model", "order": "sampler"}
"""Of what a run starts from, the group that makes it: it differs where that is compared."""


def _explained(name: str, one: Result, other: Result) -> bool:
    """Whether a start differs because the two runs are of different options or settings of the
    group that makes it: runs of a pair differ in nothing but the trick that is compared."""
    group = MADE_BY.get(name)
    return group is not None and settings_of(one, group) != settings_of(other, group)


TRAINED_WITH = {
    "data": "the inputs",
    "sampler": "which samples come how often",
    "augment": "the inputs and targets",
    "loss": "what is minimised",
    "sharpness": "what is minimised",
}
"""What each group changes of that which a metric of training is measured on."""

SPARED = (
    "data.path", "data.workers", "data.slow_after", "data.batch_size", "data.eval_batch_size",
    "loss.takes", "augment.gives",
)  # fmt: skip
"""Settings of those groups that change nothing of it."""


def settings_of(run: Result, group: str) -> str:
    """The option of a group and those of its settings that change what is measured."""
    settings = sorted(run.settings.items())
    given = [
        f"{key}={value}"
        for key, value in settings
        if key.startswith(f"{group}.") and key not in SPARED
    ]
    return " ".join([run.settings.get(group, ""), *given])


def _measured_otherwise(runs: Iterable[Result], unit: Unit) -> list[str]:
    """The groups in which the runs differ so that the metric is not measured alike."""
    groups = TRAINED_WITH if unit.is_training else ["loss"] if unit.is_loss else []
    runs = list(runs)
    return [group for group in groups if len({settings_of(run, group) for run in runs}) > 1]


def training_only(groups: Iterable[str], unit: Unit) -> str:
    """Why a metric of training can't be compared between runs that differ in these groups."""
    changed = [f"{group} changes {TRAINED_WITH[group]}" for group in groups]
    return f"{unit.metric} is measured on what a run trains with, and {' and '.join(changed)}"


def scales(runs: Iterable[Result], unit: Unit) -> list[str]:
    """Why the metric isn't measured alike in all runs: for a loss of validation the losses, for a
    metric of training the groups; none where it is."""
    runs = list(runs)
    groups = _measured_otherwise(runs, unit)
    if unit.is_training:
        return groups
    return sorted({settings_of(run, "loss") for run in runs}) if groups else []


def in_order(seeds: Iterable[str]) -> list[str]:
    """As numbers, where they are."""

    def order(seed: str) -> tuple[int, str]:
        return (int(seed), "") if seed.isdecimal() and len(seed) < 19 else (10**19, seed)

    return sorted(seeds, key=order)


def about(trick: str, runs: Sequence[Result], without: Sequence[Result] = ()) -> Finding:
    """What the runs with a trick say of it by themselves; where it stands for "off", what those
    without it say of what they have in its place."""
    group = trick.partition("=")[0].partition(".")[0]
    off = option_files.OFF.get(group)
    others = {str(run.settings.get(group)) for run in without}
    whose = ""
    if off and len(others) == 1 and all(run.settings.get(group) == off for run in runs):
        whose, runs = f"{group}={others.pop()}", without
    idle = sum(any(said.partition("=")[0] == group for said in run.no_effect) for run in runs)
    clips = [run for run in runs if group == "clip" and run.settings.get("clip") != "none"]
    bites = [run.last["clip/hit_rate"] for run in clips if "clip/hit_rate" in run.last]
    share = math.fsum(bites) / len(bites) if bites and not whose else None
    return Finding(trick, "alone", idle=idle, runs=len(runs), whose=whose, bites=share)


def slower(pairs: Sequence[Sequence[tuple[Result, Result]]]) -> Interval | None:
    """The ratio of the seconds of an epoch, of each seed's pairs first."""
    of_each = [
        [math.log(one.epoch_s / other.epoch_s) for one, other in some
         if one.epoch_s and other.epoch_s]
        for some in pairs
    ]  # fmt: skip
    logs = [math.fsum(some) / len(some) for some in of_each if some]
    if not logs:
        return None
    found = statistics.interval(logs)
    mean, low, high = (math.exp(min(value, 700)) for value in (found.mean, found.low, found.high))
    return replace(found, mean=mean, low=low, high=high)
