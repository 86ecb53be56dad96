"""What differed between two recorded runs: in the spec, per parameter, around them, in the end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import commands
import pytest
import recorded_runs

QUICK = (*commands.QUICK, "tracking=none")

RUNS = {
    "plain": (),
    "again": (),
    "clip": ("clip=norm", "clip.max_norm=0.5"),
    "frozen": ("freeze=by_name", "freeze.names=['*1_1*']", "param_groups=head_faster"),
    "other": ("data=digits_low", "model=mlp", "model.hidden=[8]"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    for name, settings in RUNS.items():
        settings = tuple(s for s in settings)
        base = [s for s in QUICK if not (name == "other" and s.startswith("model"))]
        assert commands.run(folder, *base, *settings, f"name={name}").status == 0
    return folder


def told(folder: Path, *arguments: str) -> list[str]:
    """The lines of a diff, each without the blanks between its columns."""
    done = commands.run(folder, "diff", *arguments)
    assert (done.status, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 100
    return [" ".join(line.split()) for line in done.out.splitlines()]


def section(lines: list[str], title: str) -> list[str]:
    """The lines below a title, up to the next empty one."""
    start = next(n for n, line in enumerate(lines) if line.startswith(title)) + 2
    return lines[start : [*lines, ""].index("", start)]


def test_diff_of_identical_runs_reports_no_difference(workplace: Path) -> None:
    lines = told(workplace, "plain", "again")
    assert "Nothing differed in what ran." in lines
    assert lines[-1].startswith("Numbers bit-identical: ")
    assert not [line for line in lines if line.startswith("What differed")]


def test_diff_shows_option_with_settings_and_results(workplace: Path) -> None:
    lines = told(workplace, "plain", "clip")
    assert section(lines, "What differed in the spec") == [
        "clip none norm", "clip.max_norm - 0.5", "clip.norm_type - 2",
    ]  # fmt: skip
    results = {line.partition(" ")[0]: line for line in section(lines, "What came of it")}
    assert results["clip"].startswith("clip hit rate 0.0 % ")
    assert results["audit"] == "audit all 14 promises held all 14 promises held"
    assert results["trainable"] == "trainable parameters 1,206 of 1,206 1,206 of 1,206"
    assert not [line for line in lines if line.startswith(("Numbers", "What differed per"))]


def test_diff_groups_parameters_with_the_same_changes(workplace: Path) -> None:
    lines = told(workplace, "plain", "frozen")
    assert "What differed per parameter (18 of 18)" in lines
    assert section(lines, "What differed per parameter") == [
        "convolution1_1.weight, convolution1_1.bias and 2 more trained always never",
        "convolution1_2.weight, convolution1_2.bias and 10 more rule all body",
        "group all body",
        "classifier.weight, classifier.bias rule all head=auto",
        "group all head",
        "lr 0.05 0.5",
    ]


def test_diff_reports_changed_data_and_parameters_in_only_one_run(workplace: Path) -> None:
    lines = told(workplace, "plain", "other")
    assert "model vgg mlp" in section(lines, "What differed in the spec")
    assert section(lines, "What differed per parameter") == [
        "convolution1_1.weight, convolution1_1.bias and 14 more in the model yes -",
        "classifier.weight shape 10x8 5x8",
        "classifier.bias shape 10 5",
        "linear1.weight, linear1.bias in the model - yes",
    ]
    around = section(lines, "What differed around it")
    assert around[0].startswith("data ")
    assert around[1] == "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 0, 1, 2, 3, 4"


def test_diff_compares_versions_hardware_and_commit(tmp_path: Path) -> None:
    for name, torch, threads, commit in (("a", "2.12.0", 1, "1" * 40), ("b", "2.13.0", 2, "")):
        recorded_runs.write(
            tmp_path / "outputs" / "runs" / name, {"train/loss": [1.0]},
            tags={"version.torch": torch, "version.numpy": "2", "code.mine": threads * "0" * 32},
            environment=f"device: CPU\nthreads: {threads}\n" + f"git: {commit}\n" * bool(commit),
        )  # fmt: skip
    assert section(told(tmp_path, "a", "b"), "What differed around it") == [
        "torch 2.12.0 2.13.0", f"code of mine {'0' * 32} {'0' * 12}", "threads 1 2",
        "git 1111111 -",
    ]  # fmt: skip


def test_diff_shows_failed_audits_and_tricks_without_effect(tmp_path: Path) -> None:
    for name, held in (("a", 0.0), ("b", 1.0)):
        recorded_runs.write(
            tmp_path / "outputs" / "runs" / name,
            {"audit/freeze": [1.0, held], "audit/clip": [1.0], "time/epoch_s": [2.0, 300.0, 4.0]},
            tags={"recipe.no_effect": "clip=norm"} if held else {},
        )
    assert section(told(tmp_path, "a", "b"), "What came of it") == [
        "time per epoch 4.0 s 4.0 s",
        "audit BROKEN: freeze all 2 promises held",
        "no effect - clip=norm",
    ]


def test_equal_specs_with_different_fingerprints_are_reported(tmp_path: Path) -> None:
    for name in "ab":
        recorded_runs.write(
            tmp_path / "outputs" / "runs" / name, {}, tags={"recipe.fingerprint": name}
        )
    assert told(tmp_path, "a", "b")[-1].startswith("The fingerprints differ all the same: ")


FILES = ("run.json", "spec.yaml", "events.jsonl", "environment.txt", "parameters.csv", "data.json",
         "metrics.jsonl")  # fmt: skip


READABLE = {
    ("events.jsonl", "escape"),
    *((file, damage) for file in ("environment.txt", "parameters.csv")
      for damage in ("garbage", "deep", "escape")),
}  # fmt: skip
"""Damage that leaves what can be read: a journal of one line, texts that say nothing."""


@pytest.mark.parametrize("damage", ["missing", "garbage", "pipe", "deep", "escape"])
@pytest.mark.parametrize("file", FILES)
def test_diff_names_damaged_file_and_shows_remaining_sections(
    file: str, damage: str, workplace: Path, tmp_path: Path
) -> None:
    clip = commands.run_dirs(workplace)[2]
    for run in (commands.run_dirs(workplace)[0], clip):
        shutil.copytree(run, tmp_path / "outputs" / "runs" / run.name)
    path = tmp_path / "outputs" / "runs" / clip.name / file
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)  # reading it would never end
    elif damage != "missing":
        path.write_bytes({
            "garbage": b"\xff\0\n[",
            "deep": b"[" * 100_000 + b"\n",
            "escape": b'{"kind": "tags", "recipe.no_effect": "\\u001b[31m"}\n',
        }[damage])  # fmt: skip
    done = commands.run(tmp_path, "diff", commands.run_dirs(workplace)[0].name, clip.name)
    assert (done.status, done.err) == (0, ""), done.err
    assert "\x1b" not in done.out
    assert ("\\x1b[31m" in done.out) == ((file, damage) == ("events.jsonl", "escape"))
    if (file, damage) not in READABLE:
        assert f"Damaged  B: {file}: " in done.out
    if file != "spec.yaml":
        assert "clip.max_norm" in done.out
    if file != "metrics.jsonl":
        assert "clip hit rate" in done.out
        assert "Damaged  A" not in done.out


@pytest.mark.parametrize(
    "content",
    ["options: {}\na: 1\na: 2", "options: {}\na: ${", "options: {}\na: ${b.c}\n", "text", "- a",
     "options: 1", "options: &a {b: *a}", "a: !!python/object:os.system {}"],
)  # fmt: skip
def test_invalid_spec_is_named_or_shown_unresolved(content: str, tmp_path: Path) -> None:
    for name in "ab":
        recorded_runs.write(tmp_path / "outputs" / "runs" / name, {"train/loss": [1.0]})
    (tmp_path / "outputs" / "runs" / "b" / "spec.yaml").write_text(content)
    lines = told(tmp_path, "a", "b")
    assert [line for line in lines if line.startswith("Damaged B: spec.yaml: ")] or "${" in content
    assert "last train/loss 1 1" in lines


def test_diff_escapes_terminal_control_characters(tmp_path: Path) -> None:
    run = recorded_runs.write(tmp_path / "outputs" / "runs" / "a", {"train/loss": [1.0]})
    other = recorded_runs.write(tmp_path / "outputs" / "runs" / "b", {"train/loss": [1.0]})
    spec = "options: {clip: none}\nclip: {factor: %s}\n"
    (run / "spec.yaml").write_text(spec % '"\\e[31m\\u202e[red]"')
    (other / "spec.yaml").write_text(spec % "2")
    done = commands.run(tmp_path, "diff", "a", "b")
    assert "\x1b" not in done.out and "\u202e" not in done.out
    assert "clip.factor  \\x1b[31m\\u202e[red]  2" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "diff: which two runs? Give their ids: python -m recipe diff <id> <id>"),
        (["plain"], "diff: which two runs? Give their ids: python -m recipe diff <id> <id>"),
        (["plain", "agian"], "diff: no run 'agian' is recorded in "),
        (["plain", ".."], "diff: no run '..' is recorded in "),
        (["plain", "x" * 300], "diff: no run 'xxx"),
        (["plain", "clip", "ouput_dir=x"], "diff: ouput_dir=x: no such argument; did you mean"),
        (["plain", "clip", "output_dir=~no-one/x"], "output_dir: '~no-one/x' is no path of this"),
    ],
)
def test_invalid_diff_arguments_are_rejected(
    arguments: list[str], said: str, workplace: Path
) -> None:
    done = commands.run(workplace, "diff", *arguments)
    assert (done.status, done.out) == (2, "")
    (problem,) = done.problems
    assert problem.startswith(f"recipe: {said}")


def test_diff_finds_runs_in_another_output_dir(workplace: Path, tmp_path: Path) -> None:
    outputs = f"output_dir={workplace / 'outputs'}"
    assert told(tmp_path, "plain", "clip", outputs) == told(workplace, "plain", "clip")
