"""`recipe prune`: removes checkpoints that finished and pruned runs no longer need."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from recipe.checkpoint.retention import PRUNABLE_STATUSES, list_removable_files
from recipe.config.verb_arguments import parse_key_values, parse_number
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable, format_bytes, pluralize
from recipe.runner.console import make_table
from recipe.store import lineage, run_dirs, stale_records
from recipe.store.run_dirs import RunInfo

MAX_ROWS = 20

DEFAULTS = {"which": "", "keep": "1", "yes": "false", "output_dir": ""}


@dataclass(frozen=True)
class RemovableFiles:
    """Files of a run that may be removed."""

    run_dir: Path
    info: RunInfo
    files: list[Path]

    @property
    def num_bytes(self) -> int:
        """Bytes on disk that are freed; a file that another run links to frees none."""
        found = [file.stat() for file in self.files]
        return sum(each.st_size for each in found if each.st_nlink == 1)


def prune(arguments: Sequence[str], console: Console) -> int:
    """Raises SpecError for wrong arguments, RecipeError for files that can't be removed."""
    values = parse_key_values("prune", arguments, DEFAULTS, positional="which")
    if values["yes"] not in ("true", "false"):
        raise SpecError(f"prune: yes must be true or false, got {values['yes']}")
    keep = int(parse_number("prune", "keep", values["keep"], is_integer=True))
    if keep < 0:
        raise SpecError(f"prune: keep must be 0 or more, got {keep}")
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    found = list(_find_removable(outputs, values["which"], keep))
    if not found:
        console.print("No finished run has a checkpoint that it no longer needs", soft_wrap=True)
        return 0
    _print_removable(found, console)
    files = sum(len(each.files) for each in found)
    total = format_bytes(sum(each.num_bytes for each in found))
    what = f"{pluralize(files, 'file')} of {pluralize(len(found), 'run')}, {total}"
    if values["yes"] == "false":
        which = [shlex.quote(values["which"])] if values["which"] else []
        given = [f"keep={keep}"] if values["keep"] != DEFAULTS["keep"] else []
        again = run_dirs.format_command(" ".join(["prune", *which, *given, "yes=true"]), outputs)
        console.print(f"{what}; nothing is removed yet, {again} removes them", soft_wrap=True)
        return 0
    for each in found:
        _remove_files(each)
    console.print(f"Removed {what}", soft_wrap=True)
    return 0


def _find_removable(outputs: Path, which: str, keep: int) -> Iterator[RemovableFiles]:
    """Yields those of the requested runs. Raises SpecError if there is no such run or sweep."""
    infos: dict[Path, RunInfo] = {}
    for run in stale_records.list_record_dirs(run_dirs.get_runs_dir(outputs), "run.json"):
        with contextlib.suppress(SpecError):  # damaged
            infos[run] = run_dirs.read_info_file(run, "prune")
    chosen = {
        run: info for run, info in infos.items() if not which or _is_selected(which, run, info)
    }
    if which == run_dirs.ALL_RUNS and not chosen:
        chosen = infos
    elif which and not chosen:
        if "=" in which:
            settings = ", ".join(key for key in DEFAULTS if key != "which")
            raise SpecError(
                f"prune: {which}: no such setting, and no run or sweep of that name is recorded in "
                f"{escape_unprintable(outputs)}; the settings are {settings}"
            )
        raise SpecError(
            f"prune: no run or sweep {which!r} is recorded in {escape_unprintable(outputs)}; "
            "give an id or a name, or all for all runs"
        )
    for run, info in chosen.items():
        if info.status in PRUNABLE_STATUSES:
            files = list_removable_files(run, keep)
            source = lineage.find_parent_checkpoint(run)
            if source is not None and source.stat().st_size:
                files.append(source)
            if files:
                yield RemovableFiles(run, info, files)


def _is_selected(which: str, run: Path, info: RunInfo) -> bool:
    return run.name.startswith(which) or info.name == which or (info.sweep or "").startswith(which)


def _print_removable(found: Sequence[RemovableFiles], console: Console) -> None:
    right = ("files", "size")
    table = make_table("run", "name", "status", *right, title="No longer needed", right=right)
    largest = sorted(found, key=lambda each: each.num_bytes, reverse=True)
    for each in largest[:MAX_ROWS]:
        texts = (each.run_dir.name, each.info.name, each.info.status)
        table.add_row(
            *map(escape_unprintable, texts), str(len(each.files)), format_bytes(each.num_bytes)
        )
    console.print(table)
    if len(found) > MAX_ROWS:
        console.print(f"and {pluralize(len(found) - MAX_ROWS, 'smaller run')}")


def _remove_files(each: RemovableFiles) -> None:
    try:
        with run_dirs.try_lock(each.run_dir) as free:
            if (
                not free
                or run_dirs.read_info_file(each.run_dir, "prune").status not in PRUNABLE_STATUSES
            ):
                return  # it was resumed meanwhile
            for file in each.files:
                if file.parent.parent.parent.name == "came_from":
                    lineage.free_parent_checkpoint(each.run_dir)
                else:
                    file.unlink(missing_ok=True)
    except OSError as error:
        raise RecipeError(
            f"prune: {escape_unprintable(each.run_dir)} can't be written: {error.strerror}; "
            "fix that and prune again"
        ) from error
