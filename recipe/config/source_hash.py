"""The source code of a user's packages, as a hash: read from files, without importing anything."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import stat
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from recipe.errors import SpecError

MOST = 10_000
"""Files and folders that one package's code may consist of."""

LARGEST = 2**28
"""Bytes that they may hold together."""

LARGEST_PARSED = 2**20
"""Bytes of a file that import statements are looked for in."""

LIBRARIES = ("site-packages", "dist-packages")


def identities(packages: Iterable[str], but: frozenset[str]) -> dict[str, str]:
    """What stands for the code of each of these packages: of an installed one its version, of one
    that lies elsewhere a SHA-256 of its code.

    What code that lies elsewhere imports from beside the installed libraries is named too, found
    by its `import` statements. Packages in `but` and those that can't be found are left out. Raises
    SpecError for a package that is too large to be read.
    """
    found: dict[str, str] = {}
    waiting, seen = sorted(set(packages)), set(but)
    given = set(waiting)
    while waiting:
        package = waiting.pop()
        spec = _spec(package) if package not in seen else None
        seen.add(package)
        if spec is None:
            continue
        version = _version(package) if _is_installed(spec) else None
        if version is not None or package in sys.stdlib_module_names:
            if package in given:
                found[package] = version or f"Python {platform.python_version()}"
            continue
        code = _Code(package, spec)
        found[package] = code.sha.hexdigest()
        waiting += sorted(code.imported - seen)
    return found


class _Code:
    """All .py files of a package, or the one of a module: names below the package, and bytes.

    Every byte counts, those of comments too. Folders that can't be imported from, such as .git and
    __pycache__, hold no code of it; what is no ordinary file, or can't be read, counts by its name.
    """

    def __init__(self, package: str, spec: ModuleSpec) -> None:
        self.package = package
        self.sha = hashlib.sha256()
        self.imported: set[str] = set()
        self._entries = self._bytes = 0
        folders = spec.submodule_search_locations
        if folders is None:
            self._read(Path(spec.origin or ""), "")
        for folder in folders or ():
            for path, name in self._files(Path(folder), "", ()):
                self._read(path, name)

    def _files(
        self, folder: Path, prefix: str, above: tuple[Path, ...]
    ) -> Iterator[tuple[Path, str]]:
        above = (*above, Path(os.path.realpath(folder)))
        if above[-1] in above[:-1]:  # links that lead in a circle
            return
        there = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._count(1, 0)
                there.append((os.fsencode(entry.name), entry.name, entry.is_dir()))
        for _, name, is_folder in sorted(there):
            if is_folder and name.isidentifier() and name != "__pycache__":
                yield from self._files(folder / name, f"{prefix}{name}/", above)
            elif not is_folder and name.endswith(".py"):
                yield folder / name, prefix + name

    def _count(self, entries: int, size: int) -> None:
        self._entries += entries
        self._bytes += size
        self._check_size(0)

    def _check_size(self, more: int) -> None:
        if self._entries > MOST or self._bytes + more > LARGEST:
            raise SpecError(
                f"trust: {self.package} holds more than {MOST:,} files or {LARGEST:,} bytes of "
                "code, which is too much to tell runs apart by it; put your parts into a package "
                "of their own"
            )

    def _read(self, path: Path, name: str) -> None:
        content = b""
        with contextlib.suppress(OSError):
            about = path.stat()
            if stat.S_ISREG(about.st_mode):  # a pipe may never end
                self._check_size(about.st_size)
                with path.open("rb") as file:
                    content = file.read(LARGEST - self._bytes + 1)
                self._count(0, len(content))
        for part in (os.fsencode(name), content):
            self.sha.update(len(part).to_bytes(8, "big") + part)
        self.imported |= _imported(content)


def _imported(code: bytes) -> set[str]:
    """The packages that import statements name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python gives them when the code is imported
            nodes = list(ast.walk(ast.parse(code[:LARGEST_PARSED])))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
    }
    return {name.partition(".")[0] for name in names}


def _spec(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # such as __main__
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
    python = sysconfig.get_paths()["stdlib"]
    return any(
        place.startswith(f"{python}{os.sep}") or set(Path(place).parts) & set(LIBRARIES)
        for place in places
    )


def _version(package: str) -> str | None:
    """Of the distribution that a package came with; None if it came with none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = _distributions().get(package)
        return importlib.metadata.version(names[0]) if names else None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Every package's distributions; asked once, as it reads the files of all that is installed."""
    return importlib.metadata.packages_distributions()
