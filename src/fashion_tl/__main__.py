"""``python -m fashion_tl`` is the same as ``fashion-tl``."""

import sys

from fashion_tl.cli import main

if __name__ == "__main__":
    sys.exit(main())
