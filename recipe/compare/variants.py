"""Recorded runs taken apart: what differs between them, and the variants that they are runs of.

A factor is a group, or a setting of the whole run, that isn't alike in all of them; each of its
levels is an option or a setting. One level of each is the baseline's.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
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
"""Groups that aren't compared; other devices are cautioned about."""

IGNORED_SETTINGS = ("data.path", "data.workers")
"""Settings that are places, or only say how fast."""

SETTING_SEPARATOR = re.compile(r",(?![^\[]*\])")
"""What separates settings, not what lies within a list."""

NUMBER_PATTERN = re.compile(
    r"(?<![^\[\s,:{])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![^\]\s,}])"
)
"""A number by itself or in a list, not a part of a name nor within quotes."""

MAJORITY_RATIO = 2

Levels = tuple[str, ...]
"""Of a variant: one of each factor, in their order."""


@dataclass(frozen=True)
class Factor:
    name: str
    """A group, or a setting of the whole run."""
    levels: Sequence[str]
    """`group=option`, with those settings that aren't alike in all runs of the option; the
    baseline's first."""

    @property
    def is_trick(self) -> bool:
        """Whether it is one that can be off."""
        return self.name in OFF_OPTIONS

    @property
    def non_baseline_levels(self) -> Sequence[str]:
        """What a run can have beyond the baseline."""
        return self.levels[1:]


@dataclass(frozen=True)
class Variant:
    levels: Levels
    name: str
    """What it has beyond the baseline."""
    results: Mapping[str, RunResult]
    """The finished runs by seed; of several of a seed the latest."""


@dataclass(frozen=True)
class VariantSet:
    factors: Sequence[Factor]
    by_levels: Mapping[Levels, Variant]
    num_repeated: int = 0
    """Runs left out because a later one is of the same variant and seed."""

    @property
    def baseline_levels(self) -> Levels:
        return tuple(factor.levels[0] for factor in self.factors)

    @property
    def baseline_background(self) -> Levels:
        """The baseline's levels of what is no trick."""
        return tuple(f.levels[0] for f in self.factors if not f.is_trick)

    def get_background(self, variant: Variant) -> Levels:
        """The background of a variant: what tricks are tried on."""
        pairs = zip(self.factors, variant.levels, strict=True)
        return tuple(level for factor, level in pairs if not factor.is_trick)

    def find_nearest(self, levels: Levels) -> list[Levels]:
        """Those that there are, the most alike first."""

        def count_differences(other: Levels) -> int:
            return sum(a != b for a, b in zip(levels, other, strict=True))

        return sorted(self.by_levels, key=count_differences)

    def format_label(self, variant: Variant) -> str:
        """A variant's name in a picture, which has less room: of three tricks or more, all are
        `all tricks`, and without one they are `all but` that."""
        if len(self.factors) > 2 and all(len(factor.levels) == 2 for factor in self.factors):
            pairs = zip(self.factors, variant.levels, strict=True)
            missing = [factor.levels[1] for factor, level in pairs if level == factor.levels[0]]
            if len(missing) < 2:
                return f"all but {missing[0]}" if missing else "all tricks"
        return variant.name

    def get_variant_with_level(
        self, levels: Levels, factor_index: int, level: str
    ) -> Variant | None:
        """The variant that has that level instead, if any run is of it."""
        return self.by_levels.get((*levels[:factor_index], level, *levels[factor_index + 1 :]))


@dataclass
class _DifferingSettings:
    """The settings that aren't alike, of one group or of the whole run."""

    keys: list[str] = field(default_factory=list)
    has_option: bool = False
    """Whether the option itself is among them."""


def build_variants(results: Sequence[RunResult], baseline_text: str = "") -> VariantSet:
    """The variants of these runs. `baseline` names levels, `clip=none,scheduler=constant`; of the
    other factors it is what is off, else the default, else what was run first.

    Raises SpecError for a level that no run has.
    """
    results = _normalize_numbers(results)
    groups, texts = _split_into_factors(results)
    requested = _parse_baseline(baseline_text)
    columns = [list(dict.fromkeys(text[index] for text in texts)) for index in range(len(groups))]
    given = [
        _find_requested_level(name, column, requested)
        for name, column in zip(groups, columns, strict=True)
    ]
    firsts = [
        first or _choose_baseline_level(name, column, results[0].settings)
        for name, column, first in zip(groups, columns, given, strict=True)
    ]
    firsts = _choose_background(list(groups), texts, given, firsts)
    factors = [
        Factor(name, [first, *(level for level in column if level != first)])
        for name, column, first in zip(groups, columns, firsts, strict=True)
    ]
    if unknown := sorted(set(requested) - set(groups)):
        raise SpecError(_describe_unknown_level(key, requested[key][0], results) for key in unknown)
    found: dict[Levels, dict[str, RunResult]] = defaultdict(dict)
    for levels_of, result in zip(texts, results, strict=True):
        found[levels_of][result.seed] = result  # they come in the order in which they began
    first_levels = tuple(factor.levels[0] for factor in factors)
    by_levels = {
        levels: Variant(levels, _name_variant(levels, first_levels), runs)
        for levels, runs in found.items()
    }
    count = sum(len(variant.results) for variant in by_levels.values())
    return VariantSet(factors, by_levels, len(results) - count)


def _choose_background(
    names: Sequence[str], texts: Sequence[Levels], given: Sequence[str | None], firsts: list[str]
) -> list[str]:
    """The baseline's levels; of what is no trick and wasn't asked for, those that most runs have,
    where they are more than `OFTEN` times as many as have the first ones."""
    background = [index for index, name in enumerate(names) if name not in OFF_OPTIONS]
    fitting = [
        tuple(text[index] for index in background)
        for text in texts
        if all(given[index] in (None, text[index]) for index in background)
    ]
    counts = Counter(fitting)
    if not counts:
        return firsts
    most, number = counts.most_common(1)[0]
    if number > MAJORITY_RATIO * counts[tuple(firsts[index] for index in background)]:
        for index, level in zip(background, most, strict=True):
            firsts[index] = level
    return firsts


def _normalize_numbers(results: Sequence[RunResult]) -> list[RunResult]:
    """The runs with every number of a setting as it was written first: 1 is 1.0 and 1e0."""
    first: dict[tuple[str, str], str] = {}
    varied = _find_varying_keys(results)
    found = []
    for result in results:
        written = {
            key: first.setdefault((key, _normalize_value(value)), value)
            for key in varied
            if (value := result.settings.get(key)) is not None
        }
        if any(result.settings[key] != value for key, value in written.items()):
            result = replace(result, settings={**result.settings, **written})
        found.append(result)
    return found


def _find_varying_keys(results: Sequence[RunResult]) -> list[str]:
    """The settings that aren't written alike in all runs. Of many runs' many settings few are, so
    the rest is passed over at once."""
    alike = set(results[0].settings.items())
    for result in results:
        alike.intersection_update(result.settings.items())
    same = {key for key, _ in alike}
    keys = dict.fromkeys(itertools.chain.from_iterable(result.settings for result in results))
    return [key for key in keys if key not in same]


@functools.cache
def _normalize_value(value: str) -> str:
    return NUMBER_PATTERN.sub(lambda found: repr(float(found[0])), _remove_list_spaces(value))


def _split_into_factors(
    results: Sequence[RunResult],
) -> tuple[dict[str, _DifferingSettings], list[Levels]]:
    """What differs, and the levels of each run. Devices and speeds count only where runs that are
    alike else differ in them, so that one would take the other's place."""
    varied = _find_varying_keys(results)
    groups = _find_differing_settings(results, varied, (*IGNORED_GROUPS, *IGNORED_SETTINGS))
    texts = [_get_levels(result, groups) for result in results]
    places: dict[tuple[Levels, str], set[tuple[str, ...]]] = defaultdict(set)
    spared = [key for key in varied if _is_key_in(key, (DEVICE_GROUP, *IGNORED_SETTINGS))]
    for levels, result in zip(texts, results, strict=True):
        settings = tuple(result.settings.get(key, "") for key in spared)
        places[levels, result.seed].add(settings)
    if any(len(different) > 1 for different in places.values()):
        groups = _find_differing_settings(
            results, varied, [name for name in IGNORED_GROUPS if name != DEVICE_GROUP]
        )
        texts = [_get_levels(result, groups) for result in results]
    return groups, texts


def _is_key_in(key: str, names: Sequence[str]) -> bool:
    return key in names or key.partition(".")[0] in names


def _find_differing_settings(
    results: Sequence[RunResult], varied: Sequence[str], spared: Sequence[str]
) -> dict[str, _DifferingSettings]:
    values: dict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    compared = [key for key in varied if not _is_key_in(key, spared)]
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
        elif len({option for option, _ in seen}) < len(seen) and not _is_seed_setting(key, results):
            groups.setdefault(group, _DifferingSettings()).keys.append(key)
    return groups


def _is_seed_setting(key: str, results: Sequence[RunResult]) -> bool:
    """Whether a setting is the run's seed, whatever that is."""
    return all(result.settings.get(key, result.seed) == result.seed for result in results)


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
    """A list without spaces, which separate settings."""
    return value.replace(", ", ",")


def _name_variant(levels: Levels, baseline: Levels) -> str:
    on = [level for level, off in zip(levels, baseline, strict=True) if level != off]
    return " ".join(on) or "baseline"


def _parse_baseline(baseline: str) -> dict[str, list[str]]:
    """The texts given, by factor."""
    found: dict[str, list[str]] = defaultdict(list)
    for text in filter(
        None, (part.strip() for part in SETTING_SEPARATOR.split(_remove_list_spaces(baseline)))
    ):
        if "=" not in text:
            raise SpecError(f"baseline: {text}: write group=option, group=option")
        found[text.partition("=")[0].partition(".")[0]].append(text)
    return found


def _describe_unknown_level(key: str, text: str, results: Sequence[RunResult]) -> str:
    """What is wrong with a level of what doesn't vary."""
    if key == "seed":
        return f"baseline: {text}: runs are paired by their seeds, whichever they are; leave it out"
    known = {setting.partition(".")[0] for run in results for setting in run.settings}
    if key not in known:
        there = sorted(known - {*IGNORED_GROUPS})
        hint = suggest_nearest(key, known) or f"; there are {format_list(there, 8)}"
        return f"baseline: {text}: runs have no {key}{hint}"
    values = {
        value for run in results for k, value in run.settings.items() if k == text.partition("=")[0]
    }
    if len(values) == 1 and _parse_setting(text)[1] != _normalize_value(*values):
        return f"baseline: {text}: all runs have {text.partition('=')[0]}={values.pop()}"
    return f"baseline: {text}: all runs have the same {key}; leave it out"


def _find_requested_level(
    name: str, levels: Sequence[str], asked: Mapping[str, list[str]]
) -> str | None:
    if name not in asked:
        return None
    wanted = {_parse_setting(text) for text in asked[name]}
    fitting = [level for level in levels if wanted <= set(map(_parse_setting, level.split(" ")))]
    if not fitting:
        given = " ".join(asked[name])
        raise SpecError(f"baseline: {given}: no run has it; there are {format_list(levels, 8)}")
    return fitting[0]


def _parse_setting(text: str) -> tuple[str, str]:
    """Of a level or of `--baseline`: key and value, however its numbers are written."""
    key, _, value = text.partition("=")
    return key, "None" if value == "null" else _normalize_value(value)


def _choose_baseline_level(name: str, levels: Sequence[str], first: Mapping[str, str]) -> str:
    """What is off, else what is the default, else what was run first; `first` are the settings of
    that run."""
    for wanted in (OFF_OPTIONS.get(name), option_files.get_default_options().get(name)):
        fitting = [level for level in levels if level.split(" ")[0] == f"{name}={wanted}"]
        if fitting:
            return next((level for level in fitting if _is_default_level(level, first)), fitting[0])
    return next((level for level in levels if _is_default_level(level, first)), levels[0])


def _is_default_level(level: str, first: Mapping[str, str]) -> bool:
    """Whether its settings are those of the option's file."""
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
