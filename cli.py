"""`python cli.py …` is the same program as the installed command `shakegpt`."""

from mlx_shakegpt.cli import main

if __name__ == "__main__":
    main()
