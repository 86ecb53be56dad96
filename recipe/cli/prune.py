"""`recipe prune`: removes the checkpoints that runs which have ended for good need no more."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe.checkpoint.removable import ENDED, removable
from recipe.config.key_values import key_values, number
from recipe.errors import RecipeError, SpecError
from recipe.formatting import bytes_, counted, printable
from recipe.store import lineage, run_dirs, stale_records
from recipe.store.run_dirs import Info

MAX_ROWS = 20

KNOWN = {"which": "", "keep": "1", "yes": "false", "output_dir": ""}


@dataclass(frozen=True)
class Removable:
    """Files of a run that may be removed."""

    run: Path
    info: Info
    files: list[Path]

    @property
    def size(self) -> int:
        """Bytes on disk that are freed; none by a file that another run holds, too."""
        found = [file.stat() for file in self.files]
        return sum(each.st_size for each in found if each.st_nlink == 1)


def prune(arguments: Sequence[str], console: Console) -> int:
    """The verb. Raises SpecError for wrong arguments, RecipeError for what can't be removed."""
    values = key_values("prune", arguments, KNOWN, positional="which")
    if values["yes"] not in ("true", "false"):
        raise SpecError(f"prune: yes must be true or false, got {values['yes']}")
    keep = int(number("prune", "keep", values["keep"], whole=True))
    if keep < 0:
        raise SpecError(f"prune: keep must be 0 or more, got {keep}")
    outputs = run_dirs.outputs(values["output_dir"])
    found = list(_removable(outputs, values["which"], keep))
    if not found:
        console.print("No finished run has a checkpoint that it no longer needs", soft_wrap=True)
        return 0
    _show(found, console)
    files = sum(len(each.files) for each in found)
    total = bytes_(sum(each.size for each in found))
    what = f"{counted(files, 'file')} of {counted(len(found), 'run')}, {total}"
    if values["yes"] == "false":
        which = [shlex.quote(values["which"])] if values["which"] else []
        given = [f"keep={keep}"] if values["keep"] != KNOWN["keep"] else []
        again = run_dirs.command(" ".join(["prune", *which, *given, "yes=true"]), outputs)
        console.print(f"{what}; nothing is removed yet, {again} removes them", soft_wrap=True)
        return 0
    for each in found:
        _remove(each)
    console.print(f"Removed {what}", soft_wrap=True)
    return 0


def _removable(outputs: Path, which: str, keep: int) -> Iterator[Removable]:
    """Of the runs that are asked for. Raises SpecError if there is no such run or sweep."""
    infos: dict[Path, Info] = {}
    for run in stale_records.recorded(run_dirs.folder(outputs), "run.json"):
        with contextlib.suppress(SpecError):  # a damaged one is left alone
            infos[run] = run_dirs.said(run, "prune")
    chosen = {run: info for run, info in infos.items() if not which or _is_meant(which, run, info)}
    if which == run_dirs.ALL and not chosen:
        chosen = infos
    elif which and not chosen:
        if "=" in which:
            settings = ", ".join(key for key in KNOWN if key != "which")
            raise SpecError(
                f"prune: {which}: no such setting, and no run or sweep of that name is recorded in "
                f"{printable(outputs)}; the settings are {settings}"
            )
        raise SpecError(
            f"prune: no run or sweep {which!r} is recorded in {printable(outputs)}; give an id or "
            "a name, or all for all runs"
        )
    for run, info in chosen.items():
        if info.status in ENDED:
            files = removable(run, keep)
            source = lineage.source(run)
            if source is not None and source.stat().st_size:
                files.append(source)
            if files:
                yield Removable(run, info, files)


def _is_meant(which: str, run: Path, info: Info) -> bool:
    return run.name.startswith(which) or info.name == which or (info.sweep or "").startswith(which)


def _show(found: Sequence[Removable], console: Console) -> None:
    table = Table(title="Not needed any more", title_justify="left", box=None, pad_edge=False)
    for column in ("run", "name", "status", "files", "size"):
        table.add_column(column, justify="right" if column in ("files", "size") else "left")
    largest = sorted(found, key=lambda each: each.size, reverse=True)
    for each in largest[:MAX_ROWS]:
        texts = (each.run.name, each.info.name, each.info.status)
        table.add_row(*map(printable, texts), str(len(each.files)), bytes_(each.size))
    console.print(table)
    if len(found) > MAX_ROWS:
        console.print(f"and {counted(len(found) - MAX_ROWS, 'smaller run')}")


def _remove(each: Removable) -> None:
    try:
        with run_dirs.unheld(each.run) as free:
            if not free or run_dirs.said(each.run, "prune").status not in ENDED:
                return  # it was resumed meanwhile
            for file in each.files:
                if file.parent.parent.parent.name == "came_from":
                    lineage.release(each.run)
                else:
                    file.unlink(missing_ok=True)
    except OSError as error:
        raise RecipeError(
            f"prune: {printable(each.run)} can't be written: {error.strerror}; see to that and "
            "prune again"
        ) from error
