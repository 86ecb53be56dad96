"""Journals: whole lines, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.store.journal import Journal, read_lines, read_metrics


def test_journal_reading_continues_from_the_previous_offset(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"a": 1})
    assert read_lines(tmp_path / "journal.jsonl") == ([{"a": 1}], 9)
    journal.append({"b": [2]})
    assert read_lines(tmp_path / "journal.jsonl", 9) == ([{"b": [2]}], 20)
    assert read_lines(tmp_path / "journal.jsonl", 20) == ([], 20)
    assert read_lines(tmp_path / "none.jsonl", 7) == ([], 7)


def test_limited_journal_read_returns_at_least_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"first": 1}\n{"second": 2}\n{"third": 3}\n')
    assert read_lines(path, limit=1) == ([{"first": 1}], 13)
    assert read_lines(path, 13, limit=15) == ([{"second": 2}, {"third": 3}], 40)


@pytest.mark.parametrize("torn", ['{"step": 2, "met', "x" * 10_000])
def test_incomplete_journal_line_is_ignored_and_then_truncated(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"step": 1}\n' + torn)
    assert read_lines(path) == ([{"step": 1}], 12)
    Journal(path).append({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.integration
def test_failed_journal_write_leaves_no_partial_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = f"""
import resource
from pathlib import Path
from recipe.store.journal import Journal
journal = Journal(Path({str(path)!r}))
journal.append({{"step": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    journal.append({{"step": 2, "text": "x" * 2000}})
except OSError:
    journal.append({{"step": 3}})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 3},
    ]


def test_journal_lines_other_than_objects_raise(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"journal.jsonl: line 1 is damaged$"):
        read_lines(tmp_path / "journal.jsonl")


def test_later_metric_value_at_the_same_step_takes_precedence(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step, loss in ((1, 3.0), (2, 2.0), (2, 1.5)):
        journal.append({"step": step, "time": 0, "metrics": {"train/loss": loss}})
    assert read_metrics(tmp_path) == {"train/loss": {1: 3.0, 2: 1.5}}
