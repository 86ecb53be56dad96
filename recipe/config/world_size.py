"""The rank and number of processes that share a run, from torchrun's environment variables.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    rank: int = 0
    """Of this process, from 0; rank 0 records the run."""
    size: int = 1
    """Processes on all machines."""
    local_rank: int = 0
    """Among the processes of this machine."""
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """A single process unless torchrun's variables are set."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            return cls()
        local = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), *local)

    @property
    def launch_command(self) -> str:
        """The command that starts the same number of processes."""
        if self.size == 1:
            return "python -m recipe"
        nodes = self.size // self.local_size
        several = f"--nnodes {nodes} " if nodes > 1 else ""
        return f"torchrun {several}--nproc-per-node {self.local_size} -m recipe"
