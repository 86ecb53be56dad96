"""Names of components in earlier versions: what was recorded or written with them still runs."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest

from recipe.config.groups import GROUPS
from recipe.config.renamed_targets import current_target, update_targets, with_current_targets
from recipe.store import results

SMALL = ("data.train_size=40", "data.batch_size=20", "epochs=2", "model.widths=[4,8]")

CLIP = """# A gentle clip.
_target_: recipe.clip.norm.norm
max_norm: 0.5
norm_type: 2.0
"""


def use_earlier_names(run: Path) -> None:
    """Rewrites a recorded run as version 0.1 would have recorded it."""
    for name in ("spec.yaml", "events.jsonl"):
        text = (run / name).read_text()
        assert "recipe.components." in text or name != "spec.yaml"
        (run / name).write_text(text.replace("recipe.components.", "recipe."))
    (run / "result.json").unlink()  # version 0.1 wrote another format


@pytest.mark.parametrize("group", GROUPS)
def test_earlier_component_name_maps_to_current_name(group: str) -> None:
    assert current_target(f"recipe.{group}.x.y") == f"recipe.components.{group}.x.y"


@pytest.mark.parametrize(
    "target",
    ["recipe.components.clip.norm.norm", "recipe.cli.main", "mine.clip.norm", "torch.clip"],
)
def test_current_or_foreign_target_name_is_unchanged(target: str) -> None:
    assert current_target(target) == target


def test_nested_and_quoted_targets_are_updated() -> None:
    parts = [{"_target_": "recipe.scheduler.step.step", "gamma": 0.5}]
    updated = [{"_target_": "recipe.components.scheduler.step.step", "gamma": 0.5}]
    assert with_current_targets({"parts": parts}) == {"parts": updated}
    assert update_targets('[{"_target_": "recipe.scheduler.step.step","a": "recipe.clip"}]') == (
        '[{"_target_": "recipe.components.scheduler.step.step","a": "recipe.clip"}]'
    )


def test_option_file_with_earlier_target_name_trains(tmp_path: Path) -> None:
    commands.project(tmp_path, {"conf/clip/gentle.yaml": CLIP})
    done = commands.run(tmp_path, *SMALL, "clip=gentle", "tracking=none")
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(tmp_path)
    assert "_target_: recipe.components.clip.norm.norm" in (run / "spec.yaml").read_text()


def test_recorded_run_with_earlier_names_is_replayed_and_compared(tmp_path: Path) -> None:
    given = (*SMALL, "scheduler=chained", "epochs=8", "tracking=none")
    assert commands.run(tmp_path, *given).status == 0
    (run,) = commands.run_dirs(tmp_path)
    use_earlier_names(run)
    done = commands.run(tmp_path, "replay", run.name)
    assert done.status == 0 and "bit-identical" in done.out, done.out + done.err
    first, second = (results.read_result(each) for each in commands.run_dirs(tmp_path))
    assert first is not None and second is not None
    assert first.settings == second.settings
