"""MLflow's sqlite database and artifact folder in the outputs folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from recipe.components.tracking import ExperimentName, Tracking

SQLITE_PREFIX = "sqlite:///"

QUOTED_SQLITE_PREFIX = "sqlite+pysqlite:///"
"""Prefix of a URI with a quoted path. For `sqlite:///`, MLflow would create the parent folders of
the quoted path."""


def database_uri(path: Path) -> str:
    """Returns the URI of a sqlite database; `?` and `%`, which SQLAlchemy parses, are quoted."""
    text = str(path)
    if "?" not in text and "%" not in text:
        return f"{SQLITE_PREFIX}{text}"
    return QUOTED_SQLITE_PREFIX + "".join(quote(c) if c in "?%" else c for c in text)


def database_path(uri: str | None) -> Path | None:
    """Returns the file of a sqlite URI; None for any other URI."""
    if uri is not None and uri.startswith(QUOTED_SQLITE_PREFIX):
        return Path(unquote(uri.removeprefix(QUOTED_SQLITE_PREFIX)))
    if uri is not None and uri.startswith(SQLITE_PREFIX):
        return Path(uri.removeprefix(SQLITE_PREFIX))
    return None


def local(output_dir: Path, *, experiment: ExperimentName) -> Tracking:
    """Uses `mlflow.db` and `mlartifacts/` in output_dir, as absolute URIs."""
    return Tracking(
        uri=database_uri(output_dir / "mlflow.db"),
        experiment=experiment,
        artifacts=(output_dir / "mlartifacts").as_uri(),
    )
