"""What differed between two recorded runs, and what came of each, as rows of texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

from recipe.compare import causes
from recipe.config.groups import GROUPS
from recipe.formatting import format_duration, format_list, format_percent
from recipe.store.run_record import RunRecord, truncate_value

DifferenceRows = list[tuple[str, str, str]]
"""What, in the first run, in the second."""


def compare_settings(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """Options and settings, those of a group together."""
    keys = causes.find_differing_settings(one, other)
    chosen = {key for key in keys if key in GROUPS}

    def sort_key(key: str) -> tuple[int, bool]:
        group = key.partition(".")[0]
        return (GROUPS.index(group) if group in GROUPS else -1, key not in GROUPS)

    return [
        (key, causes.format_setting(one, key), causes.format_setting(other, key))
        for key in sorted(keys, key=sort_key)
        if key != "name" and not (key.endswith("._target_") and key.partition(".")[0] in chosen)
    ]


def compare_environments(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """Data, versions, code, hardware, and the commit of the working directory."""
    both = (one, other)
    found: list[tuple[str, list[str | None]]] = [
        ("data", [r.data_digest for r in both]),
        (
            "classes",
            [format_list(r.dataset_info.classes, 10) if r.dataset_info else None for r in both],
        ),
    ]
    for package in dict.fromkeys([*one.package_versions, *other.package_versions]):
        found.append((package, [r.package_versions.get(package) for r in both]))
    for package in dict.fromkeys([*one.code_versions, *other.code_versions]):
        found.append((f"code of {package}", [r.code_versions.get(package) for r in both]))
    for key in ("device", "threads", "system"):
        found.append((key, [r.environment.get(key) for r in both]))
    commits = [r.environment.get("git") for r in both]
    found.append(("git", [commit and causes.format_commit(commit) for commit in commits]))
    return [(what, _shorten_hash(a), _shorten_hash(b)) for what, (a, b) in found if a != b]


def _shorten_hash(text: str | None) -> str:
    """Of a hash the beginning; `-` for nothing."""
    return (text[:12] if len(text) == 64 else text) if text else "-"


def compare_results(one: RunRecord, other: RunRecord) -> DifferenceRows:
    """What came of each run; of one that ended early as far as it got."""
    rows: dict[str, Callable[[RunRecord], str | None]] = {
        "best val/accuracy": _format_best_accuracy,
        "last train/loss": lambda r: _format_last_value(
            r, "train/loss", lambda value: f"{value:.4g}"
        ),
        "last val/loss": lambda r: _format_last_value(r, "val/loss", lambda value: f"{value:.4g}"),
        "time per epoch": _format_epoch_time,
        "trainable parameters": _format_trainable,
        "clip hit rate": lambda r: _format_last_value(r, "clip/hit_rate", format_percent),
        "audit": _format_audit,
        "no effect": lambda r: r.tags.get("recipe.no_effect"),
    }
    cells = [(what, show(one), show(other)) for what, show in rows.items()]
    return [(what, a or "-", b or "-") for what, a, b in cells if a or b]


def _get_values(record: RunRecord, key: str) -> list[float]:
    """A metric's values in the order of steps."""
    return [value for _, value in sorted(record.metrics.get(key, {}).items())]


def _format_last_value(record: RunRecord, key: str, show: Callable[[float], str]) -> str | None:
    values = _get_values(record, key)
    if not values:
        return None
    return show(values[-1]) if math.isfinite(values[-1]) else str(values[-1])


def _format_best_accuracy(record: RunRecord) -> str | None:
    best = _format_last_value(record, "best/val_accuracy", format_percent)
    epoch = _format_last_value(record, "best/epoch", lambda value: f"{value:.0f}")
    epochs = truncate_value(record.settings.get("epochs", "?"))
    return best and f"{best} (epoch {epoch or '?'} of {epochs})"


def _format_epoch_time(record: RunRecord) -> str | None:
    took = [value for value in _get_values(record, "time/epoch_s") if math.isfinite(value)]
    return format_duration(statistics.median(took)) if took else None


def _format_trainable(record: RunRecord) -> str | None:
    trainable, total = (
        _format_last_value(record, f"params/{key}", lambda value: f"{value:,.0f}")
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
    """What differs for one parameter: (what, in the first run, in the second)."""
    a, b = one.parameters.get(name), other.parameters.get(name)
    if a is None or b is None:
        return (("in the model", "yes" if a is not None else "-", "yes" if b is not None else "-"),)
    trained = ("trained", _describe_freezing(a), _describe_freezing(b))
    keys = [
        "shape",
        *(("rule", "group", "lr", "weight_decay") if a.get("lr") and b.get("lr") else ()),
    ]
    rest = [(key.replace("_", " "), a.get(key) or "-", b.get(key) or "-") for key in keys]
    return tuple(row for row in (*rest, trained) if row[1] != row[2])


def _describe_freezing(parameter: Mapping[str, str]) -> str:
    """When a parameter is trained, in words."""
    after = parameter.get("frozen_epochs")
    return "always" if after == "0" else f"after epoch {after}" if after else "never"
