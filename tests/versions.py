"""Installs the wheel on each Python that ``pyproject.toml`` names, with the newest dependencies.

``make test-versions`` runs it.

On each the package trains on drawn garments, classifies a folder of images and exports the network. A Python that is
not to be had on this machine is left out, with a line that says so. The exit status is 1 if a command fails.

    python -m tests.versions [3.12 3.14]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.prefix, "bin", "uv")
LIMIT = 1800.0  # seconds for one command
_IMPORTS = "import fashion_tl\nfor name in fashion_tl.__all__: getattr(fashion_tl, name)"
_DRAW = """from pathlib import Path
from PIL import Image
from fashion_tl import SyntheticGarments
images, _ = SyntheticGarments().draw(8, seed=1)
for number, image in enumerate(images):
    Path("images").mkdir(exist_ok=True)
    Image.fromarray(image[0].numpy()).save(f"images/{number}.png")"""
_SMALL = (
    *("--name", "small", "--data.source", "SyntheticGarments", "--data.source.num_train", "300"),
    *("--data.image_size", "32", "--model", "TransferClassifier", "--model.backbone", "test_resnet"),
    *("--model.pretrained", "false", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
)
COMMANDS = (
    ("python", "-c", _IMPORTS),
    ("fashion-tl", "doctor"),
    ("fashion-tl", "fit", *_SMALL),
    ("python", "-c", _DRAW),
    ("fashion-tl", "predict", "checkpoints/small/version_0/best.ckpt", "images", "--output", "predictions.csv"),
    ("fashion-tl", "export", "small", "shipped", "--format", "onnx"),
    ("fashion-tl", "compare"),
)


def versions(root: Path = ROOT) -> list[str]:
    """List the versions of Python that the package says it works with."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))


def environment(folder: Path) -> Mapping[str, str]:
    """Return the variables for a command of an environment, which sees neither this one nor the source."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "FASHION_TL_CACHE_DIR": str(folder / "cache")}


def attempt(command: tuple[str, ...], folder: Path) -> str | None:
    """Run a command in a folder; returns None if it succeeds, else the end of what it printed."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {LIMIT:g} s"
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()[-3000:] or "no output"


def check(version: str, wheel: Path, folder: Path) -> bool | None:
    """Install the wheel on a version of Python and run the commands; returns None if there is no such Python."""
    began = time.perf_counter()
    if attempt((str(UV), "venv", "--quiet", "--python", version, ".venv"), folder):
        print(f"absent   Python {version}: none found, and none to be downloaded", flush=True)
        return None
    programs = folder / ".venv" / "bin"
    install = (str(UV), "pip", "install", "--quiet", "--python", str(programs / "python"), f"{wheel}[hub,onnx,tune]")
    for name, *arguments in (install, *COMMANDS):
        program = name if name == str(UV) else str(programs / name)
        if failure := attempt((program, *arguments), folder):
            print(f"FAILED   Python {version}: {Path(name).name} {' '.join(arguments)}\n{failure}", flush=True)
            return False
    listed = subprocess.run(
        [UV, "pip", "freeze", "--quiet", "--python", programs / "python"], capture_output=True, text=True, check=True
    )
    found = dict(re.findall(r"^(\S+)==(\S+)$", listed.stdout, re.MULTILINE))
    told = ", ".join(f"{name} {found[name]}" for name in ("torch", "lightning", "timm", "numpy", "pillow", "onnx"))
    print(f"ok       Python {version}: {told} ({time.perf_counter() - began:.0f} s)", flush=True)
    return True


def main() -> int:
    """Run the check by the command line."""
    parser = argparse.ArgumentParser(prog="make test-versions", description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=versions(), help="such as 3.12; all of them if none is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fashion_tl_versions_") as place:
        subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", place, ROOT], check=True)
        wheel = next(Path(place).glob("*.whl"))
        results = []
        for version in given.versions:
            folder = Path(place, version)
            folder.mkdir()
            results.append(check(version, wheel, folder))
    passed, failed = results.count(True), results.count(False)
    print(f"\n{passed} passed, {failed} failed, {results.count(None)} absent")
    return bool(failed or not passed)


if __name__ == "__main__":
    sys.exit(main())
