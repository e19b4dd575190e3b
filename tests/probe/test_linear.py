"""Probes of one stage: strengths chosen on validation, standardisation folded into the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.probe import linear
from fashion_tl.probe.linear import LIMITS, ROUGH, STRENGTHS, WORTH, Scaling, StageProbe, probe_stage
from fashion_tl.probe.solver import TOLERANCE, Regression
from fashion_tl.probe.stages import Stage


def drawn(train: int = 60, width: int = 20, noise: float = 2.0) -> tuple[Stage, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(width, 3, generator=generator)
    parts, labels = {}, {}
    for part, count in (("train", train), ("val", 100), ("test", 80)):
        features = 5 + torch.randn(count, width, generator=generator) * torch.linspace(0.1, 10, width)
        scores = ((features - 5) / torch.linspace(0.1, 10, width)) @ directions
        features[:, 0] = 7  # a constant
        labels[part] = (scores + noise * torch.randn(scores.shape, generator=generator)).argmax(1)
        parts[part] = features.numpy()
    return Stage(3, "two", parts), labels


@pytest.fixture(scope="module")
def found() -> StageProbe:
    stage, labels = drawn()
    return probe_stage(stage, labels, 3, knn=True)


def test_validation_chooses_the_strength_and_loss_decides_between_equals(found: StageProbe) -> None:
    solved = [each for each in found.path if each["gradient"] <= TOLERANCE]
    best = min(solved, key=lambda each: (-each["val_accuracy"], each["val_loss"]))
    assert found.chosen.converged
    assert found.chosen.strength == best["strength"]
    assert found.accuracy["val"] == best["val_accuracy"]
    assert found.loss["val"] == best["val_loss"]
    strengths = [each["strength"] for each in found.path]
    assert strengths == sorted(set(strengths))
    assert set(STRENGTHS) <= set(strengths)
    assert all(each["gradient"] <= ROUGH for each in found.path)


def test_figures_are_those_of_the_folded_head_on_features_as_they_are(found: StageProbe) -> None:
    stage, labels = drawn()
    for part in ("val", "test"):
        logits = stage.parts[part] @ found.weight.numpy().T + found.bias.numpy()
        assert found.accuracy[part] == np.mean(logits.argmax(1) == labels[part].numpy())
    np.testing.assert_allclose(found.test_logits, logits, atol=1e-4)
    assert found.interval[0] < found.accuracy["test"] < found.interval[1]


def test_the_folded_head_gives_the_logits_of_the_solution() -> None:
    stage, labels = drawn()
    raw = torch.from_numpy(stage.parts["train"])
    scaling = Scaling.of(raw)
    standard = scaling.apply_(raw.clone())
    torch.testing.assert_close(standard.std(0, correction=0)[1:], torch.ones(19), atol=1e-4, rtol=0)
    assert standard[:, 0].abs().max() < 1e-5  # the constant is not blown up
    (solution,) = Regression(standard, labels["train"], 3).solve([0.01])
    weight, bias = scaling.fold(solution)
    torch.testing.assert_close(raw @ weight.T + bias, solution.logits(standard), atol=1e-4, rtol=1e-4)


def test_neighbours_are_beside(found: StageProbe) -> None:
    assert found.neighbours is not None
    assert found.neighbours["neighbours"] in (1, 5, 10, 20)
    low, high = found.neighbours["interval"]
    assert low < found.neighbours["accuracy"] < high


@pytest.mark.parametrize(("noise", "train"), [(0.0, 2000), (1000.0, 30)])
def test_the_path_goes_on_while_its_end_is_better(noise: float, train: int) -> None:
    stage, labels = drawn(train, noise=noise)
    found = probe_stage(stage, labels, 3)
    strengths = [each["strength"] for each in found.path]
    for end, beside in ((0, 1), (-1, -2)):
        gain = found.path[end]["val_accuracy"] - found.path[beside]["val_accuracy"]
        assert strengths[end] in LIMITS or gain < WORTH or found.chosen.strength != strengths[end]
    assert min(strengths) < min(STRENGTHS) or max(strengths) > max(STRENGTHS) or found.chosen.strength in STRENGTHS


def test_given_strengths_are_tried_alone() -> None:
    stage, labels = drawn()
    found = probe_stage(stage, labels, 3, [0.5, 0.1, 0.5])
    assert [each["strength"] for each in found.path] == [0.1, 0.5]


def test_the_test_images_are_read_once_and_after_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, labels = drawn()
    read: list[str] = []
    tensor, choose = linear._tensor, linear._path

    def noted(array, device):
        read.extend(part for part, own in stage.parts.items() if own is array)
        return tensor(array, device)

    def chosen(*args):
        path = choose(*args)
        read.append("chosen")
        return path

    monkeypatch.setattr(linear, "_tensor", noted)
    monkeypatch.setattr(linear, "_path", chosen)
    probe_stage(stage, labels, 3)
    assert read == ["train", "val", "chosen", "test"]


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_told(part: str, value: float) -> None:
    stage, labels = drawn()
    stage.parts[part][3, 2] = value
    with pytest.raises(UserError, match=rf"stage two of {part} are not finite.*--trainer.precision 32-true"):
        probe_stage(stage, labels, 3)
