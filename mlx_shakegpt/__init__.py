"""GPT-2 in MLX that learns a text by heart, and says how well it did."""

__version__ = "0.1.0"
