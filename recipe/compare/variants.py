"""The factors in which recorded runs differ, and the variants that they are runs of.

A factor is a group, or a setting outside of groups, that differs between runs; each of its levels
is an option or a setting. One level of each factor is that of the baseline.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.config import option_files
from recipe.config.groups import GROUPS, OFF_OPTIONS
from recipe.config.option_files import suggest_nearest
from recipe.errors import SpecError
from recipe.formatting import format_list
from recipe.store.results import RunResult

DEVICE_GROUP = "device"

IGNORED_GROUPS = (DEVICE_GROUP, "tracking")

IGNORED_SETTINGS = ("data.path", "data.workers")

SETTING_SEPARATOR = re.compile(r",(?![^\[]*\])")  # not within a list

# a number that is a value or an item of a list, not part of a name or quoted
NUMBER_PATTERN = re.compile(
    r"(?<![^\[\s,:{])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![^\]\s,}])"
)

MAJORITY_RATIO = 2

Levels = tuple[str, ...]  # of a variant: one per factor


@dataclass(frozen=True)
class Factor:
    name: str
    """A group, or a setting outside of groups."""
    levels: Sequence[str]
    """`group=option` with the settings that differ between runs of the option; that of the baseline
    first."""

    @property
    def is_trick(self) -> bool:
        """Whether the group can be turned off."""
        return self.name in OFF_OPTIONS

    @property
    def non_baseline_levels(self) -> Sequence[str]:
        return self.levels[1:]


@dataclass(frozen=True)
class Variant:
    levels: Levels
    name: str
    """Its levels that aren't those of the baseline."""
    results: Mapping[str, RunResult]
    """The latest finished run by seed."""


@dataclass(frozen=True)
class VariantSet:
    factors: Sequence[Factor]
    by_levels: Mapping[Levels, Variant]
    num_repeated: int = 0
    """The number of runs that were replaced by a later one of the same variant and seed."""

    @property
    def baseline_levels(self) -> Levels:
        return tuple(factor.levels[0] for factor in self.factors)

    @property
    def baseline_background(self) -> Levels:
        return tuple(f.levels[0] for f in self.factors if not f.is_trick)

    def get_background(self, variant: Variant) -> Levels:
        """The levels of the factors that aren't tricks."""
        pairs = zip(self.factors, variant.levels, strict=True)
        return tuple(level for factor, level in pairs if not factor.is_trick)

    def find_nearest(self, levels: Levels) -> list[Levels]:
        """The levels of existing variants, the most similar first."""
        return sorted(self.by_levels, key=lambda other: sum(map(operator.ne, levels, other)))

    def format_label(self, variant: Variant) -> str:
        """The short name of a variant for figures; of three or more tricks, `all tricks` or `all
        but` one."""
        if len(self.factors) > 2 and all(len(factor.levels) == 2 for factor in self.factors):
            pairs = zip(self.factors, variant.levels, strict=True)
            missing = [factor.levels[1] for factor, level in pairs if level == factor.levels[0]]
            if len(missing) < 2:
                return f"all but {missing[0]}" if missing else "all tricks"
        return variant.name

    def get_variant_with_level(
        self, levels: Levels, factor_index: int, level: str
    ) -> Variant | None:
        """The variant with these levels except one, if there are runs of it."""
        return self.by_levels.get((*levels[:factor_index], level, *levels[factor_index + 1 :]))


@dataclass
class _DifferingSettings:
    """The differing settings of a group."""

    keys: list[str] = field(default_factory=list)
    has_option: bool = False
    """Whether the option differs."""


def build_variants(results: Sequence[RunResult], baseline_text: str = "") -> VariantSet:
    """Groups runs into variants. `baseline_text` sets levels of the baseline, as in
    `clip=none,scheduler=constant`; other factors have the option `off`, else the default, else the
    level of the first run.

    Raises SpecError for a level that no run has.
    """
    results = _normalize_numbers(results)
    groups, levels_of_runs = _split_into_factors(results)
    requested = _parse_baseline(baseline_text)
    columns = [list(dict.fromkeys(column)) for column in zip(*levels_of_runs, strict=True)]
    given = [
        _find_requested_level(name, column, requested)
        for name, column in zip(groups, columns, strict=True)
    ]
    baseline = [
        level or _choose_baseline_level(name, column, results[0].settings)
        for name, column, level in zip(groups, columns, given, strict=True)
    ]
    baseline = _choose_background(list(groups), levels_of_runs, given, baseline)
    factors = [
        Factor(name, [first, *(level for level in column if level != first)])
        for name, column, first in zip(groups, columns, baseline, strict=True)
    ]
    if unknown := sorted(set(requested) - set(groups)):
        raise SpecError(_describe_unknown_level(key, requested[key][0], results) for key in unknown)
    found: dict[Levels, dict[str, RunResult]] = defaultdict(dict)
    for levels, result in zip(levels_of_runs, results, strict=True):
        found[levels][result.seed] = result  # results are in the order of their starts
    by_levels = {
        levels: Variant(levels, _name_variant(levels, baseline), runs)
        for levels, runs in found.items()
    }
    count = sum(len(variant.results) for variant in by_levels.values())
    return VariantSet(factors, by_levels, len(results) - count)


def _choose_background(
    names: Sequence[str],
    levels_of_runs: Sequence[Levels],
    given: Sequence[str | None],
    baseline: list[str],
) -> list[str]:
    """Replaces the levels of factors that are neither tricks nor given by the most common ones, if
    these have more than `MAJORITY_RATIO` times as many runs."""
    background = [index for index, name in enumerate(names) if name not in OFF_OPTIONS]
    counts = Counter(
        tuple(levels[index] for index in background)
        for levels in levels_of_runs
        if all(given[index] in (None, levels[index]) for index in background)
    )
    if not counts:
        return baseline
    most, number = counts.most_common(1)[0]
    if number > MAJORITY_RATIO * counts[tuple(baseline[index] for index in background)]:
        for index, level in zip(background, most, strict=True):
            baseline[index] = level
    return baseline


def _normalize_numbers(results: Sequence[RunResult]) -> list[RunResult]:
    """Writes equal numbers of a setting alike in all runs: 1, 1.0 and 1e0."""
    spellings: dict[tuple[str, str], str] = {}
    varying = _find_varying_keys(results)
    found = []
    for result in results:
        values = {
            key: spellings.setdefault((key, _normalize_value(value)), value)
            for key in varying
            if (value := result.settings.get(key)) is not None
        }
        if any(result.settings[key] != value for key, value in values.items()):
            result = replace(result, settings={**result.settings, **values})
        found.append(result)
    return found


def _find_varying_keys(results: Sequence[RunResult]) -> list[str]:
    """The settings that aren't written alike in all runs."""
    common = set(results[0].settings.items())  # fast for many runs with many settings
    for result in results:
        common.intersection_update(result.settings.items())
    constant = {key for key, _ in common}
    keys = dict.fromkeys(itertools.chain.from_iterable(result.settings for result in results))
    return [key for key in keys if key not in constant]


@functools.cache
def _normalize_value(value: str) -> str:
    return NUMBER_PATTERN.sub(lambda found: repr(float(found[0])), _remove_list_spaces(value))


def _split_into_factors(
    results: Sequence[RunResult],
) -> tuple[dict[str, _DifferingSettings], list[Levels]]:
    """The differing settings by factor, and the levels of each run. Devices, paths and workers are
    factors only if otherwise equal runs of a seed differ in them."""
    varying = _find_varying_keys(results)
    groups = _find_differing_settings(results, varying, (*IGNORED_GROUPS, *IGNORED_SETTINGS))
    levels_of_runs = [_get_levels(result, groups) for result in results]
    ignored_keys = [key for key in varying if _is_key_in(key, (DEVICE_GROUP, *IGNORED_SETTINGS))]
    ignored: dict[tuple[Levels, str], set[tuple[str, ...]]] = defaultdict(set)
    for levels, result in zip(levels_of_runs, results, strict=True):
        values = tuple(result.settings.get(key, "") for key in ignored_keys)
        ignored[levels, result.seed].add(values)
    if any(len(values_of_seed) > 1 for values_of_seed in ignored.values()):
        always_ignored = [name for name in IGNORED_GROUPS if name != DEVICE_GROUP]
        groups = _find_differing_settings(results, varying, always_ignored)
        levels_of_runs = [_get_levels(result, groups) for result in results]
    return groups, levels_of_runs


def _is_key_in(key: str, names: Sequence[str]) -> bool:
    return key in names or key.partition(".")[0] in names


def _find_differing_settings(
    results: Sequence[RunResult], varying: Sequence[str], ignored: Sequence[str]
) -> dict[str, _DifferingSettings]:
    values: dict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    compared = [key for key in varying if not _is_key_in(key, ignored)]
    for result in results:
        settings = result.settings
        for key in compared:
            values[key].add((settings.get(key.partition(".")[0]), settings.get(key)))
    differing = [key for key in compared if len(values[key]) > 1]
    groups: dict[str, _DifferingSettings] = {}
    order = {group: index for index, group in enumerate(GROUPS)}
    for key in sorted(differing, key=lambda key: order.get(key.partition(".")[0], -1)):
        group, dot, _ = key.partition(".")
        seen = values[key]
        if not dot:
            groups.setdefault(group, _DifferingSettings()).has_option = True
        elif len({option for option, _ in seen}) < len(seen) and any(
            result.settings.get(key, result.seed) != result.seed for result in results
        ):
            groups.setdefault(group, _DifferingSettings()).keys.append(key)
    return groups


def _get_levels(result: RunResult, groups: Mapping[str, _DifferingSettings]) -> Levels:
    settings, found = result.settings, []
    for name, group in groups.items():
        texts = [f"{name}={settings.get(name)}"] if group.has_option else []
        texts += [
            f"{key}={_remove_list_spaces(settings[key])}" for key in group.keys if key in settings
        ]
        found.append(" ".join(texts) or f"{name}: as given")
    return tuple(found)


def _remove_list_spaces(value: str) -> str:
    """Removes the spaces of lists, as spaces separate settings."""
    return value.replace(", ", ",")


def _name_variant(levels: Levels, baseline: Sequence[str]) -> str:
    changed = [level for level, first in zip(levels, baseline, strict=True) if level != first]
    return " ".join(changed) or "baseline"


def _parse_baseline(baseline: str) -> dict[str, list[str]]:
    """The settings of the baseline by factor."""
    found: dict[str, list[str]] = defaultdict(list)
    for part in SETTING_SEPARATOR.split(_remove_list_spaces(baseline)):
        if text := part.strip():
            if "=" not in text:
                raise SpecError(f"baseline: {text}: write group=option,group=option")
            found[text.partition("=")[0].partition(".")[0]].append(text)
    return found


def _describe_unknown_level(key: str, text: str, results: Sequence[RunResult]) -> str:
    """Describes a level of the baseline that isn't one of a factor."""
    if key == "seed":
        return f"baseline: {text}: runs are paired by their seeds; leave it out"
    known = {setting.partition(".")[0] for run in results for setting in run.settings}
    if key not in known:
        names = sorted(known - {*IGNORED_GROUPS})
        hint = suggest_nearest(key, known) or f"; there are {format_list(names, 8)}"
        return f"baseline: {text}: runs have no {key}{hint}"
    values = {
        value for run in results for k, value in run.settings.items() if k == text.partition("=")[0]
    }
    if len(values) == 1 and _parse_setting(text)[1] != _normalize_value(*values):
        return f"baseline: {text}: all runs have {text.partition('=')[0]}={values.pop()}"
    return f"baseline: {text}: all runs have the same {key}; leave it out"


def _find_requested_level(
    name: str, levels: Sequence[str], requested: Mapping[str, list[str]]
) -> str | None:
    if name not in requested:
        return None
    wanted = {_parse_setting(text) for text in requested[name]}
    for level in levels:
        if wanted <= set(map(_parse_setting, level.split(" "))):
            return level
    given = " ".join(requested[name])
    raise SpecError(f"baseline: {given}: no run has it; there are {format_list(levels, 8)}")


def _parse_setting(text: str) -> tuple[str, str]:
    """Splits a setting into its key and normalised value."""
    key, _, value = text.partition("=")
    return key, "None" if value == "null" else _normalize_value(value)


def _choose_baseline_level(name: str, levels: Sequence[str], first: Mapping[str, str]) -> str:
    """The option `off`, else the default, else the level of the first run, whose settings are
    `first`."""
    for wanted in (OFF_OPTIONS.get(name), option_files.get_default_options().get(name)):
        fitting = [level for level in levels if level.split(" ")[0] == f"{name}={wanted}"]
        if fitting:
            return next((level for level in fitting if _is_default_level(level, first)), fitting[0])
    return next((level for level in levels if _is_default_level(level, first)), levels[0])


def _is_default_level(level: str, first: Mapping[str, str]) -> bool:
    """Whether its settings have the values of the option's file."""
    pairs = dict(text.partition("=")[::2] for text in level.split(" ") if "=" in text)
    settings = {key: value for key, value in pairs.items() if key not in GROUPS}
    return bool(settings) and all(
        _normalize_value(_get_default(key, {**first, **pairs}) or "") == _normalize_value(value)
        for key, value in settings.items()
    )


def _get_default(key: str, pairs: Mapping[str, str]) -> str | None:
    group, _, setting = key.partition(".")
    with contextlib.suppress(OSError, OmegaConfBaseException, ValueError):
        if not setting:
            return str(option_files.get_run_default(key))
        option = pairs.get(group, "")
        file = option_files.find_options(group).get(option)
        value: Any = (
            OmegaConf.select(OmegaConf.create(dict(file.content)), setting) if file else None
        )
        return None if value is None else _remove_list_spaces(str(value))
    return None
