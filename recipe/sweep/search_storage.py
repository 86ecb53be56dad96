"""Where Optuna keeps a study: sqlite beside the runs, or PostgreSQL; no password is in either."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.components.tracking.local import database_path, database_uri
from recipe.errors import SpecError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

LOCK_TIMEOUT_SECONDS = 60
"""Seconds that a process waits for another one's writing."""

CREDENTIALS_HINT = "set PGUSER and PGPASSWORD in the environment, and leave them out of the address"


def check_no_password(arguments: Sequence[str]) -> None:
    """Raises SpecError where a command line has a password, before anything else looks at it."""
    keys = ("storage", "hydra.sweeper.storage")
    for argument in arguments:
        key, _, given = argument.partition("=")
        if (
            key.lstrip("+") in keys
            and (message := find_address_problem(given))
            and given not in message
        ):
            raise SpecError(message)


def find_address_problem(address: object) -> str | None:
    """What is wrong with an address; it is not shown itself where it may hold a password."""
    if address is None:
        return None
    text = str(address)
    if "@" in text or re.search(r"[?&](user|password)=", text):
        return f"storage: the address has a user or a password in it; {CREDENTIALS_HINT}"
    if re.fullmatch(r"sqlite:///.+", text):
        return None
    if re.fullmatch(r"postgresql(\+psycopg2)?://[^/]*/[^/]+", text):
        if importlib.util.find_spec("psycopg2") is None:
            return f"storage={text}: psycopg2 isn't installed; pip install psycopg2-binary"
        return None
    return f"storage={text}: write postgresql://<host>/<database>, or leave it out for sqlite"


def find_install_problem() -> str | None:
    """What to say where Optuna isn't installed."""
    if importlib.util.find_spec("optuna") is None:
        return "search: Optuna isn't installed; pip install 'torch-recipe[search]'"
    return None


def resolve_address(configured: str | None, output_dir: Path) -> str:
    """The given one; by default that of search.db below the outputs."""
    return configured or database_uri(output_dir / "search.db")


def open_storage(address: str) -> BaseStorage:
    """Made if there is none. Raises SpecError if it can't be reached."""
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    options: dict[str, Any] = {}
    if path := database_path(address):
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS}}
    # SQLAlchemy takes psycopg, its successor, where nothing is said
    driven = re.sub(r"^postgresql:", "postgresql+psycopg2:", address)
    try:
        return optuna.storages.RDBStorage(driven, engine_kwargs=options)
    except Exception as error:  # whatever Optuna, SQLAlchemy or the driver raise
        raise SpecError(f"storage={address}: {format_error(error)}") from error


def format_error(error: Exception) -> str:
    """What went wrong, in one line, without the link to an explanation of it."""
    text = " ".join(str(error.__cause__ or error).split())
    return re.sub(r" ?\(Background on this error at: .*?\)", "", text)[:300]


def make_pruner(name: str, startup: int, warmup: int) -> BasePruner:
    import optuna

    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)


def make_sampler(name: str, startup: int, n_trials: int) -> BaseSampler:
    """`drawn` trials there are: what is drawn next depends on nothing else that is random."""
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=n_trials)
    return optuna.samplers.TPESampler(n_startup_trials=startup, seed=n_trials)


def get_study_name(sweep_dir: Path) -> str:
    """What the study of a sweep is called in its storage, which others may use too."""
    return f"recipe-{sweep_dir.name}"
