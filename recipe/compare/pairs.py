"""Two variants side by side: which of their runs are pairs, and what the pairs say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from recipe.compare.finding import Contrast, Finding
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.variants import Variant
from recipe.config.groups import OFF_OPTIONS
from recipe.evidence.intervals import ConfidenceInterval, t_interval
from recipe.store.results import RunResult

ResultsBySeed = Mapping[str, RunResult]
"""By seed."""


def compare_variants(
    trick: str,
    question: Contrast,
    with_it: Variant,
    without: Variant,
    unit: MetricUnit,
    kept_tricks: str = "",
) -> Finding:
    """What the pairs of the two say, not judged yet."""
    seeds, refused = pair_runs(with_it.results, without.results, unit)
    pairs = [(with_it.results[seed], without.results[seed]) for seed in seeds]
    return replace(
        summarize_trick(trick, list(with_it.results.values()), list(without.results.values())),
        contrast=question,
        compared_levels=(with_it.levels, without.levels),
        kept_tricks=kept_tricks,
        seeds=seeds,
        differences=[unit.get_value(one) - unit.get_value(other) for one, other in pairs],
        unpaired_seeds=refused,
        time_ratio=compute_time_ratio([[each] for each in pairs]),
    )


def pair_runs(
    one: ResultsBySeed,
    other: ResultsBySeed,
    unit: MetricUnit,
    unmatched_reasons: tuple[str, str] = ("only run with it", "only run without it"),
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which both have a run, started alike and measured alike; and why others could
    not be paired. `only` is what to say where it was just the first, or just the other."""
    seeds, refused = [], defaultdict(list)
    for seed in sort_seeds({*one, *other}):
        if seed not in one or seed not in other:
            refused[unmatched_reasons[seed in other]].append(seed)
        elif reason := _find_mismatch(one[seed], other[seed], unit):
            refused[reason].append(seed)
        else:
            seeds.append(seed)
    return seeds, dict(refused)


def _find_mismatch(one: RunResult, other: RunResult, unit: MetricUnit) -> str:
    """Why two runs of one seed can't be compared; empty if they can."""
    if not one.initial_state or not other.initial_state:
        return "recorded without hashes of what it started from"
    names = [
        name
        for name in one.initial_state
        if one.initial_state[name] != other.initial_state.get(name)
        and not _is_expected_difference(name, one, other)
    ]
    if names:
        return f"they started from other {' and '.join(names)}"
    groups = _find_differing_groups([one, other], unit)
    if unit.is_training_metric and groups:
        return f"{explain_training_metric(groups, unit)}; take --metric val/accuracy"
    if groups:
        accuracy = f"{unit.metric.removesuffix('loss')}accuracy"
        return f"{unit.metric} is of another loss there; take --metric {accuracy}"
    return ""


INITIAL_STATE_GROUPS = {"weights": "model", "order": "sampler"}
"""Of what a run starts from, the group that makes it: it differs where that is compared."""


def _is_expected_difference(name: str, one: RunResult, other: RunResult) -> bool:
    """Whether a start differs because the two runs are of different options or settings of the
    group that makes it: runs of a pair differ in nothing but the trick that is compared."""
    group = INITIAL_STATE_GROUPS.get(name)
    return group is not None and format_group_settings(one, group) != format_group_settings(
        other, group
    )


TRAINING_METRIC_GROUPS = {
    "data": "the inputs",
    "sampler": "which samples come how often",
    "augment": "the inputs and targets",
    "loss": "what is minimised",
    "sharpness": "what is minimised",
}
"""What each group changes of that which a metric of training is measured on."""

IGNORED_SETTINGS = (
    "data.path", "data.workers", "data.slow_after", "data.batch_size", "data.eval_batch_size",
    "loss.takes", "augment.gives",
)  # fmt: skip
"""Settings of those groups that change nothing of it."""


def format_group_settings(run: RunResult, group: str) -> str:
    """The option of a group and those of its settings that change what is measured."""
    settings = sorted(run.settings.items())
    given = [
        f"{key}={value}"
        for key, value in settings
        if key.startswith(f"{group}.") and key not in IGNORED_SETTINGS
    ]
    return " ".join([run.settings.get(group, ""), *given])


def _find_differing_groups(runs: Iterable[RunResult], unit: MetricUnit) -> list[str]:
    """The groups in which the runs differ so that the metric is not measured alike."""
    groups = TRAINING_METRIC_GROUPS if unit.is_training_metric else ["loss"] if unit.is_loss else []
    runs = list(runs)
    return [
        group for group in groups if len({format_group_settings(run, group) for run in runs}) > 1
    ]


def explain_training_metric(groups: Iterable[str], unit: MetricUnit) -> str:
    """Why a metric of training can't be compared between runs that differ in these groups."""
    changed = [f"{group} changes {TRAINING_METRIC_GROUPS[group]}" for group in groups]
    return f"{unit.metric} is measured on what a run trains with, and {' and '.join(changed)}"


def find_metric_scales(runs: Iterable[RunResult], unit: MetricUnit) -> list[str]:
    """Why the metric isn't measured alike in all runs: for a loss of validation the losses, for a
    metric of training the groups; none where it is."""
    runs = list(runs)
    groups = _find_differing_groups(runs, unit)
    if unit.is_training_metric:
        return groups
    return sorted({format_group_settings(run, "loss") for run in runs}) if groups else []


def sort_seeds(seeds: Iterable[str]) -> list[str]:
    """As numbers, where they are."""

    def sort_key(seed: str) -> tuple[int, str]:
        return (int(seed), "") if seed.isdecimal() and len(seed) < 19 else (10**19, seed)

    return sorted(seeds, key=sort_key)


def summarize_trick(
    trick: str, runs: Sequence[RunResult], without: Sequence[RunResult] = ()
) -> Finding:
    """What the runs with a trick say of it by themselves; where it stands for "off", what those
    without it say of what they have in its place."""
    group = trick.partition("=")[0].partition(".")[0]
    off = OFF_OPTIONS.get(group)
    others = {str(run.settings.get(group)) for run in without}
    whose = ""
    if off and len(others) == 1 and all(run.settings.get(group) == off for run in runs):
        whose, runs = f"{group}={others.pop()}", without
    idle = sum(any(message.partition("=")[0] == group for message in run.no_effect) for run in runs)
    clips = [run for run in runs if group == "clip" and run.settings.get("clip") != "none"]
    bites = [run.last["clip/hit_rate"] for run in clips if "clip/hit_rate" in run.last]
    share = math.fsum(bites) / len(bites) if bites and not whose else None
    return Finding(
        trick,
        "alone",
        num_no_effect_runs=idle,
        num_runs=len(runs),
        audited_trick=whose,
        clipped_fraction=share,
    )


def compute_time_ratio(
    pairs: Sequence[Sequence[tuple[RunResult, RunResult]]],
) -> ConfidenceInterval | None:
    """The ratio of the seconds of an epoch, of each seed's pairs first."""
    of_each = [
        [math.log(one.epoch_s / other.epoch_s) for one, other in some
         if one.epoch_s and other.epoch_s]
        for some in pairs
    ]  # fmt: skip
    logs = [math.fsum(some) / len(some) for some in of_each if some]
    if not logs:
        return None
    found = t_interval(logs)
    mean, low, high = (math.exp(min(value, 700)) for value in (found.mean, found.low, found.high))
    return replace(found, mean=mean, low=low, high=high)
