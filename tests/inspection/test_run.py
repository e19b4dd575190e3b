"""A finished run finds its data again, also where they have moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fashion_tl.errors import UserError
from fashion_tl.inspection.run import open_run

from ..conftest import Fit


def test_data_are_found_again_by_the_configuration_or_where_the_root_is_given(fit: Fit, workdir: Path) -> None:
    for name in ("cat", "dog"):
        (workdir / "here" / "pets" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(workdir / "here" / "pets" / name / f"{i}.png")
    flags = ("--data.source", "ImageFolder", "--data.source.root", "here", "--data.source.folder", "pets")
    assert (
        fit(*flags, "--data.source.resize", "stretch", "--data.image_size", "16", classifier="ScratchClassifier") == 0
    )
    folders = (workdir / "lightning_logs", workdir / "checkpoints")
    opened = open_run("run", *folders)
    assert opened.data.describe()["resize"] == "stretch"
    (workdir / "here").rename(workdir / "there")
    with pytest.raises(UserError, match=r"here/pets does not exist"):
        open_run("run", *folders)
    again = open_run("run", *folders, root="there")
    assert again.data.describe() == opened.data.describe()
