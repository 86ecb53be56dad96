"""What differs between two recorded runs, besides their numbers, and may explain those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recipe.config.schema import ELSEWHERE, SPARED
from recipe.formatting import listed
from recipe.store.run_record import Record, shown

NO_CAUSE = ("mlflow", "hydra-core", "omegaconf", "torchinfo")
"""Packages that compute none of a run's numbers."""


def between(one: Record, other: Record) -> Iterator[str]:
    """What differs between two runs and can change numbers, each in a few words."""
    keys = differing(one, other)
    changed = [
        f"{key} {cell(one, key)} -> {cell(other, key)}"
        for key in keys
        if _counts(key) and key.partition(".")[0] not in {*keys} - {key}
    ]
    if changed:
        yield listed(changed)
    starts = [record.tags.get("recipe.resumed_from", "the start") for record in (one, other)]
    if starts[0] != starts[1]:
        yield f"went on from {' -> '.join(starts)}"
    if one.digest != other.digest and one.digest and other.digest:
        yield "data differ"
    yield from _moved(one.versions, other.versions)
    for package in sorted(one.code.keys() | other.code.keys()):
        codes = [record.code.get(package, "none") for record in (one, other)]
        if codes[0] != codes[1]:
            hashes = any(len(code) == 64 for code in codes)
            yield f"code of {package} changed" if hashes else f"{package} {' -> '.join(codes)}"
    for key in ("device", "threads", "processes"):
        here = [record.environment.get(key, "").partition(" (")[0] for record in (one, other)]
        if here[0] != here[1] and all(here):
            yield f"{key} {' -> '.join(here)}"
    commits = [record.environment.get("git", "") for record in (one, other)]
    if commits[0] != commits[1] and all(commits):
        yield f"git {' -> '.join(map(short_commit, commits))}"


def differing(one: Record, other: Record) -> list[str]:
    """The settings that aren't the same in both, in the order of the spec."""
    if not (one.settings and other.settings):
        return []  # a spec that can't be read says nothing
    keys = dict.fromkeys([*one.settings, *other.settings])
    none = object()
    return [key for key in keys if one.settings.get(key, none) != other.settings.get(key, none)]


def _counts(key: str) -> bool:
    group, _, setting = key.partition(".")
    return (
        group not in ELSEWHERE
        and setting not in (*SPARED.get(group, ()), "_target_")
        and not (group == "device" and not setting)
    )


def _moved(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    ahead = ("torch", "recipe")
    rest = sorted((one.keys() | other.keys()) - {*ahead, *NO_CAUSE})
    for package in (*ahead, *rest):
        before, after = one.get(package, "none"), other.get(package, "none")
        if before != after and one and other:
            yield f"{package} {before} -> {after}"


def short_commit(commit: str) -> str:
    """`0a59c57` or `0a59c57 with changes`."""
    return commit[:7] + " with changes" * commit.endswith("-dirty")


def cell(record: Record, key: str) -> str:
    """The value of a setting, as it is shown."""
    return shown(record.settings[key]) if key in record.settings else "-"
