"""The verbs over records start quickly because figures need NumPy alone."""

from __future__ import annotations

import subprocess
import sys

ROOM = ("calibration", "decisions", "detection", "errors", "pareto", "selective", "significance", "uncertainty")


def test_figures_need_numpy_alone() -> None:
    code = "\n".join(f"import fashion_tl.metrics.{name}" for name in ROOM)
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "lightning", "torchvision", "torchmetrics", "timm", "scipy", "sklearn", "matplotlib"}
