import sys
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.integration

HELD = """
import ctypes, sys
from recipe.components import device
from recipe.nn import allocator

if {kept}:
    device.set_environment({{}})
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def pages():
    return int(open("/proc/self/statm").read().split()[1])

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
    done = commands.process(folder, program=(sys.executable, "-c", code), **environment)
    assert done.status == 0, done.err
    return int(done.out)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told to")
def test_a_process_keeps_the_memory_of_a_step_for_the_next(tmp_path: Path) -> None:
    assert given_back(tmp_path, kept=False) > 50
    assert given_back(tmp_path, kept=True) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told to")
def test_what_the_environment_says_of_the_allocator_holds(tmp_path: Path) -> None:
    assert given_back(tmp_path, kept=True, MALLOC_TRIM_THRESHOLD_="1000000") > 50
    tunable = "glibc.malloc.trim_threshold=1000000"
    assert given_back(tmp_path, kept=True, GLIBC_TUNABLES=tunable) > 50
    assert given_back(tmp_path, kept=True, MALLOC_ARENA_MAX="2") == 0  # says nothing of it
