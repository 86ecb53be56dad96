"""Recorded sweeps on disk, `<outputs>/sweeps/<sweep id>/`, found by id or by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipe.config import option_files
from recipe.errors import SpecError
from recipe.formatting import listed, printable
from recipe.store import sweep_record

MOST = 5
"""Sweeps that are named."""


def folders(outputs: Path) -> list[Path]:
    """The folders of all recorded sweeps; the one that was begun or gone on with last is the last
    of them."""
    there = [path.parent for path in (outputs / "sweeps").glob("*/sweep.json")]
    return sorted(there, key=lambda sweep: (sweep_record.begun(sweep), sweep.name))


def find(outputs: Path, wanted: str, key: str = "sweep") -> Path:
    """The folder of a recorded sweep.

    `wanted` is its id, the beginning of one, or its name (then the latest of that name). Raises
    SpecError, headed by `key`, if there is none.
    """
    there = folders(outputs)
    by_id = [sweep for sweep in there if sweep.name.startswith(wanted)]
    if len(by_id) == 1:
        return by_id[0]
    names = {sweep: str(sweep_record.read(sweep).get("name", "")) for sweep in there}
    if len(by_id) > 1:
        which = _latest({sweep: names[sweep] for sweep in by_id})
        raise SpecError(
            f"{key}: {wanted!r} begins {len(by_id)} sweep ids; give more of it: {which}"
        )
    same = [sweep for sweep, name in names.items() if name == wanted]
    if same:
        return same[-1]
    hint = option_files.nearest(wanted, [*names.values(), *(sweep.name for sweep in there)])
    if there and not hint:
        hint = f"; there are {_latest(names)}"
    raise SpecError(f"{key}: no sweep {wanted!r} is recorded in {outputs / 'sweeps'}{hint}")


def _latest(names: Mapping[Path, str]) -> str:
    """Sweeps by id and name, the latest first."""
    told = [f"{sweep.name} ({printable(name)})" for sweep, name in reversed(list(names.items()))]
    return listed(told, MOST)
