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
    flags = ["--data.source", "ImageFolder", "--data.source.root", "here", "--data.source.folder", "pets"]
    flags += ["--data.source.resize", "stretch", "--data.image_size", "16"]
    assert fit(*flags, classifier="ScratchClassifier") == 0
    folders = (workdir / "lightning_logs", workdir / "checkpoints")
    opened = open_run("run", *folders)
    assert opened.data.describe()["resize"] == "stretch"
    (workdir / "here").rename(workdir / "there")
    with pytest.raises(UserError, match=r"here/pets does not exist"):
        open_run("run", *folders)
    again = open_run("run", *folders, root="there")
    assert again.data.describe() == opened.data.describe()


def test_images_are_loaded_once_for_runs_that_share_them(fit: Fit, workdir: Path) -> None:
    sizes = {"first": [], "second": ["--data.batch_size", "16"], "third": ["--data.split_seed", "1"]}
    for name, flags in sizes.items():
        assert fit(*flags, name=name, classifier="ScratchClassifier") == 0
    folders = (workdir / "lightning_logs", workdir / "checkpoints")
    first = open_run("first", *folders)
    second = open_run("second", *folders, others=[first])
    third = open_run("third", *folders, others=[first, second])
    assert second.data is first.data
    assert third.data is not first.data
    assert third.data.describe()["split_seed"] == 1
