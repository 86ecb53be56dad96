"""What differs between two recorded runs, besides their numbers, and may explain those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recipe.config.groups import FINGERPRINT_EXCLUDED_FIELDS, FINGERPRINT_EXCLUDED_SETTINGS
from recipe.formatting import format_list
from recipe.store.run_record import RunRecord, truncate_value

IRRELEVANT_PACKAGES = ("mlflow", "hydra-core", "omegaconf", "torchinfo")
"""Packages that compute none of a run's numbers."""


def find_causes(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """What differs between two runs and can change numbers, each in a few words."""
    keys = find_differing_settings(one, other)
    changed = [
        f"{key} {format_setting(one, key)} -> {format_setting(other, key)}"
        for key in keys
        if _is_relevant(key) and key.partition(".")[0] not in {*keys} - {key}
    ]
    if changed:
        yield format_list(changed)
    starts = [record.tags.get("recipe.resumed_from", "the start") for record in (one, other)]
    if starts[0] != starts[1]:
        yield f"started from {' -> '.join(starts)}"
    if one.data_digest != other.data_digest and one.data_digest and other.data_digest:
        yield "data differ"
    yield from _iter_version_changes(one.package_versions, other.package_versions)
    for package in sorted(one.code_versions.keys() | other.code_versions.keys()):
        codes = [record.code_versions.get(package, "none") for record in (one, other)]
        if codes[0] != codes[1]:
            hashes = any(len(code) == 64 for code in codes)
            yield f"code of {package} changed" if hashes else f"{package} {' -> '.join(codes)}"
    for key in ("device", "threads", "processes"):
        here = [record.environment.get(key, "").partition(" (")[0] for record in (one, other)]
        if here[0] != here[1] and all(here):
            yield f"{key} {' -> '.join(here)}"
    commits = [record.environment.get("git", "") for record in (one, other)]
    if commits[0] != commits[1] and all(commits):
        yield f"git {' -> '.join(map(format_commit, commits))}"


def find_differing_settings(one: RunRecord, other: RunRecord) -> list[str]:
    """The settings that aren't the same in both, in the order of the spec."""
    if not (one.settings and other.settings):
        return []  # a spec that can't be read says nothing
    keys = dict.fromkeys([*one.settings, *other.settings])
    none = object()
    return [key for key in keys if one.settings.get(key, none) != other.settings.get(key, none)]


def _is_relevant(key: str) -> bool:
    group, _, setting = key.partition(".")
    return (
        group not in FINGERPRINT_EXCLUDED_FIELDS
        and setting not in (*FINGERPRINT_EXCLUDED_SETTINGS.get(group, ()), "_target_")
        and not (group == "device" and not setting)
    )


def _iter_version_changes(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    ahead = ("torch", "recipe")
    rest = sorted((one.keys() | other.keys()) - {*ahead, *IRRELEVANT_PACKAGES})
    for package in (*ahead, *rest):
        before, after = one.get(package, "none"), other.get(package, "none")
        if before != after and one and other:
            yield f"{package} {before} -> {after}"


def format_commit(commit: str) -> str:
    """`0a59c57` or `0a59c57 with changes`."""
    return commit[:7] + " with changes" * commit.endswith("-dirty")


def format_setting(record: RunRecord, key: str) -> str:
    """The value of a setting, as it is shown."""
    return truncate_value(record.settings[key]) if key in record.settings else "-"
