"""Recorded runs on disk, `<outputs>/runs/<run id>/`, found by id or by name."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from recipe import atomic_write
from recipe.config import option_files, safe_yaml
from recipe.config.safe_yaml import one_line
from recipe.errors import RecipeError, SpecError
from recipe.formatting import printable, written
from recipe.store.upload_state import Sent

Text = Annotated[str, AfterValidator(one_line)]

Side = Annotated[int, Field(gt=0, le=10_000)]


@dataclass(frozen=True)
class Facts:
    """What it takes to treat a new image as a run's training images were."""

    classes: tuple[Text, ...]
    channels: Annotated[int, Field(gt=0, le=1000)]
    size: tuple[Side, Side]
    """Height and width, in pixels."""
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    """Each one per channel."""
    white_known: bool = True


@dataclass(frozen=True)
class Info:
    """What a run says of itself."""

    id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED, KILLED or PRUNED."""
    mlflow_run_id: str | None = None
    fingerprint: str | None = None
    sweep: str | None = None
    """The sweep's id."""
    process: int | None = None
    """The process that runs it."""


T = TypeVar("T")

ALL = "all"
"""What stands for all recorded runs where a run or a sweep is named."""

FACTS = TypeAdapter(Facts)

INFO = TypeAdapter(Info)


def new_id() -> str:
    """A new run's id: when it started, the part of the second as four hexadecimal digits, and four
    random ones. Sorts by time."""
    now = datetime.now()
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 0x10000 // 1_000_000:04x}{secrets.token_hex(2)}"


def outputs(given: str) -> Path:
    """Where recorded runs lie: in the folder of an `output_dir=` argument, or if there is none in
    the user's project's. Raises SpecError."""
    own = option_files.user_folder()
    if not given and own is not None and (own / "project").is_dir():
        from recipe.config import compose  # with Hydra, which takes a moment

        folder = compose.project().output_dir
        if not isinstance(folder, str):
            raise SpecError(f"output_dir must be a text, got {written(folder)}")
        given = folder
    try:
        return Path(given or "outputs").expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {given[:200]!r} is no path of this machine") from error


def folder(outputs: Path) -> Path:
    return outputs / "runs"


def marks(outputs: Path, fingerprint: str) -> Path:
    """The folder with an empty file, named after its id, for every run of a fingerprint: it finds
    them at once however many runs are recorded."""
    return outputs / "fingerprints" / fingerprint


def mark(run: Path, fingerprint: str) -> None:
    """Lets later runs of this fingerprint find a run's folder."""
    folder = marks(run.parent.parent, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run.name).touch()


def command(verb: str, outputs: Path) -> str:
    """The command line that a person is to type or paste: the shortest that works from the working
    directory."""
    if _is_default(outputs):
        return f"python -m recipe {verb}"
    value = printable(min(os.path.relpath(outputs), str(outputs), key=len))
    if verb.split()[0] in ("resume", "replay") and not re.fullmatch(r"[\w/.+@-]+", value):
        value = "'" + value.replace("'", "\\'") + "'"  # Hydra reads it
    return f"python -m recipe {verb} {shlex.quote(f'output_dir={value}')}"


def _is_default(folder: Path) -> bool:
    """Whether verbs look there unless they are given another folder."""
    own = option_files.user_folder()
    file = own / "project" / "default.yaml" if own is not None else None
    try:
        changed = file.stat().st_mtime_ns if file is not None and file.is_file() else 0
        return _default(changed, Path.cwd()) == folder
    except (SpecError, OSError):  # the project's files are damaged by now
        return False


@functools.lru_cache(maxsize=1)
def _default(changed: int, working_directory: Path) -> Path:
    """Where runs are recorded by default; composing a project, whose file was `changed` then, takes
    a moment."""
    return outputs("")


def find(outputs: Path, wanted: str, key: str) -> Path:
    """The folder of a recorded run.

    `wanted` is its id, the beginning of one, its id in MLflow, or its name (then the latest run
    of that name). Raises SpecError, headed by `key`, if there is none, or its run.json is damaged;
    one that is damaged elsewhere is in nobody's way.
    """
    there = [path.parent for path in sorted(folder(outputs).glob("*/run.json"))]
    by_id = [run for run in there if run.name.startswith(wanted)]
    if len(by_id) == 1:
        read(by_id[0], key)
        return by_id[0]
    if len(by_id) > 1 and wanted:
        raise SpecError(f"{key}: {wanted} begins {len(by_id)} run ids; give more of it")
    infos = {}
    for run in there:
        with contextlib.suppress(SpecError):
            infos[run] = read(run, key)
    same = [run for run, info in infos.items() if wanted in (info.name, info.mlflow_run_id)]
    if same:
        return same[-1]
    names = [run.name for run in there] + [info.name for info in infos.values()]
    damaged = len(there) - len(infos)
    raise SpecError(
        f"{key}: no run {wanted!r} is recorded in {folder(outputs)}{option_files.nearest(wanted, names)}"
        + (f" (in {damaged} of {len(there)} folders run.json is damaged)" if damaged else "")
    )


def classes(run: Path, key: str) -> tuple[str, ...]:
    """Names of the classes a recorded run was trained for. Raises SpecError, headed by `key`."""
    return facts(run, key).classes


def facts(run: Path, key: str) -> Facts:
    """What `data.json` says. Raises SpecError, headed by `key`, if that is none of a run's."""
    return _content(FACTS, run / "data.json", key)


def read(run: Path, key: str) -> Info:
    """What a run says of itself. Raises SpecError, headed by `key`, if run.json is none of a
    run's."""
    info = said(run, key)
    sent = None if info.mlflow_run_id else Sent.read(run)  # known there at once
    return replace(info, mlflow_run_id=sent.mlflow_run_id) if sent else info


def said(run: Path, key: str) -> Info:
    """As `read`, less where MLflow has it, which another file knows."""
    return _content(INFO, run / "run.json", key)


def write(run: Path, info: Info) -> None:
    """Writes `run.json`, whole or not at all. Raises OSError."""
    content = {key: value for key, value in asdict(info).items() if value is not None}
    atomic_write.write(run / "run.json", json.dumps(content).encode() + b"\n", sync=False)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """Raises SpecError, headed by output_dir, where a new folder below it can't be made or written
    to; on a full disk RecipeError."""
    try:
        yield
    except OSError as error:
        kind = RecipeError if atomic_write.is_full(error) else SpecError
        raise kind(unwritable(folder, error)) from error


def unwritable(folder: Path, error: OSError) -> str:
    """What to say of an output_dir in which a new folder can't be made."""
    way_out = (
        "make room, then start it again"
        if atomic_write.is_full(error)
        else "give another output_dir"
    )
    return f"output_dir: {printable(folder)}: {error.strerror or error}; {way_out}"


def lock(folder: Path) -> FileLock:
    """The lock of a run's or a sweep's folder, held by whoever runs it.

    The system releases it when the process ends, however it does; processes forked from it, such
    as those that read data, don't hold it.
    """
    return FileLock(folder / ".lock", thread_local=False)


@contextlib.contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the folder's lock; if so it is held within. Raises OSError."""
    mine = lock(folder)
    try:
        mine.acquire(timeout=0.1, poll_interval=0.01)  # another `unheld` holds it for a moment
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        mine.release()


def take(folder: Path, key: str) -> FileLock:
    """The folder's lock, acquired. Raises SpecError, headed by `key`, if another process has it."""
    mine = lock(folder)
    try:
        mine.acquire(timeout=1)  # `alive` holds it for a moment
    except Timeout:
        by = ""
        with contextlib.suppress(SpecError):
            by = f" by process {process}" if (process := read(folder, key).process) else ""
        raise SpecError(f"{key}: {folder.name} is being run{by}; wait for its end") from None
    except OSError as error:
        raise SpecError(f"{key}: {printable(folder)} can't be written: {error.strerror}") from error
    return mine


def alive(folder: Path) -> bool:
    """Whether a process is running it now."""
    try:
        with unheld(folder) as free:
            return not free
    except OSError:  # where nothing can be written nothing is run
        return False


def _content(kind: TypeAdapter[T], path: Path, key: str) -> T:
    try:
        with safe_yaml.open_file(path) as file:
            return kind.validate_json(file.read())
    except OSError as error:
        raise SpecError(f"{key}: {printable(path)} can't be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise SpecError(
            f"{key}: {printable(path)} is damaged ({where}: {first['msg']}); use another run"
        ) from error
