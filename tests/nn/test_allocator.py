import sys
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.integration

HELD = """
import ctypes, os, sys
from recipe.components import device
from recipe.nn import allocator

if {kept}:
    device.set_environment({{}})
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

statm = os.open("/proc/self/statm", os.O_RDONLY)

def pages():  # by pread: a file object's buffer could be the end of the heap, which then stays
    return int(os.pread(statm, 100, 0).split()[1])

def step():
    blocks = [libc.malloc(4 << 20) for _ in range(25)]
    for block in blocks:
        ctypes.memset(block, 1, 4 << 20)
    held = pages()
    for block in blocks:
        libc.free(block)
    return held - pages()

print([step() for _ in range(3)][-1] * 4096 >> 20)
"""
"""How many MB of a third step's 100 go back to the system."""


def given_back(folder: Path, *, kept: bool, **environment: str) -> int:
    code = HELD.format(kept=kept)
    done = commands.spawn(folder, program=(sys.executable, "-c", code), **environment)
    assert done.status == 0, done.err
    return int(done.out)


def gives_back(folder: Path, *, kept: bool, **environment: str) -> bool:
    """Whether one of three processes gives most of it back. A heap whose end is in use, or which
    something mapped above it keeps from growing, can't shrink: in few processes, by their random
    addresses."""
    return any(given_back(folder, kept=kept, **environment) > 50 for _ in range(3))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is set")
def test_allocator_keeps_memory_between_steps(tmp_path: Path) -> None:
    assert gives_back(tmp_path, kept=False)
    assert given_back(tmp_path, kept=True) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is set")
def test_allocator_settings_in_the_environment_take_precedence(tmp_path: Path) -> None:
    assert gives_back(tmp_path, kept=True, MALLOC_TRIM_THRESHOLD_="1000000")
    assert gives_back(tmp_path, kept=True, GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000000")
    assert given_back(tmp_path, kept=True, MALLOC_ARENA_MAX="2") == 0  # not about freed memory
