"""How well a text is known by heart."""
