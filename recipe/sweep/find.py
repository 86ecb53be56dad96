"""Recorded sweeps on disk, `<outputs>/sweeps/<sweep id>/`, found by id or by name."""

from __future__ import annotations

from pathlib import Path

from recipe import menu
from recipe.errors import SpecError
from recipe.sweep import parent


def folders(outputs: Path) -> list[Path]:
    """The folders of all recorded sweeps, the oldest first."""
    return sorted(path.parent for path in (outputs / "sweeps").glob("*/sweep.json"))


def find(outputs: Path, wanted: str, key: str = "sweep") -> Path:
    """The folder of a recorded sweep.

    `wanted` is its id, the beginning of one, or its name (then the latest of that name). Raises
    SpecError, headed by `key`, if there is none.
    """
    there = folders(outputs)
    by_id = [sweep for sweep in there if sweep.name.startswith(wanted)]
    if len(by_id) == 1:
        return by_id[0]
    if len(by_id) > 1:
        raise SpecError(f"{key}: {wanted!r} begins {len(by_id)} sweep ids; give more of it")
    names = {sweep: str(parent.read(sweep).get("name", "")) for sweep in there}
    same = [sweep for sweep, name in names.items() if name == wanted]
    if same:
        return same[-1]
    hint = menu.nearest(wanted, [*names.values(), *(sweep.name for sweep in there)])
    raise SpecError(f"{key}: no sweep {wanted!r} is recorded in {outputs / 'sweeps'}{hint}")
