"""``python -m scaler``: the command line."""

from scaler.cli import main

if __name__ == "__main__":
    main()
