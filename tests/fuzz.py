"""`make fuzz MINUTES=10`: the properties of ``tests/test_fuzz.py`` over new examples, round after round."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

EXAMPLES_OF_A_ROUND = 150


def run(minutes: float) -> int:
    """Try new examples until the time is over or one fails; returns pytest's exit status.

    Args:
        minutes: Rounds begin for so long.
    """
    os.environ["FASHION_TL_FUZZ_EXAMPLES"] = str(EXAMPLES_OF_A_ROUND)
    import pytest

    end, rounds = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        seed, rounds = secrets.randbits(32), rounds + 1
        print(f"round {rounds}, --hypothesis-seed={seed}", flush=True)
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}", str(FILE)])
        if status != 0:
            return int(status)
    print(f"{rounds} rounds of {EXAMPLES_OF_A_ROUND} examples of each property: nothing found")
    return 0


FILE = Path(__file__).with_name("test_fuzz.py")

if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]) if sys.argv[1:] else 10))
