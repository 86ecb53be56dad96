"""Recorded files that are damaged, or a stranger's: they are named, and the rest is shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.compare import selection
from recipe.errors import SpecError
from recipe.store import sweep_dirs

FILES = (
    "run.json", "sent.json", "result.json", "data.json", "spec.yaml", "metrics.jsonl",
    "events.jsonl", "parameters.csv", "environment.txt", "sweep.json", "jobs.jsonl",
)  # fmt: skip


RUN_FILES, SWEEP_FILES = FILES[:9], FILES[9:]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two runs, without their checkpoints."""
    folder = tmp_path_factory.mktemp("recorded")
    arguments = (*commands.QUICK, "epochs=1", "seed=1,2", "tracking=none", "checkpoint.every=null")
    assert commands.sweep(folder, "-m", *arguments).status == 0
    for path in [*folder.rglob("checkpoints"), *folder.rglob("*.safetensors")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def file_of(folder: Path, name: str) -> Path:
    """That file of the first run or of the sweep."""
    return sorted(folder.glob(f"outputs/*/*/{name}"))[0]


def replace(path: Path) -> Path:
    """Makes way for something else than an ordinary file."""
    path.unlink()
    return path


DAMAGES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: replace(path).mkdir(),
    "pipe": lambda path: os.mkfifo(replace(path)),
    "device": lambda path: replace(path).symlink_to("/dev/zero"),
    "loop": lambda path: replace(path).symlink_to(path.name),
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
    "a deep last line": lambda path: path.write_bytes(
        path.read_bytes().rstrip(b"\n") + b"\n" + b"[" * 100_000 + b"\n"
    ),
    "large numbers": lambda path: path.write_bytes(
        re.sub(rb": \d+(?![\d.])", b": %d" % 2**70, path.read_bytes())
    ),
    "no text": lambda path: path.write_bytes(b"\xff\x00\xfe" * 100),
    "empty": lambda path: path.write_bytes(b""),
}  # fmt: skip


def damaged(folder: Path, files: Sequence[str]) -> list[Path]:
    """Adds a copy of the first run or sweep for every damage to each of these files."""
    (original,) = {file_of(folder, name).parent for name in files}
    copies: list[Path] = []
    for name in files:
        for damage in DAMAGES.values():
            copies.append(original.with_name(f"{original.name[:-4]}{len(copies):04}"))
            shutil.copytree(original, copies[-1])
            damage(copies[-1] / name)
    return copies


def test_runs_with_damaged_files_are_reported_and_the_rest_is_shown(
    tmp_path: Path, recorded: Path
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    whole = commands.run_dirs(tmp_path)
    copies = damaged(tmp_path, RUN_FILES)
    done = commands.run(tmp_path, "status")
    assert (done.status, done.err) == (0, "")
    for run, damage in zip(copies, DAMAGES, strict=False):  # of run.json, which has no numbers
        assert run.name in done.out or damage == "large numbers"
    assert commands.run(tmp_path, "sync").err == ""
    done = commands.run(tmp_path, "compare", "all")
    assert (done.status, done.err) == (0, "")
    assert "left out: missing or damaged (" in done.out
    chosen = selection.select_runs(tmp_path / "outputs", "all", "val/accuracy")
    assert {run.name for run in whole} <= {run.run for run in chosen.results}
    for run in copies:
        done = commands.run(tmp_path, "diff", whole[1].name, run.name)
        assert done.status in (0, 2) and len(done.problems) == done.status // 2, done


def test_status_and_sync_report_damaged_files_of_finished_runs(
    tmp_path: Path, recorded: Path
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    (first, second) = commands.run_dirs(tmp_path)
    seen = ("folder", "pipe", "device", "loop", "deep", "no text")
    for name in ("metrics.jsonl", "events.jsonl", "result.json", "spec.yaml", "data.json"):
        for damage in seen:
            content = (first / name).read_bytes()
            DAMAGES[damage](first / name)
            sentence = f"Caution 1 run with damaged files: {first.name} ({name})\n"
            assert sentence in commands.run(tmp_path, "status").out, damage
            if damage == "deep":
                done = commands.run(tmp_path, "sync")
                assert sentence in done.out and "all of 1 run that ended" in done.out
            shutil.rmtree(first / name) if (first / name).is_dir() else (first / name).unlink()
            (first / name).write_bytes(content)
    with open(second / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "ti')  # its process was killed
    assert "damaged" not in commands.run(tmp_path, "status").out


def test_status_lists_a_sweep_with_a_damaged_file_as_damaged(
    tmp_path: Path, recorded: Path
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    DAMAGES["deep"](file_of(tmp_path, "sweep.json"))
    assert "  sweep.json is damaged\n" in commands.run(tmp_path, "status").out


def test_sweeps_with_damaged_files_are_reported_and_the_rest_is_shown(
    tmp_path: Path, recorded: Path
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    for sweep in damaged(tmp_path, SWEEP_FILES):
        done = commands.run(tmp_path, "status", sweep.name)
        assert done.status == 0 or "no sweep" in done.err, done
        assert done.err.count("\n") == done.status // 2
        with contextlib.suppress(SpecError):
            selection.select_runs(tmp_path / "outputs", sweep.name, "val/accuracy")
    for verb in ("status", "sync"):
        done = commands.run(tmp_path, verb)
        assert (done.status, done.err) == (0, "")


def test_sync_reports_runs_with_damaged_files_and_sends_the_rest(
    tmp_path: Path, recorded: Path
) -> None:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    spec = yaml.safe_load(file_of(tmp_path, "spec.yaml").read_text())
    spec["options"]["tracking"], spec["tracking"] = "local", {
        "_target_": "recipe.components.tracking.local.local", "experiment": "recipe"
    }  # fmt: skip
    for run in commands.run_dirs(tmp_path):
        (run / "spec.yaml").write_text(yaml.safe_dump(spec))
        (run / "sent.json").unlink()
        (run / "sent.json").write_text(
            json.dumps({"uri": f"sqlite:///{tmp_path}/outputs/mlflow.db", "metrics": 0})
        )
    copies = damaged(tmp_path, ("sent.json", "metrics.jsonl", "events.jsonl", "spec.yaml"))
    done = commands.run(tmp_path, "sync")
    assert (done.status, done.err) == (1, "")
    for run in copies[: len(DAMAGES)]:  # what is left is sent
        assert f"{run.name}  sent lines: " in done.out
    not_read = list(DAMAGES).index("large numbers")
    for number, run in enumerate(copies[len(DAMAGES) :]):
        assert run.name in done.out or number % len(DAMAGES) >= not_read
    status = commands.run(tmp_path, "status")
    assert (status.status, status.err) == (0, "")


def test_unwritable_output_dir_is_rejected_by_all_verbs(tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded / "outputs", tmp_path / "compared")
    for name in ("outputs/runs", "outputs/sweeps", "compared/reports"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # a file where the folder is to be made
    quick = (*commands.QUICK, "tracking=none")
    for where, command in (
        ("outputs/runs", quick),
        ("outputs/sweeps", ("-m", *quick, "seed=1,2")),
        ("outputs/sweeps", ("ablate", *quick, "clip=none,norm", "yes=true")),
        ("outputs/sweeps", ("search", *quick, "clip=none,norm", "trials=2", "yes=true")),
        ("compared/reports", ("compare", "all", "output_dir=compared")),
    ):
        done = commands.run(tmp_path, *command)
        assert done.status == 2, done
        (problem,) = done.problems
        assert problem.startswith(f"recipe: output_dir: {tmp_path}/{where}/"), problem
        assert problem.endswith(": Not a directory; give another output_dir"), problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Callable[[bytes], bytes]]:
    """A file's name, and what is made of its content."""
    name = draw(st.sampled_from(FILES))
    kind = draw(st.sampled_from(("bytes", "cut", "changed", "value", "value", "value")))
    place, value = draw(st.integers(0, 10_000)), draw(JSON)
    raw = draw(st.binary(max_size=40))

    def change(content: bytes) -> bytes:
        at = place % (len(content) + 1)
        if kind == "bytes":
            return raw
        if kind == "cut":
            return content[:at]
        if kind == "changed":
            return content[:at] + raw + content[at + len(raw) :]
        lines = content.splitlines()
        index = place % len(lines) if name.endswith("l") and lines else 0
        try:
            found = json.loads(lines[index] if name.endswith("l") else content)
        except (ValueError, IndexError):
            return raw
        changed = json.dumps(with_value(found, place, value)).encode()
        if not name.endswith("l"):
            return changed
        return b"\n".join([*lines[:index], changed, *lines[index + 1 :], b""])

    return name, change


def with_value(content: Any, place: int, value: Any) -> Any:
    """The content with another value at one place."""
    if isinstance(content, dict) and content:
        keys = sorted(content)
        key = keys[place % len(keys)]
        return content | {key: with_value(content[key], place // len(keys), value)}
    if isinstance(content, list) and content:
        at = place % len(content)
        return [*content[:at], with_value(content[at], place // len(content), value),
                *content[at + 1 :]]  # fmt: skip
    return value


def look_at_all(folder: Path) -> None:
    """As `status`, `compare` and `sync` do."""
    outputs = folder / "outputs"
    sweeps = [("status", sweep.name) for sweep in sweep_dirs.list_sweep_dirs(outputs)]
    for arguments in [("status",), ("sync",), *sweeps]:
        done = commands.run(folder, *arguments)
        assert (done.status, done.err) == (0, ""), done
    for wanted in ("all", ""):
        with contextlib.suppress(SpecError):
            selection.select_runs(outputs, wanted, "val/accuracy")


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
def test_randomly_damaged_files_crash_no_command(
    tmp_path_factory: pytest.TempPathFactory, recorded: Path, damage: Any
) -> None:
    try_damage(tmp_path_factory, recorded, damage)


@pytest.mark.long
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
def test_five_hundred_randomly_damaged_files_crash_no_command(
    tmp_path_factory: pytest.TempPathFactory, recorded: Path, damage: Any
) -> None:
    try_damage(tmp_path_factory, recorded, damage)


def try_damage(factory: pytest.TempPathFactory, recorded: Path, damage: Any) -> None:
    folder = factory.mktemp("damaged") / "copy"
    shutil.copytree(recorded, folder)
    name, change = damage
    path = file_of(folder, name)
    path.write_bytes(change(path.read_bytes()))
    look_at_all(folder)
    shutil.rmtree(folder)
