"""What the command line imports: help and lists are there at once."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from fashion_tl.cli import main
for args in (["--help"], ["--version"], ["cache", "list"], ["cache", "--help"], ["runs"], ["explain", "-h"],
    ["tournament", "--help"], ["tune", "--help"], ["fti"]):
    main(args)
    heavy = {"torch", "lightning", "numpy.f2py", "matplotlib", "timm", "optuna"} & set(sys.modules)
    print("imported", args, sorted(heavy))
    if heavy:
        sys.exit(1)
"""


def test_help_version_and_lists_import_neither_torch_nor_lightning(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]
    assert "usage: fashion-tl VERB" in done.stdout
