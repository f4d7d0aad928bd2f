"""A text as tokens."""
