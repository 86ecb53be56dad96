"""What reaches a terminal: nothing that controls it, whatever its encoding, and never silence."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import os
import sys
from pathlib import Path

import commands
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import recipe
from recipe import output
from recipe.cli import main
from recipe.nn.weights import save_weights
from recipe.runner.console import Console

PACKAGE = Path(recipe.__file__).parent

HOSTILE = "a\u202eb\u2066c\x1b[2Jd\x9be\u200bf\x07\u2028g"

WAYS_OUT = {
    "print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write", "sys.__stdout__",
    "traceback.print_exc", "traceback.print_exception", "rich.print", "rich.console.Console",
    "pprint.pprint", "os.write", "logging.basicConfig",
}  # fmt: skip


def is_safe(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def calls(path: Path) -> set[str]:
    """The dotted names of what a module calls, as they are imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            found.add(names.get(first, first) + dot + rest)
    return found


def test_output_is_written_only_through_escaping_functions() -> None:
    others = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if (found := calls(path) & WAYS_OUT)
    }
    assert others.pop("output.py") == {"print"}
    assert others.pop("runner/signals.py") == {"os.write"}  # a fixed text, from a signal handler
    assert others.pop("errors.py") == {"sys.stderr.write"}  # a traceback, escaped
    assert others.pop("__main__.py") == {"print"}  # a fixed text, before anything is imported
    assert others == {}


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_printed_text_contains_no_terminal_control_characters(text: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        table = Table(text, title=text)
        table.add_row(text)
        table.add_row(Text(text))
        console = Console(width=40)
        for shown in (text, Text(text), table):
            console.print(shown)
        output.print_text(text)
        output.print_error(text)
    assert is_safe(out.getvalue()) and is_safe(err.getvalue())
    assert err.getvalue().count("\n") == 1


def test_output_contains_no_terminal_control_characters(tmp_path: Path) -> None:
    done = commands.run(tmp_path, *commands.QUICK, "epochs=1", "tracking=none", "name=net")
    assert done.status == 0
    (run,) = commands.run_dirs(tmp_path)
    for name in ("run.json", "data.json"):
        content = (
            (run / name).read_text().replace('"net"', f'"{HOSTILE}"').replace('"7"', '"\u202e7"')
        )
        (run / name).write_text(content.replace("\x1b", "\\u001b").replace("\x07", "\\u0007"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{HOSTILE}.png").write_bytes(b"")
    save_weights({HOSTILE: torch.ones(1)}, tmp_path / "other.safetensors")
    shown = [
        commands.run(tmp_path, *arguments)
        for arguments in (
            ("status",),
            ("compare", "all"),
            ("compare", HOSTILE),
            ("diff", run.name, HOSTILE),
            ("predict", f"run={run.name}", "input=images"),
            ("plan", f"clip={HOSTILE}"),
            ("plan", HOSTILE),
            (f"{HOSTILE}=3",),
            ("plan", "model.weights=other.safetensors"),
            ("plan", "optimizer.lr=a\u202eb"),
            ("tricks", HOSTILE),
            ("resume", HOSTILE),
            ("--cfg", "job", "name='a\u202eb'"),
            ("status", f"output_dir={HOSTILE}"),
        )
    ]
    for done in shown:
        assert is_safe(done.out) and is_safe(done.err), (done.out, done.err)
        assert done.out or done.err
    assert "\\u202e" in shown[4].err and "\\u202e" in shown[8].err
    reports = list((tmp_path / "outputs" / "reports").rglob("report.*"))
    assert len(reports) == 2 and all(is_safe(path.read_text()) for path in reports)


@pytest.mark.integration
def test_unencodable_output_is_replaced_and_library_warnings_are_hidden(tmp_path: Path) -> None:
    files = {
        "mine.py": "import warnings\nwarnings.warn('of my own →')\n"
        "def clip(parameters):\n    return parameters[0].grad.norm()\n",
        "conf/clip/mine.yaml": "_target_: mine.clip\n",
    }
    commands.project(tmp_path, files)
    own = ("trust=[mine]", "clip=mine", "epochs=1", "tracking=none", "scheduler=cosine")
    arguments = (*commands.QUICK, *own, "name='n\xe9\u2192'")
    done = commands.spawn(tmp_path, *arguments, PYTHONIOENCODING="ascii", PYTHONWARNINGS="error")
    assert done.status == 0, done.err
    assert done.err == f"recipe: {tmp_path}/mine.py:2: UserWarning: of my own \\u2192\n"
    assert "?" in done.out and "Result  val/accuracy" in done.out
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ("--version > /dev/full", 1, "the output can't be written: No space left on device"),
        ("status > /dev/full", 1, "the output can't be written: No space left on device"),
        ("status >&-", 0, ""),
        ("epochs=0 2> /dev/full", 2, ""),
        ("plan clip=nroom > /dev/full", 2, "clip=nroom: no such option; did you mean norm?"),
    ],
)
def test_writing_to_a_full_or_closed_output_prints_at_most_one_line(
    tmp_path: Path, arguments: str, status: int, line: str
) -> None:
    program = ("sh", "-c", f'exec "$0" -m recipe {arguments}', sys.executable)
    done = commands.spawn(tmp_path, program=program)
    assert (done.status, done.problems) == (status, [f"recipe: {line}"] if line else [])


class Full(io.StringIO):
    """A file on a disk that takes some more lines."""

    def __init__(self, lines: int, path: Path) -> None:
        super().__init__()
        self.left, self.file = lines, path.open("wb")

    def fileno(self) -> int:
        return self.file.fileno()

    def write(self, text: str) -> int:
        self.left -= text.count("\n")
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_run_with_full_output_file_stops_and_is_resumable(tmp_path: Path) -> None:
    out, err = Full(3, tmp_path / "out"), io.StringIO()
    shown = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(tmp_path), shown[0], shown[1]:
        status = main.run_command_line([*commands.QUICK, "epochs=9", "tracking=none"])
    (run,) = commands.run_dirs(tmp_path)
    assert status == 1
    assert err.getvalue().splitlines() == [
        "recipe: the reader of the output has exited, so the run stops; python -m recipe resume "
        f"{run.name} resumes it",
        "recipe: the output can't be written: No space left on device",
    ]
    assert commands.read_json(run / "run.json")["status"] == "KILLED"


def test_removed_working_directory_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for arguments in ((), ("status",), ("-m", "seed=1,2"), ("--help",), ("predict",)):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            status = main.run_command_line(list(arguments))
        line = "recipe: the working directory was removed; change to another one\n"
        assert (status, err.getvalue()) == (2, line)


@pytest.mark.integration
def test_current_task_is_printed_to_stderr_after_delay(tmp_path: Path) -> None:
    done = commands.spawn(tmp_path, "status", RECIPE_NOTICE_AFTER="0.001")
    out = f"There are no runs in {tmp_path}/outputs/runs\n"
    assert done == commands.Result(0, out, "recipe: reading the recorded runs ...\n")
    done = commands.spawn(tmp_path, "status", RECIPE_NOTICE_AFTER="100")
    assert done == commands.Result(0, out, "")


@pytest.mark.integration
@pytest.mark.parametrize("value", ["-1", "soon", "nan", "1e9"])
def test_invalid_notice_delay_is_rejected(tmp_path: Path, value: str) -> None:
    done = commands.spawn(tmp_path, "status", RECIPE_NOTICE_AFTER=value)
    line = f"RECIPE_NOTICE_AFTER must be a number of seconds, 0 for never, got {value!r}"
    assert (done.status, done.problems) == (2, [f"recipe: {line}"])


SLOW_FONTS = """
import sys, threading

timer = threading.Timer
threading.Timer = lambda seconds, function: timer(0.001, function)  # matplotlib's has 5 seconds
from recipe.cli import main

main.main(sys.argv[1:])
"""


@pytest.mark.integration
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_building_the_font_cache_is_not_reported(tmp_path: Path, verb: str) -> None:
    """It takes seconds on a new machine, and would be printed without a prefix at any moment."""
    quick = (*commands.QUICK, "epochs=1", "tracking=none")
    if verb == "compare":
        assert commands.sweep(tmp_path, "-m", *quick, "clip=none,norm").status == 0
    arguments = quick if verb == "train" else [verb]
    program = (sys.executable, "-c", SLOW_FONTS)
    cache = tmp_path / "fonts"
    done = commands.spawn(tmp_path, *arguments, program=program, MPLCONFIGDIR=str(cache))
    assert (done.status, done.err) == (0, "")
    assert list(cache.glob("fontlist-*.json"))
