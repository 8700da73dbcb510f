"""``python -m graphclone``."""

from graphclone.cli import main

if __name__ == "__main__":
    main()
