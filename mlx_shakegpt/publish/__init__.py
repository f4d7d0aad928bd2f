"""A model for others: its folder with a card, a Space where it speaks, and their upload."""

from .folders import Published, publish
from .space import serve_space
from .upload import upload

__all__ = ["Published", "publish", "serve_space", "upload"]
