"""Hashes the source code of a user's packages, without importing it."""

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

MAX_FILES = 10_000
"""Files and folders per package."""

MAX_TOTAL_BYTES = 2**28

MAX_PARSED_BYTES = 2**20
"""Bytes of a file that are searched for imports."""

LIBRARY_DIRS = ("site-packages", "dist-packages")


def compute_source_ids(packages: Iterable[str], exclude: frozenset[str]) -> dict[str, str]:
    """Returns the version of each installed package, and the SHA-256 of the code of any other.

    Packages that such code imports from outside the installed libraries are included. Those in
    `exclude`, and those that can't be found, are left out. Raises SpecError for a package that is
    too large.
    """
    found: dict[str, str] = {}
    waiting, seen = sorted(set(packages)), set(exclude)
    given = set(waiting)
    while waiting:
        package = waiting.pop()
        spec = _find_module_spec(package) if package not in seen else None
        seen.add(package)
        if spec is None:
            continue
        version = _get_version(package) if _is_installed(spec) else None
        if version is not None or package in sys.stdlib_module_names:
            if package in given:
                found[package] = version or f"Python {platform.python_version()}"
            continue
        code = _PackageHash(package, spec)
        found[package] = code.sha.hexdigest()
        waiting += sorted(code.imported - seen)
    return found


class _PackageHash:
    """A hash of the names and bytes of all .py files of a package, or of the file of a module.

    Comments are included. Folders that can't be imported from, such as .git and __pycache__, are
    skipped; of files that can't be read, only the name is hashed.
    """

    def __init__(self, package: str, spec: ModuleSpec) -> None:
        self.package = package
        self.sha = hashlib.sha256()
        self.imported: set[str] = set()
        self._entries = self._bytes = 0
        folders = spec.submodule_search_locations
        if folders is None:
            self._hash_file(Path(spec.origin or ""), "")
        for folder in folders or ():
            for path, name in self._iter_files(Path(folder), "", ()):
                self._hash_file(path, name)

    def _iter_files(
        self, folder: Path, prefix: str, above: tuple[Path, ...]
    ) -> Iterator[tuple[Path, str]]:
        above = (*above, Path(os.path.realpath(folder)))
        if above[-1] in above[:-1]:  # a cycle of links
            return
        there = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._add_size(1, 0)
                there.append((os.fsencode(entry.name), entry.name, entry.is_dir()))
        for _, name, is_folder in sorted(there):
            if is_folder and name.isidentifier() and name != "__pycache__":
                yield from self._iter_files(folder / name, f"{prefix}{name}/", above)
            elif not is_folder and name.endswith(".py"):
                yield folder / name, prefix + name

    def _add_size(self, entries: int, size: int) -> None:
        self._entries += entries
        self._bytes += size
        self._check_size(0)

    def _check_size(self, more: int) -> None:
        if self._entries > MAX_FILES or self._bytes + more > MAX_TOTAL_BYTES:
            raise SpecError(
                f"trust: {self.package} has more than {MAX_FILES:,} files or {MAX_TOTAL_BYTES:,} "
                "bytes of code, too many for the fingerprint of each run; put your components into "
                "a separate package"
            )

    def _hash_file(self, path: Path, name: str) -> None:
        content = b""
        with contextlib.suppress(OSError):
            about = path.stat()
            if stat.S_ISREG(about.st_mode):  # reading a pipe may block
                self._check_size(about.st_size)
                with path.open("rb") as file:
                    content = file.read(MAX_TOTAL_BYTES - self._bytes + 1)
                self._add_size(0, len(content))
        for part in (os.fsencode(name), content):
            self.sha.update(len(part).to_bytes(8, "big") + part)
        self.imported |= _find_imports(content)


def _find_imports(code: bytes) -> set[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns when the code is imported
            nodes = list(ast.walk(ast.parse(code[:MAX_PARSED_BYTES])))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
    }
    return {name.partition(".")[0] for name in names}


def _find_module_spec(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # such as __main__
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
    python = sysconfig.get_paths()["stdlib"]
    return any(
        place.startswith(f"{python}{os.sep}") or set(Path(place).parts) & set(LIBRARY_DIRS)
        for place in places
    )


def _get_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = _get_distributions().get(package)
        return importlib.metadata.version(names[0]) if names else None


@functools.cache
def _get_distributions() -> Mapping[str, list[str]]:
    """Cached, as it reads the metadata of every installed package."""
    return importlib.metadata.packages_distributions()
