"""A search that is kept on PostgreSQL: several workers report to it, and no password is left
behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import commands
import optuna
import postgres
import pytest
from small_searches import LITTLE, PARTS
from sweep_records import sweep_folder

from recipe.sweep.search.study import open_storage

pytestmark = [
    pytest.mark.skipif(bool(postgres.missing()), reason=str(postgres.missing())),
    pytest.mark.long,
]


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    with postgres.postgres() as made:
        yield made


@pytest.mark.integration
def test_several_workers_share_a_study_and_the_same_command_resumes_it(
    tmp_path: Path, database: postgres.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGUSER", "recipe")
    monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
    address = f"postgresql://127.0.0.1:{database.port}/postgres"
    folder = commands.project(tmp_path, PARTS)
    typed = (
        *LITTLE, "clip.factor=range(11, 15)", "sampler=random", "startup=1",
        f"storage={address}", "tracking=none",
    )  # fmt: skip
    (folder / "kill").touch()
    workers = "hydra.launcher.workers=2"
    first = commands.spawn(folder, "search", *typed, "trials=4", workers)
    assert first.status == 1 and "by SIGKILL; alone: python -m recipe device=cpu" in first.out
    again = commands.sweep(folder, "search", *typed, "trials=5")
    assert again.status == 0, again.err

    study = optuna.load_study(
        study_name=f"recipe-{sweep_folder(folder).name}",
        storage=open_storage(address, folder / "outputs"),
    )
    assert len(study.trials) == 5 and all(t.state.is_finished() for t in study.trials)
    # those of them that were pruned have their last value from the worker itself
    assert "is not reported to the search" not in first.out + again.out
    reported = [t.params for t in study.trials if 1 in t.intermediate_values]
    assert all(trial.params in reported for trial in study.trials)
    left = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    said = [text.encode() for done in (first, again) for text in (done.out, done.err)]
    assert any(address.encode() in each for each in left)  # which has no password
    assert not any(postgres.PASSWORD.encode() in each for each in left + said)
