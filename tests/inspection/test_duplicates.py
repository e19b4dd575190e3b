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


def test_copies_do_not_hide_what_is_nearly_the_same_and_all_of_them_are_told() -> None:
    data = ImageDataModule(SyntheticGarments(num_train=40, num_test=10))
    data.setup()
    images = torch.cat(list(data.in_order("train", 50)))
    blank = torch.full_like(images[:1], 255)
    # Six times the same image among the references, and an altered copy of it; a blank one twice.
    altered = alterations()["brighter, less contrast"](images[:1])
    references = torch.cat([images[:1]] * 6 + [altered, blank, blank, images[1:]])
    queries = torch.cat([images[:1], images[:1], blank, altered])
    pairs = near_pairs(views_of([queries], None), views_of([references], None))
    close = {(int(q), int(r)): s for q, r, s in zip(pairs.query, pairs.reference, pairs.similarity, strict=True)}
    assert len(close) == len(pairs)  # each once
    for query in (0, 1):
        assert [close[query, i] for i in range(6)] == [1.0] * 6
        assert close[query, 6] > 0.99
    assert close[2, 7] == close[2, 8] == close[3, 6] == 1.0
    assert min(close[3, i] for i in range(6)) > 0.99
    assert (np.diff(pairs.similarity) <= 0).all()


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
