"""``python -m fashion_tl`` is the same as ``fashion-tl``."""

from fashion_tl.cli import console

if __name__ == "__main__":
    console()
