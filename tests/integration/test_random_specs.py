"""Whatever is typed, a run trains to its end, or it is refused by name and leaves nothing.

A run that is valid and diverges is stopped: that, too, is told and recorded.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import command_lines
import commands
import hypothesis
import pytest
import trainable_options
from command_lines import Line
from matplotlib.figure import Figure

from recipe.config import option_files
from recipe.config.groups import GROUPS, RUN_SETTINGS
from recipe.config.option_files import EXPERIMENT_GROUP
from recipe.config.safe_yaml import escape_control_chars
from recipe.mlflow_sync import upload_queue

CHOICES = [
    *(f"{g}={o}" for g in (*GROUPS, EXPERIMENT_GROUP) for o in option_files.find_options(g)),
    "",
]
"""What the lines are about: an option, or the settings of the whole run."""

EVERY = 2
"""Every which choice is tried; the long form has all. That each option trains, test_options.py
shows."""

FEW = 2
"""Command lines that are tried for a choice."""

MANY = 500
"""Command lines that are tried at least, in the long form."""

ENDS: Counter[str] = Counter()
"""How the few lines tried so far ended."""

SECONDS = 60
"""After which a run of a few steps hangs."""

NAMED = re.compile(
    rf"(?:{'|'.join(GROUPS)}|{EXPERIMENT_GROUP})[.=:]|(?:{'|'.join(RUN_SETTINGS)}|spec)\b"
)
"""A group, an option of one, a dotted key, or a setting of the whole run."""


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with every kind of data, and a recorded run for others to start from."""
    made = tmp_path_factory.mktemp("random")
    trainable_options.write(made)
    line = [
        "data=digits_low",
        *trainable_options.NEEDS["data=digits_low"],
        "name=digits_low",
        "tracking=local",
    ]
    done = commands.run(made, *command_lines.beneath(command_lines.BASE, line), *line)
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(made)
    shutil.copy(run / "model.safetensors", made)
    (made / "model.safetensors").rename(made / "weights.safetensors")
    return made


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are left empty: drawing them takes as long as the rest of a small run."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).touch())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that isn't there is asked once, and once more at the end."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(upload_queue, "FAILURE_TIMEOUT", 0.0)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block when its time is over."""

    def over(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"hangs: not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def in_mlflow(folder: Path) -> int:
    """How many runs the database holds."""
    with contextlib.closing(sqlite3.connect(folder / "outputs" / "mlflow.db")) as database:
        return int(database.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def names(problem: str, line: Line) -> bool:
    """Whether a problem begins with a key, a group or what was typed, or quotes one of these."""
    texts = [" ".join(text.splitlines()) for text in line]
    texts += [
        escape_control_chars(text) for text in texts
    ]  # bytes that are no text are told escaped
    keys = [text.partition("=")[0].lstrip("+~") for text in texts]
    return (
        NAMED.match(problem.lstrip("+~")) is not None
        or any(problem.startswith(f"{text}: ") for text in texts)
        or any(word in problem for word in (*keys, *texts) if re.search(r"\w[./@=]\w", word))
    )


def end(folder: Path, line: Line) -> str:
    """How a command line ends, `trained`, `refused`, or `stopped` by a number that isn't finite;
    fails if it is none of these, or not wholly."""
    before, tracked = commands.run_dirs(folder), in_mlflow(folder)
    with warnings.catch_warnings(record=True) as warned, time_limit(SECONDS):
        warnings.simplefilter("always", UserWarning)
        done = commands.run(folder, *line)
    made = [run for run in commands.run_dirs(folder) if run not in before]
    try:
        assert [str(w.message) for w in warned if issubclass(w.category, UserWarning)] == []
        if done.status == 0:
            assert done.err == "", done.err
            (run,) = made
            assert commands.read_json(run / "run.json")["status"] == "FINISHED"
            steps = [point["step"] for point in commands.read_lines(run / "metrics.jsonl")]
            assert steps[0] == 0 and max(steps) >= 2
            return "trained"
        if done.status == 1 and made:  # a learning rate may be valid and far too large
            (problem,), (run,) = done.problems, made
            assert re.match(r"recipe: step \d+ \(epoch \d+", problem), problem
            assert commands.read_json(run / "run.json")["status"] == "FAILED"
            assert (run / "nonfinite.json").is_file()
            return "stopped"
        assert done.status == 2, done
        assert made == [] and in_mlflow(folder) == tracked
        assert done.problems
        for problem in done.problems:
            assert problem.startswith("recipe: "), problem
            assert names(problem.removeprefix("recipe: "), line), problem
        return "refused"
    finally:
        for run in made:
            shutil.rmtree(run)


def try_some(folder: Path, choice: str, ends: Counter[str], number: int) -> None:
    """Counts how so many lines about a choice ended."""
    group, _, option = choice.partition("=")

    @hypothesis.seed(f"{choice} {number}")
    @hypothesis.settings(
        max_examples=number, database=None,
        phases=[hypothesis.Phase.generate],  # a line is short, and making it shorter takes minutes
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(command_lines.lines(group, option))
    def try_one(line: Line) -> None:
        ended = end(folder, line)
        hypothesis.event(ended)
        ends[ended] += 1

    try_one()


@pytest.mark.usefixtures("torchvision", "undrawn", "impatient")
@pytest.mark.parametrize("choice", CHOICES[::EVERY])
def test_random_spec_trains_or_is_rejected_with_named_cause(with_data: Path, choice: str) -> None:
    try_some(with_data, choice, ENDS, FEW)


def test_random_specs_include_enough_trained_and_rejected_ones() -> None:
    """Or this file would say nothing about one of the two."""
    if ENDS.total() < FEW * len(CHOICES[::EVERY]):
        pytest.skip("goes with all the lines above, in the same process")
    assert min(ENDS["trained"], ENDS["refused"]) > ENDS.total() / 4


@pytest.mark.long
@pytest.mark.usefixtures("torchvision", "undrawn", "impatient")
def test_five_hundred_random_specs_train_or_are_rejected_by_name(with_data: Path) -> None:
    ends: Counter[str] = Counter()
    for choice in CHOICES:
        try_some(with_data, choice, ends, -(-MANY // len(CHOICES)))
    assert ends.total() >= MANY
    assert min(ends["trained"], ends["refused"]) > ends.total() / 4
    print(f"\n{dict(ends)}")
