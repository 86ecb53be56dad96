"""A recorded spec: complete, so it runs again as it is; and nothing else passes for one."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest

SMALL = (
    "data.train_size=40",
    "data.batch_size=20",
    "epochs=2",
    "model.widths=[4,8]",
    "device.threads=1",
    "tracking=none",
)


def test_recorded_spec_reproduces_run_exactly(tmp_path: Path) -> None:
    tricks = ("freeze=vgg_first2", "clip=norm", "scheduler=cosine", "model.dropout=0.3", "seed=3")
    assert commands.run(tmp_path, *tricks, *SMALL).status == 0
    (first,) = (tmp_path / "outputs" / "runs").iterdir()
    again = commands.run(tmp_path, f"spec={first / 'spec.yaml'}")
    assert again.status == 0, again.err
    (second,) = set((tmp_path / "outputs" / "runs").iterdir()) - {first}
    for name in ("spec.yaml", "model.safetensors", "parameters.csv", "plan.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_spec_argument_rejects_overrides(tmp_path: Path) -> None:
    done = commands.run(tmp_path, "spec=spec.yaml", "epochs=3")
    assert done.status == 2
    assert done.err.startswith("recipe: spec: epochs=3: no such argument")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no options"),
        ("- 1\n- 2\n", "has no options"),
        ("seed: 0\noptions: {clip: none}\n", "options.device: missing"),
        ("a: [", "can't be read"),
    ],
)
def test_invalid_spec_files_are_rejected(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "spec.yaml").write_text(content)
    done = commands.run(tmp_path, "spec=spec.yaml")
    assert done.status == 2
    assert said in done.err and "Traceback" not in done.err


def test_spec_file_cannot_grant_trust(tmp_path: Path) -> None:
    assert commands.run(tmp_path, *SMALL).status == 0
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    text = (
        (run / "spec.yaml").read_text().replace("recipe.components.clip.none.none", "evil.payload")
    )
    (tmp_path / "evil.py").write_text("open('ran', 'w')\ndef payload(params): ...\n")
    (tmp_path / "spec.yaml").write_text(text.replace("trust: []", "trust: [evil]"))
    done = commands.run(tmp_path, "spec=spec.yaml")
    assert done.status == 2
    assert "the package evil isn't trusted" in done.err
    assert not (tmp_path / "ran").exists()
