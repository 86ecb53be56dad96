"""A PostgreSQL cluster of a test's own: made by initdb in a temporary folder, on 127.0.0.1 and a
free port, with a password; it can be stopped in the midst of its work and started again.

PostgreSQL doesn't run as root, so root starts it as the user `postgres`, which Debian's package
makes, in a folder of that user's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import servers

PASSWORD = "a-password-of-the-database"


def missing() -> str | None:
    """Why there can be no cluster here; None: there can."""
    if importlib.util.find_spec("psycopg2") is None:
        return "there is no psycopg2 (pip install 'torch-recipe[server]')"
    if _binaries() is None:
        return "there is no PostgreSQL (apt-get install postgresql)"
    if os.geteuid() == 0 and _owner() is None:
        return "PostgreSQL can't run as root, and there is no user postgres"
    return None


def _binaries() -> Path | None:
    """The folder of the newest version's programs; Debian puts them on nobody's PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).parent)
    return max(found, key=lambda path: (path.parent.name.isdigit(), path.parent.name), default=None)


def _owner() -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return None


class Postgres:
    """`folder` is its user's own."""

    def __init__(self, folder: Path) -> None:
        binaries = _binaries()
        assert binaries is not None
        self.folder, self.port, self._binaries = folder, servers.free_port(), binaries
        self.uri = f"postgresql+psycopg2://recipe:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        """With psycopg2 in it, as SQLAlchemy would take another package without that."""
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0 and (owner := _owner()):
            for path in (self.folder, self.folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        done = self._popen(
            "initdb", "--pgdata", str(self.folder / "data"), "--username", "recipe",
            "--auth", "scram-sha-256", "--pwfile", str(self.folder / "password"), "--no-sync",
        )  # fmt: skip
        assert done.wait() == 0, self.log

    def start(self) -> None:
        """Returns when it takes connections."""
        import psycopg2

        self._process = self._popen(
            "postgres", "-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port),
            "-k", str(self.folder), "-c", "fsync=off",  # only a system crash would tell
        )  # fmt: skip
        for _ in range(600):
            with contextlib.suppress(psycopg2.OperationalError):
                psycopg2.connect(self.uri.replace("+psycopg2", "")).close()
                return
            assert self._process.poll() is None, self.log
            time.sleep(0.1)
        raise TimeoutError(self.log)

    def stop(self) -> None:
        """At once, as in a crash: what was committed is recovered at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        owner = _owner() if os.geteuid() == 0 else None
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [self._binaries / program, *arguments], cwd=self.folder, stdout=log, stderr=log,
                user=owner and owner.pw_uid, group=owner and owner.pw_gid,
                extra_groups=[] if owner else None, start_new_session=True,
            )  # fmt: skip


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Not below pytest's folders, which no other user may enter."""
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        made = Postgres(Path(folder))
        made.make()
        try:
            made.start()
            yield made
        finally:
            made.stop()
