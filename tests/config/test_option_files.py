"""A user's option files: what their words mean, and files that are broken, hostile or huge.

A bad file is named in one line where it is chosen and where it is listed; all else works.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from recipe.config import compose
from recipe.config.overrides import check_overrides
from recipe.config.safe_yaml import escape_control_chars
from recipe.config.spec import RunSpec

GLOBAL = "# @package _global_\n# Mine.\n"

QUICK = (*commands.QUICK, "tracking=none")

# Words that YAML 1.1 takes for booleans, octal, sexagesimal and other numbers, and dates.

WORDS = (
    "on", "off", "yes", "no", "On", "OFF", "y", "n", "true", "False", "null", "1e3", "1E-3",
    "12:30", "1:30.5", "010", "0x1F", "0o7", "0b1", "1_000", "+5", "-0", ".5", "5.", "00",
    "2026-01-01", "1.2.3", "inf", "nan",
)  # fmt: skip

DIFFERENT = {"inf": "inf", "nan": "nan"}
"""Texts in YAML, which writes these numbers .inf and .nan."""


def test_words_have_same_value_in_option_file_and_on_command_line(
    composed: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = ", ".join(WORDS)
    commands.project(
        tmp_path, {"conf/experiment/mine.yaml": f"{GLOBAL}augment: {{x: [{listed}]}}\n"}
    )
    in_file = composed("experiment=mine").augment["x"]
    given = composed(f"+augment.x=[{listed}]").augment["x"]
    wanted = [DIFFERENT.get(word, value) for word, value in zip(WORDS, given, strict=True)]
    assert [(type(value), value) for value in in_file] == [(type(v), v) for v in wanted]


def test_yaml_off_is_an_option_name_and_booleans_are_true_or_false(
    composed: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands.project(
        tmp_path,
        {
            "conf/experiment/off.yaml": f"{GLOBAL}freeze: {{cache: off}}\n",
            "conf/experiment/on.yaml": f"{GLOBAL}summary: on\n",
        },
    )
    in_file = composed("freeze=all_but_head", "experiment=off")
    assert in_file.freeze == composed("freeze=all_but_head", "freeze.cache=off").freeze
    assert in_file.freeze["cache"] == "off"
    done = commands.run(tmp_path, "plan", *QUICK, "experiment=on")
    assert (done.status, done.problems) == (
        2,
        ["recipe: summary must be true or false, got 'on'; use false, the default"],
    )


def test_recorded_spec_round_trips(small: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = small("+augment.x=[" + ",".join(WORDS[:-2]) + "]", "name='010'", "+augment.off=on")
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    assert RunSpec.from_file(tmp_path / "spec.yaml", []) == spec


# Files that are broken.

BROKEN = {
    "half": (
        b"# Half written.\n_target_: recipe.components.clip.norm.norm\nmax_norm: [",
        "can't be read: ",
    ),
    "latin": (b"# Gr\xf6\xdfe.\nmax_norm: 1\n", "can't be read: 'utf-8' codec can't decode"),
    "escape": (b"# A\x1b[2Jname.\nmax_norm: 1\n", "special characters are not allowed"),
    "zero": (b"\0" * 100, "special characters are not allowed"),
    "listed": (b"# A list.\n- max_norm\n", "must be a mapping"),
    "word": (b"norm", "must be a mapping"),
    "tag": (b"a: !!python/object/apply:os.mkdir [RAN]", "isn't that of a plain value"),
    "misfit": (b"a: !!bool maybe\nb: !!int ''\n", "can't be read: "),
    "twice": (b"a: 1\na: 2\n", "found duplicate key a"),
    "loop": (b"a: &a [*a]\n", "the alias *a is undefined, or refers to itself"),
    "large": (b"a: " + b"x" * 2**20, "is larger than 1048576 bytes"),
    "many": (b"a: [" + b"1, " * 20_000 + b"]", "more than 10000 values"),
    "null_key": (b"null: 3\n", "null: the name of a setting must be a string, got null; write"),
    "null_below": (b"a:\n- ~: 3\n", "a.null: the name of a setting must be a string, got null"),
    "number_key": (b"1: 2\n", "1: the name of a setting must be a string, got 1; write"),
    "fraction_key": (b"1.5: 2\n", "1.5: the name of a setting must be a string, got 1.5; write"),
    "boolean_key": (b"true: 1\n", "true: the name of a setting must be a string, got true; write"),
    "global_key": (b"# @package _global_\nclip: {1: 2}\n", "clip.1: the name of a setting must be"),
    "half_reference": (b"y: ${\n", "y must have a complete ${...}, got '${'"),
    "half_below": (b"y: {z: ['${a.b c']}\n", "y.z[0] must have a complete ${...}, got '${a.b c'"),
    "deep_reference": (b"y: " + b"${a:" * 300 + b"1" + b"}" * 300, "y must have a complete ${...}"),
    "defaults_number": (b"defaults: 3\n", "defaults must be a list of options, got 3; write"),
    "defaults_null": (b"defaults:\n", "defaults must be a list of options, got null; write"),
    "defaults_pair": (b"defaults: {a: b}\n", "defaults must be a list of options, got {"),
    "defaults_nested": (b"defaults: [{a: {b: c}}]\n", "defaults[0] must be the name of an option"),
    "defaults_two": (b"defaults: [_self_, {a: b, c: d}]\n", "defaults[1] must be the name of"),
    "defaults_item": (b"defaults: [[norm]]\n", "defaults[0] must be the name of an option"),
    "selfy": (
        b"defaults: [selfy]\n",
        "defaults: inherits from itself (clip/selfy -> clip/selfy); remove clip/selfy from the "
        "list",
    ),
    "on_selfy": (
        b"defaults: [/clip/selfy, _self_]\n",
        "defaults: inherits from itself (clip/selfy -> ",
    ),
}

VALUE = "_target_: recipe.components.clip.value.value\nmax_value: 1.0\n"

ODD = {
    "pipe": "is not a regular file",
    "device": "is not a regular file",
    "folder": "is not a regular file",
    "circle": "is a link to itself; link it to the file",
    "nowhere": "is a link to missing.yaml, and there is no such file",
}

CYCLE = {"first": "defaults: [second, _self_]\n", "second": "defaults: [first, _self_]\n"}
"""Files that build on each other."""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A project with all of these among its clips, and one good option."""
    folder = tmp_path / "conf" / "clip"
    commands.project(
        tmp_path,
        {
            "conf/clip/good.yaml": f"# A good one.\n{VALUE}",
            **{f"conf/clip/{name}.yaml": text for name, text in CYCLE.items()},
        },
    )
    for name, (content, _) in BROKEN.items():
        (folder / f"{name}.yaml").write_bytes(content)
    os.mkfifo(folder / "pipe.yaml")
    (folder / "device.yaml").symlink_to("/dev/zero")
    (folder / "folder.yaml").mkdir()
    (folder / "circle.yaml").symlink_to("circle.yaml")
    (folder / "nowhere.yaml").symlink_to("missing.yaml")
    return tmp_path


def test_menu_names_broken_option_files_and_shows_others(broken: Path) -> None:
    for verb in (["--help"], ["tricks"], ["tricks", "clip"]):
        done = commands.run(broken, *verb)
        assert (done.status, done.err) == (0, ""), verb
        assert all(char.isprintable() or char == "\n" for char in done.out)
        shown = "".join(done.out.split())  # a table breaks long lines
        assert "goodAgoodone." in shown and "valueValueclipping:" in shown
        for name in (*BROKEN, *ODD):
            said = BROKEN[name][1] if name in BROKEN else ODD[name]
            file = "selfy" if name == "on_selfy" else name
            line = f"{name} can't be used: {broken}/conf/clip/{file}.yaml: "
            found = shown.partition("".join(line.split()))[2]
            assert "".join(said.split()) in found[:400] and found, (verb, name)


def test_broken_option_file_is_rejected_only_where_selected(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(broken)
    for name in (*BROKEN, *ODD):
        said = BROKEN[name][1] if name in BROKEN else ODD[name]
        given = compose.parse_overrides([f"clip={name}"])
        with compose.composition_context():
            (line,) = check_overrides(given).problems
        assert line.startswith(f"clip={name} can't be used: ")
        assert f"conf/clip/{name.removeprefix('on_')}.yaml: " in line and said in line
    (line,) = commands.run(broken, "tricks", "clip=pipe").problems
    assert line.endswith("conf/clip/pipe.yaml: is not a regular file")
    for name in CYCLE:
        (line,) = commands.run(broken, "plan", *QUICK, f"clip={name}").problems
        assert f"conf/clip/{name}.yaml: defaults: inherits from itself (clip/{name} -> " in line
        (shown,) = commands.run(broken, "tricks", f"clip={name}").problems
        assert shown == line.replace("recipe: ", "recipe: tricks: ")
    # a hint looks through the settings of all options
    (line,) = commands.run(broken, "plan", *QUICK, "clip.max_value=1").problems
    assert line.endswith("it is a setting of clip=value and good")
    assert commands.run(broken, "plan", *QUICK, "clip=good").status == 0


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        (
            {"conf/data/mine.yaml": "_target_: recipe.components.data.digits.digits\n"},
            ["data=mine"],
            "data.classes is not given, and model.classes is taken from it; write classes in the "
            "file of data=mine, or give +data.classes=<value>",
        ),
        (
            {"conf/optimizer/mine.yaml": "_target_: torch.optim.SGD\n"},
            ["optimizer=mine", "param_groups=head_faster"],
            "optimizer.lr is not given, and param_groups.lr is taken from it; write lr in the file "
            "of optimizer=mine, or give +optimizer.lr=<value>",
        ),
        (
            {},
            ["freeze=all_but_head", "freeze.cache=null"],
            "freeze.cache must be 'auto' or 'off', got null",
        ),
    ],
)
def test_setting_missing_or_null_in_option_is_named(
    tmp_path: Path, files: dict[str, str], arguments: list[str], said: str
) -> None:
    commands.project(tmp_path, files)
    (line,) = commands.run(tmp_path, "plan", *commands.CPU, "tracking=none", *arguments).problems
    assert line.startswith(f"recipe: {said}")


def test_broken_option_file_selected_by_experiment_is_named(broken: Path) -> None:
    folder = broken / "conf" / "experiment"
    folder.mkdir()
    for name in ("null_key", "half_reference", "defaults_nested", "selfy"):
        (folder / "mine.yaml").write_text(f"{GLOBAL}defaults: [override /clip: {name}]\n")
        (line,) = commands.run(broken, "plan", *QUICK, "experiment=mine").problems
        assert f"conf/clip/{name}.yaml: " in line and BROKEN[name][1] in line


def test_unreadable_project_settings_are_reported_by_path(broken: Path) -> None:
    (broken / "conf" / "project").mkdir()
    for content in (BROKEN["latin"][0], BROKEN["half"][0]):
        (broken / "conf" / "project" / "default.yaml").write_bytes(content)
        done = commands.run(broken, "plan", *QUICK)
        (line,) = done.problems
        assert (done.status, "conf/project/default.yaml: can't be read: " in line) == (2, True)
        assert commands.run(broken, "--help").status == 0


# Files that grow.


GROWING = {
    "aliases, ten times ten times": "\n".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]" for i in range(12)
    ),
    "a square of aliases": f"a: &a [{'1, ' * 3000}]\nb: [{'*a, ' * 3000}]",
    "a long text many times": f"a: &a {'x' * 100_000}\nb: [{'*a, ' * 3000}]",
    "merged keys": "\n".join(
        f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}" if i else "a0: &a0 {x: 1}" for i in range(12)
    ),
    "an interpolation in a long text": f"name: '${{seed}}{',' * 9000}'",
}


@pytest.mark.parametrize("content", GROWING.values(), ids=GROWING)
def test_expanding_option_file_is_rejected(tmp_path: Path, content: str) -> None:
    commands.project(tmp_path, {"conf/experiment/grows.yaml": f"{GLOBAL}{content}\n"})
    done = commands.run(tmp_path, "plan", *QUICK, "experiment=grows")
    assert done.status == 2, done
    (line,) = done.problems
    assert "more than " in line or "at most 2000" in line, line
    assert line.startswith(("recipe: clip.", "recipe: name: ", "recipe: experiment=grows can't"))
    assert len(line) < 500


def test_interpolations_in_an_experiment_file_are_resolved(
    composed: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "clip:\n  a: ${oc.decode:'[1,${seed}]'}\n  b: \"${oc.create:'{x: 1}'}\"\n"
    text += "  c: ${clip.a}${seed}\n"
    commands.project(tmp_path, {"conf/experiment/mine.yaml": f"{GLOBAL}{text}"})
    clip = composed("experiment=mine", "seed=3").clip
    assert (clip["a"], clip["b"], clip["c"]) == ([1, 3], {"x": 1}, "[1, 3]3")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (f"model.hidden=[{'2,' * 30_000}2]", "model.hidden: 30,001 values, but at most 1,000"),
        (f"freeze.names=[{'a*,' * 2000}a]", "freeze.names: 2,001 values, but at most 1,000 are"),
        (f"name={'x' * 100_000}", "name: 100,005 characters, but at most 20,000 are"),
    ],
)
def test_oversized_command_line_value_is_rejected(tmp_path: Path, argument: str, said: str) -> None:
    done = commands.run(tmp_path, "plan", *QUICK, argument)
    (line,) = done.problems
    assert done.status == 2 and line.startswith(f"recipe: {said}")
    assert line.endswith("read; write it in an option or experiment file")


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("-m", ["seed=range(100000000)"], "seed=range(100000000): more than 10,000 values"),
        ("plan", ["seed=range(0,1e9)"], "seed=range(0,1e9): more than 10,000 values"),
        (
            "-m", ["seed=range(2000)", "optimizer.lr=range(1,12)"],
            "the sweep has 22,000 jobs, but one command runs at most 10,000",
        ),
        ("ablate", ["clip=norm", "seed=range(9999999)"], "seed=range(9999999): more than 10,000"),
        (
            "search", ["optimizer.lr=range(1,99999999)", "trials=2"],
            "optimizer.lr=range(1,99999999): more than 10,000 values",
        ),
    ],
)  # fmt: skip
def test_sweep_with_too_many_jobs_is_rejected(
    tmp_path: Path, verb: str, arguments: list[str], said: str
) -> None:
    done = commands.run(tmp_path, verb, *QUICK, *arguments)
    (line,) = done.problems
    assert done.status == 2 and line.startswith(f"recipe: {said}")


def test_long_value_is_truncated_in_error(tmp_path: Path) -> None:
    text = f"{GLOBAL}model: {{widths: [{', '.join(['0.5'] * 900)}], dropout: [{'1, ' * 900}]}}\n"
    commands.project(tmp_path, {"conf/experiment/long.yaml": text})
    done = commands.run(tmp_path, "plan", *QUICK[:-2], "~model.widths", "experiment=long")
    assert done.status == 2 and all(len(line) < 500 for line in done.problems)


# At random.

SECONDS, MEBIBYTES = 5, 1024
"""What an input may take: processor time, and memory beyond what the process had."""

FEW, MANY = 15, 500

PIECES = (
    "a: ",
    "b",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "${",
    "}",
    "${clip.a}",
    "<<: ",
    "? ",
    ": ",
    "#",
    "# Mine.\n",
    "# @package _global_\n",
    "!!int ",
    "!!bool ",
    "|",
    ">-",
    "'",
    '"',
    "\\",
    "1e3",
    "0x1F",
    "~",
    "---\n",
    "...",
    "%YAML 1.1\n",
    "\t",
    "\x1b[2J",
    "\x00",
    "\x85",
    "\u2028",
    "\u202e",
    "\ufeff",
    "defaults: [norm, _self_]\n",
    "defaults: [drawn]\n",
    "_target_: recipe.components.clip.norm.norm\n",
    "max_norm: ",
    "norm_type: 2.0\n",
    "clip: ",
    "hydra: ",
    "${oc.env:HOME}",
    "${oc.create:${clip.a}}",
    "${oc.decode:'[1'}",
    "x" * 5000,
    "[" * 100,
)
"""What option files are made of."""

KEYS = ("_target_", "defaults", "max_norm", "norm_type", "clip", "hydra", "trust", "a", "${a}", "")

FILES = st.one_of(
    st.lists(
        st.one_of(st.sampled_from(PIECES).map(str.encode), st.binary(max_size=8)), max_size=30
    ).map(b"".join),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=10)
        | st.sampled_from(PIECES),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(KEYS) | st.text(max_size=5) | st.integers() | st.none(),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    ).map(lambda content: yaml.safe_dump(content, allow_unicode=True).encode()),
)

WORDS_OF_VERBS = st.one_of(
    st.sampled_from(("clip=drawn", "clip=norm", "clip", "tricks", "experiment=drawn", "clip=mine")),
    st.lists(
        st.sampled_from(
            ("clip", "seed", "=", ".", ",", "[", "]", "{", "${", "}", "+", "~", "-", "@")
        )
        | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
        max_size=8,
    ).map("".join),
)

COMMANDS = st.tuples(
    st.sampled_from((("--help",), ("tricks",), ("plan", *QUICK))),
    st.lists(WORDS_OF_VERBS, max_size=3),
)


def try_files(folder: Path, number: int) -> tuple[float, float]:
    """The most seconds and mebibytes that a command over random option files took, none of which
    may end in another way than with what it is for or with lines that are refusals."""
    most = {"seconds": 0.0, "mebibytes": 0.0}
    commands.project(folder, {"conf/clip/mine.yaml": f"# A good one.\n{VALUE}"})
    (folder / "conf" / "experiment").mkdir()

    @hypothesis.seed(number)
    @hypothesis.settings(
        max_examples=number, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(FILES, st.sampled_from(("clip", "experiment")), COMMANDS)
    def try_one(content: bytes, group: str, command: tuple[tuple[str, ...], list[str]]) -> None:
        file = folder / "conf" / group / "drawn.yaml"
        file.write_bytes(content)
        verb, words = command
        if verb[0] == "plan" and not words:
            words = [f"{group}=drawn"]
        started, before = time.process_time(), peak()
        with limited(60):
            done = commands.run(folder, *verb, *words)
        most["seconds"] = max(most["seconds"], time.process_time() - started)
        most["mebibytes"] = max(most["mebibytes"], peak() - before)
        file.unlink()
        assert done.status == 0 or (done.status == 2 and done.problems), done
        for line in done.problems:
            assert line.startswith("recipe: ") and escape_control_chars(line) == line, line

    try_one()
    return most["seconds"], most["mebibytes"]


def peak() -> float:
    """The most memory that this process has had, in mebibytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def limited(seconds: int) -> Any:
    """Raises TimeoutError in the block after so many seconds of processor time."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"hangs: not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_random_option_files_cause_no_traceback(tmp_path: Path) -> None:
    seconds, mebibytes = try_files(tmp_path, FEW)
    assert seconds < SECONDS and mebibytes < MEBIBYTES


@pytest.mark.long
def test_five_hundred_random_option_files_cause_no_traceback(tmp_path: Path) -> None:
    seconds, mebibytes = try_files(tmp_path, MANY)
    print(f"\n{MANY} inputs: at most {seconds:.1f} s and {mebibytes:.0f} MiB more")
    assert seconds < SECONDS and mebibytes < MEBIBYTES
