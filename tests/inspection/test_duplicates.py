"""Candidates of near duplicates: altered copies among images that look alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fashion_tl import ImageDataModule, SyntheticGarments
from fashion_tl.inspection import duplicates
from fashion_tl.inspection.duplicates import alterations, near_pairs, views_of


@pytest.mark.parametrize(
    "alteration", ["brighter, less contrast", "JPEG, quality 75", "shifted by 1/28 of the side", "mirrored"]
)
def test_altered_copies_are_found_among_images_that_look_alike(alteration: str) -> None:
    data = ImageDataModule(SyntheticGarments(num_train=1500, num_test=10))
    data.setup()
    images = torch.cat(list(data.in_order("train", 500)))
    pairs = near_pairs(views_of([alterations()[alteration](images[::10])], None), views_of([images], None))
    of = pairs.reference == pairs.query * 10
    assert of.sum() >= 0.97 * len(images[::10])
    assert np.median(pairs.similarity[of]) > 0.97


def test_thumbnails_of_references_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageDataModule(SyntheticGarments(num_train=60, num_test=10))
    data.setup()
    train, test = (views_of(data.in_order(name, 50), None) for name in ("train", "test"))
    seen: list[int] = []
    thumbnails = duplicates._thumbnails

    def counted(grey: np.ndarray) -> np.ndarray:
        seen.append(len(grey))
        return thumbnails(grey)

    monkeypatch.setattr(duplicates, "_thumbnails", counted)
    near_pairs(test, train)
    near_pairs(test, train)
    assert seen.count(len(train.grey)) == 2  # as they are, and centred
