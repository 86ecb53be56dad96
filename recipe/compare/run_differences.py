"""What differed between two recorded runs, and what came of each, as rows of texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

from recipe.compare import causes
from recipe.config.option_files import GROUPS
from recipe.formatting import duration, listed, percent
from recipe.store.run_record import Record, shown

Rows = list[tuple[str, str, str]]
"""What, in the first run, in the second."""


def settings(one: Record, other: Record) -> Rows:
    """Options and settings, those of a group together."""
    keys = causes.differing(one, other)
    chosen = {key for key in keys if key in GROUPS}

    def place(key: str) -> tuple[int, bool]:
        group = key.partition(".")[0]
        return (GROUPS.index(group) if group in GROUPS else -1, key not in GROUPS)

    return [
        (key, causes.cell(one, key), causes.cell(other, key))
        for key in sorted(keys, key=place)
        if key != "name" and not (key.endswith("._target_") and key.partition(".")[0] in chosen)
    ]


def surroundings(one: Record, other: Record) -> Rows:
    """Data, versions, code, hardware, and the commit of the working directory."""
    both = (one, other)
    found: list[tuple[str, list[str | None]]] = [
        ("data", [r.digest for r in both]),
        ("classes", [listed(r.facts.classes, 10) if r.facts else None for r in both]),
    ]
    for package in dict.fromkeys([*one.versions, *other.versions]):
        found.append((package, [r.versions.get(package) for r in both]))
    for package in dict.fromkeys([*one.code, *other.code]):
        found.append((f"code of {package}", [r.code.get(package) for r in both]))
    for key in ("device", "threads", "system"):
        found.append((key, [r.environment.get(key) for r in both]))
    commits = [r.environment.get("git") for r in both]
    found.append(("git", [commit and causes.short_commit(commit) for commit in commits]))
    return [(what, _brief(a), _brief(b)) for what, (a, b) in found if a != b]


def _brief(text: str | None) -> str:
    """Of a hash the beginning; `-` for nothing."""
    return (text[:12] if len(text) == 64 else text) if text else "-"


def results(one: Record, other: Record) -> Rows:
    """What came of each run; of one that ended early as far as it got."""
    rows: dict[str, Callable[[Record], str | None]] = {
        "best val/accuracy": _best,
        "last train/loss": lambda r: _last(r, "train/loss", lambda value: f"{value:.4g}"),
        "last val/loss": lambda r: _last(r, "val/loss", lambda value: f"{value:.4g}"),
        "time per epoch": _time,
        "trainable parameters": _trainable,
        "clip hit rate": lambda r: _last(r, "clip/hit_rate", percent),
        "audit": _audit,
        "no effect": lambda r: r.tags.get("recipe.no_effect"),
    }
    cells = [(what, show(one), show(other)) for what, show in rows.items()]
    return [(what, a or "-", b or "-") for what, a, b in cells if a or b]


def _values(record: Record, key: str) -> list[float]:
    """A metric's values in the order of steps."""
    return [value for _, value in sorted(record.trace.get(key, {}).items())]


def _last(record: Record, key: str, show: Callable[[float], str]) -> str | None:
    values = _values(record, key)
    if not values:
        return None
    return show(values[-1]) if math.isfinite(values[-1]) else str(values[-1])


def _best(record: Record) -> str | None:
    best = _last(record, "best/val_accuracy", percent)
    epoch = _last(record, "best/epoch", lambda value: f"{value:.0f}")
    epochs = shown(record.settings.get("epochs", "?"))
    return best and f"{best} (epoch {epoch or '?'} of {epochs})"


def _time(record: Record) -> str | None:
    took = [value for value in _values(record, "time/epoch_s") if math.isfinite(value)]
    return duration(statistics.median(took)) if took else None


def _trainable(record: Record) -> str | None:
    trainable, total = (
        _last(record, f"params/{key}", lambda value: f"{value:,.0f}")
        for key in ("trainable", "total")
    )
    return trainable and f"{trainable} of {total or '?'}"


def _audit(record: Record) -> str | None:
    verdicts = {
        key.partition("/")[2]: _values(record, key)[-1]
        for key in record.trace
        if key.startswith("audit/")
    }
    broken = [group for group, held in verdicts.items() if held != 1]
    if broken:
        return f"BROKEN: {listed(broken)}"
    return f"all {len(verdicts)} promises held" if verdicts else None


def parameter(one: Record, other: Record, name: str) -> tuple[tuple[str, str, str], ...]:
    """What differs for one parameter: (what, in the first run, in the second)."""
    a, b = one.parameters.get(name), other.parameters.get(name)
    if a is None or b is None:
        return (("in the model", "yes" if a is not None else "-", "yes" if b is not None else "-"),)
    trained = ("trained", _trained(a), _trained(b))
    keys = [
        "shape",
        *(("rule", "group", "lr", "weight_decay") if a.get("lr") and b.get("lr") else ()),
    ]
    rest = [(key.replace("_", " "), a.get(key) or "-", b.get(key) or "-") for key in keys]
    return tuple(row for row in (*rest, trained) if row[1] != row[2])


def _trained(parameter: Mapping[str, str]) -> str:
    """When a parameter is trained, in words."""
    after = parameter.get("frozen_epochs")
    return "always" if after == "0" else f"after epoch {after}" if after else "never"
