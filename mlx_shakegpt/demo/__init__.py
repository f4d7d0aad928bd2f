"""A page on which a model speaks, and shows how well it knows its text."""

from .page import page
from .server import serve, serve_until_stopped

__all__ = ["page", "serve", "serve_until_stopped"]
