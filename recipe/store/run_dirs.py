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
    """What it takes to treat a new image as a run's training images were."""

    classes: tuple[EscapedText, ...]
    channels: Annotated[int, Field(gt=0, le=1000)]
    size: tuple[ImageSide, ImageSide]
    """Height and width, in pixels."""
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    """Each one per channel."""
    white_known: bool = True


@dataclass(frozen=True)
class RunInfo:
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

ALL_RUNS = "all"
"""What stands for all recorded runs where a run or a sweep is named."""

DATASET_INFO_ADAPTER = TypeAdapter(DatasetInfo)

RUN_INFO_ADAPTER = TypeAdapter(RunInfo)


def new_run_id() -> str:
    """A new run's id: when it started, the part of the second as four hexadecimal digits, and four
    random ones. Sorts by time."""
    now = datetime.now()
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 0x10000 // 1_000_000:04x}{secrets.token_hex(2)}"


def resolve_output_dir(given: str) -> Path:
    """Where recorded runs lie: in the folder of an `output_dir=` argument, or if there is none in
    the user's project's. Raises SpecError."""
    own = option_files.user_conf_dir()
    if not given and own is not None and (own / "project").is_dir():
        from recipe.config import compose  # with Hydra, which takes a moment

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
    """The folder with an empty file, named after its id, for every run of a fingerprint: it finds
    them at once however many runs are recorded."""
    return outputs / "fingerprints" / fingerprint


def index_fingerprint(run_dir: Path, fingerprint: str) -> None:
    """Lets later runs of this fingerprint find a run's folder."""
    folder = get_fingerprint_dir(run_dir.parent.parent, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_dir.name).touch()


def format_command(verb: str, outputs: Path) -> str:
    """The command line that a person is to type or paste: the shortest that works from the working
    directory."""
    if _is_default_output_dir(outputs):
        return f"python -m recipe {verb}"
    value = escape_unprintable(min(os.path.relpath(outputs), str(outputs), key=len))
    if verb.split()[0] in ("resume", "replay") and not re.fullmatch(r"[\w/.+@-]+", value):
        value = "'" + value.replace("'", "\\'") + "'"  # Hydra reads it
    return f"python -m recipe {verb} {shlex.quote(f'output_dir={value}')}"


def _is_default_output_dir(folder: Path) -> bool:
    """Whether verbs look there unless they are given another folder."""
    own = option_files.user_conf_dir()
    file = own / "project" / "default.yaml" if own is not None else None
    try:
        changed = file.stat().st_mtime_ns if file is not None and file.is_file() else 0
        return _get_default_output_dir(changed, Path.cwd()) == folder
    except (SpecError, OSError):  # the project's files are damaged by now
        return False


@functools.lru_cache(maxsize=1)
def _get_default_output_dir(modified_ns: int, working_directory: Path) -> Path:
    """Where runs are recorded by default; composing a project, whose file was `changed` then, takes
    a moment."""
    return resolve_output_dir("")


def find(outputs: Path, wanted: str, key: str) -> Path:
    """The folder of a recorded run.

    `wanted` is its id, the beginning of one, its id in MLflow, or its name (then the latest run
    of that name). Raises SpecError, headed by `key`, if there is none, or its run.json is damaged;
    one that is damaged elsewhere is in nobody's way.
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
    """Names of the classes a recorded run was trained for. Raises SpecError, headed by `key`."""
    return read_dataset_info(run_dir, key).classes


def read_dataset_info(run_dir: Path, key: str) -> DatasetInfo:
    """What `data.json` says. Raises SpecError, headed by `key`, if that is none of a run's."""
    return _read_validated(DATASET_INFO_ADAPTER, run_dir / "data.json", key)


def read_info(run_dir: Path, key: str) -> RunInfo:
    """What a run says of itself. Raises SpecError, headed by `key`, if run.json is none of a
    run's."""
    info = read_info_file(run_dir, key)
    sent = None if info.mlflow_run_id else UploadState.read(run_dir)  # known there at once
    return replace(info, mlflow_run_id=sent.mlflow_run_id) if sent else info


def read_info_file(run_dir: Path, key: str) -> RunInfo:
    """As `read`, less where MLflow has it, which another file knows."""
    return _read_validated(RUN_INFO_ADAPTER, run_dir / "run.json", key)


def write_info(run_dir: Path, info: RunInfo) -> None:
    """Writes `run.json`, whole or not at all. Raises OSError."""
    content = {key: value for key, value in asdict(info).items() if value is not None}
    atomic_write.write_file(run_dir / "run.json", json.dumps(content).encode() + b"\n", sync=False)


@contextlib.contextmanager
def wrap_output_errors(folder: Path) -> Iterator[None]:
    """Raises SpecError, headed by output_dir, where a new folder below it can't be made or written
    to; on a full disk RecipeError."""
    try:
        yield
    except OSError as error:
        kind = RecipeError if atomic_write.is_disk_full(error) else SpecError
        raise kind(describe_unwritable(folder, error)) from error


def describe_unwritable(folder: Path, error: OSError) -> str:
    """What to say of an output_dir in which a new folder can't be made."""
    way_out = (
        "make room, then start it again"
        if atomic_write.is_disk_full(error)
        else "give another output_dir"
    )
    return f"output_dir: {escape_unprintable(folder)}: {error.strerror or error}; {way_out}"


def get_lock(folder: Path) -> FileLock:
    """The lock of a run's or a sweep's folder, held by whoever runs it.

    The system releases it when the process ends, however it does; processes forked from it, such
    as those that read data, don't hold it.
    """
    return FileLock(folder / ".lock", thread_local=False)


@contextlib.contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the folder's lock; if so it is held within. Raises OSError."""
    mine = get_lock(folder)
    try:
        mine.acquire(timeout=0.1, poll_interval=0.01)  # another `unheld` holds it for a moment
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        mine.release()


def acquire_lock(folder: Path, key: str) -> FileLock:
    """The folder's lock, acquired. Raises SpecError, headed by `key`, if another process has it."""
    mine = get_lock(folder)
    try:
        mine.acquire(timeout=1)  # `alive` holds it for a moment
    except Timeout:
        by = ""
        with contextlib.suppress(SpecError):
            by = f" by process {process}" if (process := read_info(folder, key).process) else ""
        raise SpecError(f"{key}: {folder.name} is being run{by}; wait for its end") from None
    except OSError as error:
        raise SpecError(
            f"{key}: {escape_unprintable(folder)} can't be written: {error.strerror}"
        ) from error
    return mine


def is_running(folder: Path) -> bool:
    """Whether a process is running it now."""
    if not folder.is_dir():  # FileLock would create it
        return False
    try:
        with try_lock(folder) as free:
            return not free
    except OSError:  # where nothing can be written nothing is run
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
