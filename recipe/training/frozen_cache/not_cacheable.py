"""The reason why the outputs of frozen layers aren't cached."""

from __future__ import annotations


class NotCacheable(Exception):
    """The message is printed after "computed each time:"; it is no error."""
