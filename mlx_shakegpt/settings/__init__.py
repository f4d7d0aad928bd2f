"""What can be asked for. Imported by --help, so nothing here imports MLX."""
