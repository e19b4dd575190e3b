"""The verbs over records start quickly because figures need neither torch nor all of SciPy."""

from __future__ import annotations

import subprocess
import sys

ROOM = ("calibration", "decisions", "detection", "errors", "pareto", "selective", "significance", "uncertainty")


def test_figures_need_neither_torch_nor_statistics_until_they_are_computed() -> None:
    code = "\n".join(f"import fashion_tl.metrics.{name}" for name in ROOM)
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    late = {"torch", "lightning", "torchvision", "torchmetrics", "timm", "scipy.stats", "sklearn", "matplotlib"}
    assert "numpy" in loaded
    assert not loaded & late
