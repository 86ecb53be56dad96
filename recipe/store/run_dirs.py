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
from recipe.config.safe_yaml import escape_control_chars
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable, format_value
from recipe.store.upload_state import UploadState

EscapedText = Annotated[str, AfterValidator(escape_control_chars)]

ImageSide = Annotated[int, Field(gt=0, le=10_000)]


@dataclass(frozen=True)
class DatasetInfo:
    """The preprocessing of a run's images; mean and std are per channel."""

    classes: tuple[EscapedText, ...]
    channels: Annotated[int, Field(gt=0, le=1000)]
    size: tuple[ImageSide, ImageSide]
    """Height and width, in pixels."""
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    white_known: bool = True


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json."""

    id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED, KILLED or PRUNED."""
    mlflow_run_id: str | None = None
    fingerprint: str | None = None
    sweep: str | None = None
    process: int | None = None


T = TypeVar("T")

ALL_RUNS = "all"  # in place of the name of a run or sweep

DATASET_INFO_ADAPTER = TypeAdapter(DatasetInfo)

RUN_INFO_ADAPTER = TypeAdapter(RunInfo)


def new_run_id() -> str:
    """Returns a new id: date, time, and eight hexadecimal digits, four of the fraction of the
    second and four random ones. Ids sort by time."""
    now = datetime.now()
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 0x10000 // 1_000_000:04x}{secrets.token_hex(2)}"


def resolve_output_dir(given: str) -> Path:
    """Returns the folder of recorded runs: that of an `output_dir=` argument, or if it is empty
    that of the user's project. Raises SpecError."""
    own = option_files.user_conf_dir()
    if not given and own is not None and (own / "project").is_dir():
        from recipe.config import compose  # imports Hydra, which readers of records do without

        folder = compose.compose_project().output_dir
        if not isinstance(folder, str):
            raise SpecError(f"output_dir must be a string, got {format_value(folder)}")
        given = folder
    try:
        return Path(given or "outputs").expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(f"output_dir: {given[:200]!r} is no path of this machine") from error


def get_runs_dir(outputs: Path) -> Path:
    return outputs / "runs"


def get_fingerprint_dir(outputs: Path, fingerprint: str) -> Path:
    """Returns the folder with an empty file for each run of a fingerprint, named after its id."""
    return outputs / "fingerprints" / fingerprint


def index_fingerprint(run_dir: Path, fingerprint: str) -> None:
    folder = get_fingerprint_dir(run_dir.parent.parent, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_dir.name).touch()


def format_command(verb: str, outputs: Path) -> str:
    """Returns the shortest command line that works from the working directory."""
    if _is_default_output_dir(outputs):
        return f"python -m recipe {verb}"
    value = escape_unprintable(min(os.path.relpath(outputs), str(outputs), key=len))
    if verb.split()[0] in ("resume", "replay") and not re.fullmatch(r"[\w/.+@-]+", value):
        value = "'" + value.replace("'", "\\'") + "'"  # Hydra reads it
    return f"python -m recipe {verb} {shlex.quote(f'output_dir={value}')}"


def _is_default_output_dir(folder: Path) -> bool:
    own = option_files.user_conf_dir()
    file = own / "project" / "default.yaml" if own is not None else None
    try:
        changed = file.stat().st_mtime_ns if file is not None and file.is_file() else 0
        return _get_default_output_dir(changed, Path.cwd()) == folder
    except (SpecError, OSError):  # the project's files were damaged meanwhile
        return False


@functools.lru_cache(maxsize=1)
def _get_default_output_dir(modified_ns: int, working_directory: Path) -> Path:
    """Cached by the modification time of the project's file, as composing takes time."""
    return resolve_output_dir("")


def find(outputs: Path, wanted: str, key: str) -> Path:
    """Returns the folder of a recorded run.

    `wanted` is its id, a prefix of it, its id in MLflow, or its name (the latest run counts).
    Raises SpecError, prefixed by `key`, if there is none, or its run.json is damaged.
    """
    there = [path.parent for path in sorted(get_runs_dir(outputs).glob("*/run.json"))]
    by_id = [run for run in there if run.name.startswith(wanted)]
    if len(by_id) == 1:
        read_info_file(by_id[0], key)
        return by_id[0]
    if len(by_id) > 1 and wanted:
        raise SpecError(f"{key}: {wanted} begins {len(by_id)} run ids; give more of it")
    infos = {}
    for run in there:
        with contextlib.suppress(SpecError):
            infos[run] = read_info_file(run, key)
    same = [run for run, info in infos.items() if wanted == info.name]
    same = same or [run for run in infos if wanted == read_info(run, key).mlflow_run_id]
    if same:
        return same[-1]
    names = [run.name for run in there] + [info.name for info in infos.values()]
    damaged = len(there) - len(infos)
    raise SpecError(
        f"{key}: no run {wanted!r} is recorded in "
        f"{get_runs_dir(outputs)}{option_files.suggest_nearest(wanted, names)}"
        + (f" (in {damaged} of {len(there)} folders run.json is damaged)" if damaged else "")
    )


def read_classes(run_dir: Path, key: str) -> tuple[str, ...]:
    """Returns a recorded run's class names. Raises SpecError, prefixed by `key`."""
    return read_dataset_info(run_dir, key).classes


def read_dataset_info(run_dir: Path, key: str) -> DatasetInfo:
    """Reads `data.json`. Raises SpecError, prefixed by `key`."""
    return _read_validated(DATASET_INFO_ADAPTER, run_dir / "data.json", key)


def read_info(run_dir: Path, key: str) -> RunInfo:
    """Reads `run.json`, and the run's id in MLflow. Raises SpecError, prefixed by `key`."""
    info = read_info_file(run_dir, key)
    sent = None if info.mlflow_run_id else UploadState.read(run_dir)  # known earlier there
    return replace(info, mlflow_run_id=sent.mlflow_run_id) if sent else info


def read_info_file(run_dir: Path, key: str) -> RunInfo:
    """Reads `run.json` alone. Raises SpecError, prefixed by `key`."""
    return _read_validated(RUN_INFO_ADAPTER, run_dir / "run.json", key)


def write_info(run_dir: Path, info: RunInfo) -> None:
    """Writes `run.json` atomically. Raises OSError."""
    content = {key: value for key, value in asdict(info).items() if value is not None}
    atomic_write.write_file(run_dir / "run.json", json.dumps(content).encode() + b"\n", sync=False)


@contextlib.contextmanager
def wrap_output_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError into a SpecError about output_dir, or into a RecipeError on a full disk."""
    try:
        yield
    except OSError as error:
        kind = RecipeError if atomic_write.is_disk_full(error) else SpecError
        raise kind(describe_unwritable(folder, error)) from error


def describe_unwritable(folder: Path, error: OSError) -> str:
    way_out = (
        "make room, then start it again"
        if atomic_write.is_disk_full(error)
        else "give another output_dir"
    )
    return f"output_dir: {escape_unprintable(folder)}: {error.strerror or error}; {way_out}"


def get_lock(folder: Path) -> FileLock:
    """The lock of a run's or a sweep's folder, held by the process that runs it.

    The system releases it when the process ends; processes forked from it don't hold it.
    """
    return FileLock(folder / ".lock", thread_local=False)


@contextlib.contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Holds the folder's lock in the block and yields True, or yields False if another process
    holds it. Raises OSError."""
    lock = get_lock(folder)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.01)  # another `try_lock` holds it only briefly
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def acquire_lock(folder: Path, key: str) -> FileLock:
    """Acquires the folder's lock. Raises SpecError, prefixed by `key`, if another process holds
    it."""
    lock = get_lock(folder)
    try:
        lock.acquire(timeout=1)  # `try_lock` holds it only briefly
    except Timeout:
        by = ""
        with contextlib.suppress(SpecError):
            by = f" by process {process}" if (process := read_info(folder, key).process) else ""
        raise SpecError(f"{key}: {folder.name} is being run{by}; wait for its end") from None
    except OSError as error:
        raise SpecError(
            f"{key}: {escape_unprintable(folder)} can't be written: {error.strerror}"
        ) from error
    return lock


def is_running(folder: Path) -> bool:
    """Whether a process is running the run or sweep of this folder."""
    if not folder.is_dir():  # FileLock would create it
        return False
    try:
        with try_lock(folder) as free:
            return not free
    except OSError:  # a process that runs it could write
        return False


def _read_validated(kind: TypeAdapter[T], path: Path, key: str) -> T:
    try:
        with safe_yaml.open_regular_file(path) as file:
            return kind.validate_json(file.read())
    except OSError as error:
        raise SpecError(
            f"{key}: {escape_unprintable(path)} can't be read: {error.strerror}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise SpecError(
            f"{key}: {escape_unprintable(path)} is damaged ({where}: {first['msg']}); use another "
            "run"
        ) from error
