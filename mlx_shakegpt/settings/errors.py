"""The error for what was asked for and could not be reached."""

from __future__ import annotations


class NotReached(ValueError):
    """What was asked for was not reached, or not proven."""
