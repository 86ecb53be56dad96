"""Why a prefix isn't computed once."""

from __future__ import annotations


class NotCacheable(Exception):
    """In words, as they come after "computed each time:"; nothing is wrong, only slower."""
