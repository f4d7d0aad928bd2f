"""A model for others: its folder, its card, a page where it speaks, and their upload."""
