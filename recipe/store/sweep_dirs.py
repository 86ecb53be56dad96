"""Recorded sweeps on disk, `<outputs>/sweeps/<sweep id>/`, found by id or by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipe.config import option_files
from recipe.errors import SpecError
from recipe.formatting import escape_unprintable, format_list
from recipe.store import sweep_record

MAX_LISTED_SWEEPS = 5


def list_sweep_dirs(outputs: Path) -> list[Path]:
    """Returns the folders of all recorded sweeps, by the time of their last start or resumption."""
    there = [path.parent for path in (outputs / "sweeps").glob("*/sweep.json")]
    return sorted(there, key=lambda sweep: (sweep_record.get_start_stamp(sweep), sweep.name))


def find_sweep(outputs: Path, wanted: str, key: str = "sweep") -> Path:
    """Returns the folder of a recorded sweep.

    `wanted` is its id, a prefix of it, or its name (the latest sweep counts). Raises SpecError,
    prefixed by `key`, if there is none.
    """
    there = list_sweep_dirs(outputs)
    by_id = [sweep for sweep in there if sweep.name.startswith(wanted)]
    if len(by_id) == 1:
        return by_id[0]
    names = {sweep: str(sweep_record.read_record(sweep).get("name", "")) for sweep in there}
    if len(by_id) > 1:
        which = _format_latest({sweep: names[sweep] for sweep in by_id})
        raise SpecError(
            f"{key}: {wanted!r} begins {len(by_id)} sweep ids; give more of it: {which}"
        )
    same = [sweep for sweep, name in names.items() if name == wanted]
    if same:
        return same[-1]
    hint = option_files.suggest_nearest(wanted, [*names.values(), *(sweep.name for sweep in there)])
    if there and not hint:
        hint = f"; there are {_format_latest(names)}"
    raise SpecError(f"{key}: no sweep {wanted!r} is recorded in {outputs / 'sweeps'}{hint}")


def _format_latest(names: Mapping[Path, str]) -> str:
    """Sweeps by id and name, the latest first."""
    message = [
        f"{sweep.name} ({escape_unprintable(name)})"
        for sweep, name in reversed(list(names.items()))
    ]
    return format_list(message, MAX_LISTED_SWEEPS)
