"""The option files of conf/: recipe's own, and those of the user's project.

A user's options are the files of `conf/<group>/` in the working directory. They are read without
Hydra and torch, so that --help is fast.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.config import safe_yaml
from recipe.config.groups import GROUPS

EXPERIMENT_GROUP = "experiment"

MAX_PARENT_FILES = 100

GLOBAL_PACKAGE_RULE = "an experiment file's first line is `# @package _global_`"


def builtin_conf_dir() -> Path:
    """Returns the folder of recipe's option files: in the installed package or the checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def user_conf_dir() -> Path | None:
    """Returns `conf/` of the working directory, or None if there is none or it is recipe's."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and folder.resolve() != builtin_conf_dir() else None


@dataclass(frozen=True)
class Option:
    group: str
    name: str
    path: Path

    @property
    def problem(self) -> str:
        """Why the file can't be used; empty if it can."""
        return self._content_and_problem[1] or find_inheritance_cycle(f"{self.group}/{self.name}")

    @property
    def content(self) -> Mapping[str, Any]:
        """The values of the file, ${...} unresolved; empty if it can't be used."""
        return self._content_and_problem[0]

    @property
    def text(self) -> str:
        """The file as it is written; empty if it can't be used."""
        ours = self.path.parents[1] == builtin_conf_dir()
        return "" if not ours and self.problem else self.path.read_text(encoding="utf-8")

    @cached_property
    def _content_and_problem(self) -> tuple[Mapping[str, Any], str]:
        return _read_option_file(self.path)

    @property
    def description(self) -> str:
        """The first comment of the file that is not Hydra's `# @`, or why it can't be used."""
        for line in self.text.splitlines():
            if line.startswith("#") and not line.startswith("# @"):
                return line.lstrip("# ").rstrip()
        return f"can't be used: {self.problem}" if self.problem else ""

    @property
    def keys(self) -> set[str]:
        """The top-level settings in this file."""
        content = map(str, self.content)
        return {key for key in content if not key.startswith("_") and key != "defaults"}

    @property
    def parents(self) -> list[str]:
        """The options in the file's defaults list."""
        entries = self.content.get("defaults")
        found = entries if isinstance(entries, list) else []
        return [str(entry).partition("@")[0] for entry in found if str(entry) != "_self_"]


def _read_option_file(path: Path) -> tuple[Mapping[str, Any], str]:
    """Returns the content of an option file, and why it can't be used."""
    try:
        found = path.stat()
    except OSError:
        return _load_cached(path, ())
    return _load_cached(path, (found.st_mtime_ns, found.st_size, found.st_ino))


def find_parent_files(path: Path) -> Iterator[str]:
    """Yields the files in a file's defaults list, relative to its folder, or to conf/ after a
    slash."""
    entries = _read_option_file(path)[0].get("defaults")  # errors are reported by the loader
    for entry in entries if isinstance(entries, list) else ():
        for group, names in (entry if isinstance(entry, dict) else {"": entry}).items():
            folder = re.sub(r"^(?:optional|override)\s+", "", str(group)).partition("@")[0]
            for name in names if isinstance(names, list) else [names]:
                yield "/".join(filter(None, [folder, str(name).partition("@")[0]]))


def resolve_parent_file(named: str, location: str) -> str:
    """Returns a file named by the one at `location` as a location in conf/."""
    return (
        named[1:] if named.startswith("/") else f"{location.rpartition('/')[0]}/{named}".lstrip("/")
    )


def find_inheritance_cycle(location: str) -> str:
    """Describes the cycle if a user's option file inherits from itself; empty otherwise."""
    user, done = user_conf_dir(), set[str]()

    def found(place: str, chain: tuple[str, ...]) -> tuple[str, ...]:
        if place in chain:
            return (*chain[chain.index(place) :], place)
        if place in done or max(len(chain), len(done)) > MAX_PARENT_FILES or ".." in place:
            return ()
        done.add(place)
        file = f"{place.lstrip('/')}.yaml"
        if user is None or (builtin_conf_dir() / file).is_file():  # no cycles in recipe's files
            return ()
        links = (
            found(resolve_parent_file(name, place), (*chain, place))
            for name in find_parent_files(user / file)
        )
        return next(filter(None, links), ())

    files = found(location, ())
    if not files or user is None:
        return ""
    return safe_yaml.escape_control_chars(
        f"{user / files[0]}.yaml: defaults: inherits from itself ({' -> '.join(files)}); remove "
        f"{files[1]} from the list"
    )


@functools.cache
def _load_cached(path: Path, written: tuple[int, ...]) -> tuple[Mapping[str, Any], str]:
    """Caches a file's content by the time and size with which it was `written`."""
    try:
        return safe_yaml.load_mapping(path), ""
    except ValueError as error:
        return {}, safe_yaml.escape_control_chars(str(error))


def find_options(group: str) -> dict[str, Option]:
    """Returns the options of a group by name; recipe's take precedence over the user's."""
    found: dict[str, Option] = {}
    for folder in filter(None, (builtin_conf_dir(), user_conf_dir())):
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, Option(group, path.stem, path))
    return found


@functools.cache
def builtin_targets(group: str) -> frozenset[str]:
    """Returns each `_target_` in recipe's option files of a group."""
    texts = [
        path.read_text(encoding="utf-8") for path in (builtin_conf_dir() / group).glob("*.yaml")
    ]
    return frozenset(re.findall(r"^_target_: (\S+)$", "\n".join(texts), re.MULTILINE))


def get_default_options() -> dict[str, str]:
    """Returns the default option of each group."""
    return dict(_read_default_options())


@functools.cache
def _read_default_options() -> dict[str, str]:
    entries = OmegaConf.load(builtin_conf_dir() / "config.yaml").defaults
    pairs = [
        (str(k), str(v)) for entry in entries if OmegaConf.is_dict(entry) for k, v in entry.items()
    ]
    return {group: option for group, option in pairs if group in GROUPS}


def get_run_default(key: str) -> Any:
    """Returns the default of a setting of the run."""
    return OmegaConf.select(OmegaConf.load(builtin_conf_dir() / "config.yaml"), key)


def normalize_numbers(group: str, option: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Converts whole numbers to floats where the option's file has a float."""
    whole = [key for key, value in settings.items() if type(value) is int]
    floats = _find_float_settings(group, option, user_conf_dir()) if whole else frozenset()
    exact = [key for key in whole if key in floats and abs(settings[key]) < 2**53]
    return {key: float(v) if key in exact else v for key, v in settings.items()}


@functools.cache
def _find_float_settings(group: str, option: str, _: Path | None) -> frozenset[str]:
    found: dict[str, bool] = {}
    for file in resolve_inheritance(group, option):
        found |= {str(key): isinstance(value, float) for key, value in file.content.items()}
    return frozenset(key for key, is_float in found.items() if is_float)


def resolve_inheritance(group: str, option: str) -> list[Option]:
    """Returns the files that an option inherits from, then its own; later ones take precedence."""
    known, found, requested = find_options(group), dict[str, Option](), set[str]()

    def add(name: str) -> None:
        if name in known and name not in requested and len(requested) < MAX_PARENT_FILES:
            requested.add(name)
            for parent in known[name].parents:
                add(parent)
            found[name] = known[name]

    add(option)
    return list(found.values())


def read_comments(group: str, option: str) -> dict[str, str]:
    """Returns the comment beside each setting, those of inherited settings included."""
    notes: dict[str, str] = {}
    for file in resolve_inheritance(group, option):
        for key, note in re.findall(r"^ {0,2}(\w+):.*?\s# (.+)$", file.text, re.MULTILINE):
            notes[key] = note.strip()
    return notes


def read_own_settings(option: Option) -> dict[str, Any]:
    """Returns the settings in an option's file by dotted key, ${...} unresolved."""
    content = {key: value for key, value in option.content.items() if key != "defaults"}
    groups = content if "@package _global_" in option.text else {option.group: content}
    return {
        f"{group}.{key}": value
        for group, given in groups.items()
        if isinstance(given, dict)
        for key, value in given.items()
    }


def find_shadowed_option(group: str, name: str) -> Path | None:
    """Returns the user's option file if one of recipe's has the same name."""
    user = user_conf_dir()
    if user is None or not (builtin_conf_dir() / group / f"{name}.yaml").is_file():
        return None
    path = user / group / f"{name}.yaml"
    return path if path.is_file() else None


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?` for what looks like `word`, else nothing."""
    close = difflib.get_close_matches(word, dict.fromkeys(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
