"""How two recorded runs differ in their settings, environments, results and parameters."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping

from recipe.config.groups import FINGERPRINT_EXCLUDED_FIELDS, FINGERPRINT_EXCLUDED_SETTINGS, GROUPS
from recipe.formatting import format_duration, format_list, format_percent
from recipe.store.run_record import RunRecord, truncate_value

NON_NUMERICAL_PACKAGES = ("mlflow", "hydra-core", "omegaconf", "torchinfo")

DifferenceRows = list[tuple[str, str, str]]  # what differs, in the first run, in the second run


def find_causes(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """Differences that can change the numbers of a run, each in a few words."""
    keys = _find_differing_settings(one, other)
    changed = [
        f"{key} {_format_setting(one, key)} -> {_format_setting(other, key)}"
        for key in keys
        if _changes_numbers(key) and key.partition(".")[0] not in {*keys} - {key}
    ]
    if changed:
        yield format_list(changed)
    starts = [record.tags.get("recipe.resumed_from", "the start") for record in (one, other)]
    if starts[0] != starts[1]:
        yield f"started from {' -> '.join(starts)}"
    if one.data_digest != other.data_digest and one.data_digest and other.data_digest:
        yield "data differ"
    if one.package_versions and other.package_versions:
        yield from _iter_version_changes(one.package_versions, other.package_versions)
    for package in sorted(one.code_versions.keys() | other.code_versions.keys()):
        before, after = one.code_versions.get(package), other.code_versions.get(package)
        if before != after:
            is_hash = any(version and version.is_hash for version in (before, after))
            texts = [version.text if version else "none" for version in (before, after)]
            yield f"code of {package} changed" if is_hash else f"{package} {' -> '.join(texts)}"
    for key in ("device", "threads", "processes"):
        values = [record.environment.get(key, "").partition(" (")[0] for record in (one, other)]
        if values[0] != values[1] and all(values):
            yield f"{key} {' -> '.join(values)}"
    commits = [record.environment.get("git", "") for record in (one, other)]
    if commits[0] != commits[1] and all(commits):
        yield f"git {' -> '.join(map(_format_commit, commits))}"


def _find_differing_settings(one: RunRecord, other: RunRecord) -> list[str]:
    """In the order of the spec; empty if a spec can't be read."""
    if not (one.settings and other.settings):
        return []
    keys = dict.fromkeys([*one.settings, *other.settings])
    missing = object()
    return [
        key for key in keys if one.settings.get(key, missing) != other.settings.get(key, missing)
    ]


def _changes_numbers(key: str) -> bool:
    group, _, setting = key.partition(".")
    return (
        group not in FINGERPRINT_EXCLUDED_FIELDS
        and setting not in (*FINGERPRINT_EXCLUDED_SETTINGS.get(group, ()), "_target_")
        and key != "device"
    )


def _iter_version_changes(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    first = ("torch", "recipe")
    rest = sorted((one.keys() | other.keys()) - {*first, *NON_NUMERICAL_PACKAGES})
    for package in (*first, *rest):
        before, after = one.get(package, "none"), other.get(package, "none")
        if before != after:
            yield f"{package} {before} -> {after}"


def _format_commit(commit: str) -> str:
    """`0a59c57` or `0a59c57 with changes`."""
    return commit[:7] + " with changes" * commit.endswith("-dirty")


def _format_setting(record: RunRecord, key: str) -> str:
    return truncate_value(record.settings[key]) if key in record.settings else "-"


def compare_settings(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """Options and settings, by group."""
    keys = _find_differing_settings(one, other)
    options = {key for key in keys if key in GROUPS}

    def sort_key(key: str) -> tuple[int, bool]:
        group = key.partition(".")[0]
        return (GROUPS.index(group) if group in GROUPS else -1, key not in GROUPS)

    return [
        (key, _format_setting(one, key), _format_setting(other, key))
        for key in sorted(keys, key=sort_key)
        if key != "name" and not (key.endswith("._target_") and key.partition(".")[0] in options)
    ]


def compare_environments(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """Data, versions, code, hardware, and the commit of the working directory."""
    before, after = _describe_environment(one), _describe_environment(other)
    return [
        (key, before.get(key, "-"), after.get(key, "-"))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _describe_environment(record: RunRecord) -> dict[str, str]:
    environment = record.environment
    found = {"data": record.data_digest[:12]} if record.data_digest else {}
    if record.dataset_info:
        found["classes"] = format_list(record.dataset_info.classes, 10)
    found |= record.package_versions
    found |= {f"code of {name}": str(code) for name, code in record.code_versions.items()}
    found |= {
        key: environment[key] for key in ("device", "threads", "system") if key in environment
    }
    if commit := environment.get("git"):
        found["git"] = _format_commit(commit)
    return found


def compare_results(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """Results of each run; those of a run that ended early are of its last steps."""
    readers: dict[str, Callable[[RunRecord], str | None]] = {
        "best val/accuracy": _format_best_accuracy,
        "last train/loss": lambda record: _format_last_value(record, "train/loss", "{:.4g}".format),
        "last val/loss": lambda record: _format_last_value(record, "val/loss", "{:.4g}".format),
        "time per epoch": _format_epoch_time,
        "trainable parameters": _format_trainable,
        "clip hit rate": lambda record: _format_last_value(record, "clip/hit_rate", format_percent),
        "audit": _format_audit,
        "no effect": lambda record: record.tags.get("recipe.no_effect"),
    }
    rows = [(what, read(one), read(other)) for what, read in readers.items()]
    return [(what, a or "-", b or "-") for what, a, b in rows if a or b]


def _get_values(record: RunRecord, key: str) -> list[float]:
    return [value for _, value in sorted(record.metrics.get(key, {}).items())]


def _format_last_value(record: RunRecord, key: str, show: Callable[[float], str]) -> str | None:
    values = _get_values(record, key)
    if not values:
        return None
    return show(values[-1]) if math.isfinite(values[-1]) else str(values[-1])


def _format_best_accuracy(record: RunRecord) -> str | None:
    best = _format_last_value(record, "best/val_accuracy", format_percent)
    epoch = _format_last_value(record, "best/epoch", "{:.0f}".format)
    epochs = truncate_value(record.settings.get("epochs", "?"))
    return best and f"{best} (epoch {epoch or '?'} of {epochs})"


def _format_epoch_time(record: RunRecord) -> str | None:
    seconds = [value for value in _get_values(record, "time/epoch_s") if math.isfinite(value)]
    return format_duration(statistics.median(seconds)) if seconds else None


def _format_trainable(record: RunRecord) -> str | None:
    trainable, total = (
        _format_last_value(record, f"params/{key}", "{:,.0f}".format)
        for key in ("trainable", "total")
    )
    return trainable and f"{trainable} of {total or '?'}"


def _format_audit(record: RunRecord) -> str | None:
    verdicts = {
        key.partition("/")[2]: _get_values(record, key)[-1]
        for key in record.metrics
        if key.startswith("audit/")
    }
    broken = [group for group, held in verdicts.items() if held != 1]
    if broken:
        return f"BROKEN: {format_list(broken)}"
    return f"all {len(verdicts)} promises held" if verdicts else None


def compare_parameter(
    one: RunRecord, other: RunRecord, name: str
) -> tuple[tuple[str, str, str], ...]:
    """The differences of one parameter: (what, in the first run, in the second)."""
    a, b = one.parameters.get(name), other.parameters.get(name)
    if a is None or b is None:
        return (("in the model", "yes" if a is not None else "-", "yes" if b is not None else "-"),)
    keys = ["shape"]
    if a.get("lr") and b.get("lr"):
        keys += ["rule", "group", "lr", "weight_decay"]
    rows = [(key.replace("_", " "), a.get(key) or "-", b.get(key) or "-") for key in keys]
    rows.append(("trained", _describe_freezing(a), _describe_freezing(b)))
    return tuple(row for row in rows if row[1] != row[2])


def _describe_freezing(parameter: Mapping[str, str]) -> str:
    after = parameter.get("frozen_epochs")
    return "always" if after == "0" else f"after epoch {after}" if after else "never"
