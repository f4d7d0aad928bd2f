"""GPT-2 and its operations."""
