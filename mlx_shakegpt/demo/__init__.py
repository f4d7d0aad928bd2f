"""A page on which a model speaks, and shows how well it knows its text."""

from .page import page, serve

__all__ = ["page", "serve"]
