"""Pairs of runs of two variants, and the differences within them."""

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

# the group that makes each part of the initial state
INITIAL_STATE_GROUPS = {"weights": "model", "order": "sampler"}

# how each group changes what metrics of training are measured on
TRAINING_METRIC_GROUPS = {
    "data": "the inputs",
    "sampler": "how often each sample occurs",
    "augment": "the inputs and targets",
    "loss": "what is minimised",
    "sharpness": "what is minimised",
}

# settings of these groups that don't change it
IGNORED_SETTINGS = (
    "data.path", "data.workers", "data.slow_after", "data.batch_size", "data.eval_batch_size",
    "loss.takes", "augment.gives",
)  # fmt: skip


def compare_variants(
    trick: str,
    contrast: Contrast,
    with_it: Variant,
    without: Variant,
    unit: MetricUnit,
    kept_tricks: str = "",
) -> Finding:
    """Returns a finding without tests and a verdict."""
    seeds, unpaired = pair_runs(with_it.results, without.results, unit)
    pairs = [(with_it.results[seed], without.results[seed]) for seed in seeds]
    return replace(
        summarize_trick(trick, list(with_it.results.values()), list(without.results.values())),
        contrast=contrast,
        compared_levels=(with_it.levels, without.levels),
        kept_tricks=kept_tricks,
        seeds=seeds,
        differences=[unit.get_value(one) - unit.get_value(other) for one, other in pairs],
        unpaired_seeds=unpaired,
        time_ratio=compute_time_ratio([[pair] for pair in pairs]),
    )


def pair_runs(
    one: ResultsBySeed,
    other: ResultsBySeed,
    unit: MetricUnit,
    unmatched_reasons: tuple[str, str] = ("run only with it", "run only without it"),
) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the seeds whose runs of both variants started and were measured alike, and the others
    by reason; `unmatched_reasons` are those of seeds that only `one` or only `other` has."""
    seeds, unpaired = [], defaultdict(list)
    for seed in sort_seeds({*one, *other}):
        if seed not in one or seed not in other:
            unpaired[unmatched_reasons[seed in other]].append(seed)
        elif reason := _find_mismatch(one[seed], other[seed], unit):
            unpaired[reason].append(seed)
        else:
            seeds.append(seed)
    return seeds, dict(unpaired)


def _find_mismatch(one: RunResult, other: RunResult, unit: MetricUnit) -> str:
    """Why two runs of one seed can't be compared; empty if they can."""
    if not one.initial_state or not other.initial_state:
        return "recorded without hashes of the initial state"
    names = [
        name
        for name in one.initial_state
        if one.initial_state[name] != other.initial_state.get(name)
        and not _is_expected_difference(name, one, other)
    ]
    if names:
        return f"they started from different {' and '.join(names)}"
    groups = _find_differing_groups([one, other], unit)
    if unit.is_training_metric and groups:
        return f"{explain_training_metric(groups, unit)}; use --metric val/accuracy"
    if groups:
        accuracy = f"{unit.metric.removesuffix('loss')}accuracy"
        return f"their {unit.metric} is of different losses; use --metric {accuracy}"
    return ""


def _is_expected_difference(name: str, one: RunResult, other: RunResult) -> bool:
    """Whether a part of the initial state differs because the compared trick makes it."""
    group = INITIAL_STATE_GROUPS.get(name)
    return group is not None and format_group_settings(one, group) != format_group_settings(
        other, group
    )


def format_group_settings(run: RunResult, group: str) -> str:
    """The option of a group and those of its settings that change what is measured."""
    settings = [
        f"{key}={value}"
        for key, value in sorted(run.settings.items())
        if key.startswith(f"{group}.") and key not in IGNORED_SETTINGS
    ]
    return " ".join([run.settings.get(group, ""), *settings])


def _find_differing_groups(runs: Iterable[RunResult], unit: MetricUnit) -> list[str]:
    """The groups whose differences change how the metric is measured."""
    groups = TRAINING_METRIC_GROUPS if unit.is_training_metric else ["loss"] if unit.is_loss else []
    runs = list(runs)
    return [
        group for group in groups if len({format_group_settings(run, group) for run in runs}) > 1
    ]


def explain_training_metric(groups: Iterable[str], unit: MetricUnit) -> str:
    """Why a metric of training can't be compared between runs that differ in these groups."""
    changed = [f"{group} changes {TRAINING_METRIC_GROUPS[group]}" for group in groups]
    return f"{unit.metric} is measured on training batches, and {' and '.join(changed)}"


def find_metric_scales(runs: Iterable[RunResult], unit: MetricUnit) -> list[str]:
    """The scales of a metric that is not measured alike in all runs, else none: the losses for a
    validation loss, the differing groups for a metric of training."""
    runs = list(runs)
    groups = _find_differing_groups(runs, unit)
    if unit.is_training_metric:
        return groups
    return sorted({format_group_settings(run, "loss") for run in runs}) if groups else []


def sort_seeds(seeds: Iterable[str]) -> list[str]:
    """Numbers in their order, before other texts."""

    def sort_key(seed: str) -> tuple[int, str]:
        return (int(seed), "") if seed.isdecimal() and len(seed) < 19 else (10**19, seed)

    return sorted(seeds, key=sort_key)


def summarize_trick(
    trick: str, runs: Sequence[RunResult], without: Sequence[RunResult] = ()
) -> Finding:
    """A finding with what the audit and the clip rate of its runs say about a trick; for an option
    that turns a group off, about the trick of the runs without it."""
    group = trick.partition("=")[0].partition(".")[0]
    off = OFF_OPTIONS.get(group)
    others = {str(run.settings.get(group)) for run in without}
    audited_trick = ""
    if off and len(others) == 1 and all(run.settings.get(group) == off for run in runs):
        audited_trick, runs = f"{group}={others.pop()}", without
    rates = [
        run.last["clip/hit_rate"]
        for run in runs
        if group == "clip" and run.settings.get("clip") != "none" and "clip/hit_rate" in run.last
    ]
    return Finding(
        trick,
        "alone",
        num_no_effect_runs=sum(
            any(choice.partition("=")[0] == group for choice in run.no_effect) for run in runs
        ),
        num_runs=len(runs),
        audited_trick=audited_trick,
        clipped_fraction=math.fsum(rates) / len(rates) if rates and not audited_trick else None,
    )


def compute_time_ratio(
    pairs: Sequence[Sequence[tuple[RunResult, RunResult]]],
) -> ConfidenceInterval | None:
    """The ratio of seconds per epoch: geometric mean over the pairs of a seed, then over seeds."""
    logs = []
    for of_seed in pairs:
        ratios = [
            math.log(one.epoch_s / other.epoch_s)
            for one, other in of_seed
            if one.epoch_s and other.epoch_s
        ]
        if ratios:
            logs.append(math.fsum(ratios) / len(ratios))
    if not logs:
        return None
    found = t_interval(logs)
    mean, low, high = (math.exp(min(value, 700)) for value in (found.mean, found.low, found.high))
    return replace(found, mean=mean, low=low, high=high)
