"""The solver against scikit-learn, autograd and itself."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.probe import solver
from fashion_tl.probe.solver import Regression, Solution

STRENGTHS = (1e-4, 1e-2, 1.0)


def drawn(images: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw correlated features, standardised, and classes that they tell in part; float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    features = torch.randn(images, width, generator=generator, dtype=torch.float64) @ mixing
    scores = features @ torch.randn(width, classes, generator=generator, dtype=torch.float64)
    scores += torch.randn(scores.shape, generator=generator, dtype=torch.float64) * scores.std()
    return (features - features.mean(0)) / features.std(0), scores.argmax(1)


def objective(solution: Solution, features: Tensor, labels: Tensor) -> Tensor:
    """Write the objective down as its definition says."""
    logits = features @ solution.weight.to(features.dtype).T + solution.bias.to(features.dtype)
    return F.cross_entropy(logits, labels) + solution.strength / 2 * solution.weight.to(features.dtype).square().sum()


def reference(features: Tensor, labels: Tensor, strength: float) -> Solution:
    fitted = LogisticRegression(C=1 / (strength * len(features)), tol=1e-10, max_iter=10_000)
    fitted.fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    return Solution(strength, weight, bias, 0.0, 0.0, 0, True)


@pytest.mark.parametrize(("images", "width", "classes"), [(400, 12, 4), (30, 80, 3)])
def test_solutions_are_those_of_scikit_learn(images: int, width: int, classes: int) -> None:
    features, labels = drawn(images, width, classes)
    exact = Regression(features, labels, classes).solve(STRENGTHS, 1e-9, 2000)
    single = Regression(features.float(), labels, classes).solve(STRENGTHS)
    for strength, ours, rough in zip(STRENGTHS, exact, single, strict=True):
        theirs = float(objective(reference(features, labels, strength), features, labels))
        assert ours.converged
        assert ours.objective == pytest.approx(theirs, abs=1e-8)
        assert rough.converged
        assert float(objective(rough, features, labels)) == pytest.approx(theirs, abs=1e-4)
        assert rough.objective == pytest.approx(theirs, abs=1e-4)


def test_the_gradient_that_is_told_is_that_of_the_objective() -> None:
    features, labels = drawn(200, 10, 3)
    (found,) = Regression(features, labels, 3).solve([1e-3], max_iterations=2)
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    loss = F.cross_entropy(features @ weight.T + bias, labels) + 1e-3 / 2 * weight.square().sum()
    torch.autograd.backward(loss)
    assert weight.grad is not None
    assert bias.grad is not None
    assert not found.converged
    assert found.gradient == pytest.approx(max(float(weight.grad.abs().max()), float(bias.grad.abs().max())), rel=1e-9)
    assert found.objective == pytest.approx(float(loss.detach()), abs=1e-12)


def test_strengths_are_solved_together_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(300, 15, 4)
    together = Regression(features, labels, 4).solve(STRENGTHS, 1e-9)
    monkeypatch.setattr(solver, "MOST_LOGITS", 1)
    for one, other in zip(together, Regression(features, labels, 4).solve(STRENGTHS, 1e-9), strict=True):
        assert one.strength == other.strength
        torch.testing.assert_close(one.weight, other.weight, atol=1e-5, rtol=1e-4)


def test_biases_are_free() -> None:
    """However strong the penalty, the shares of the classes are met."""
    features, _ = drawn(100, 5, 2)
    labels = torch.arange(100) % 4 // 3  # a quarter is of class 1
    (found,) = Regression(features, labels, 2).solve([1e6], 1e-9)
    assert found.weight.abs().max() < 1e-5
    torch.testing.assert_close(found.bias.softmax(0), torch.tensor([0.75, 0.25]).double(), atol=1e-5, rtol=0)


def test_separable_classes_and_a_class_without_images_have_an_optimum() -> None:
    labels = torch.arange(60) % 3
    features = F.one_hot(labels, 3).double() + 0.01 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    features -= features.mean(0)
    (found,) = Regression(features.float(), labels, 4).solve([1e-5])
    assert found.converged
    assert found.logits(features.float()).argmax(1).tolist() == labels.tolist()
    assert torch.isfinite(found.weight).all()


def test_constant_features_do_no_harm() -> None:
    features, labels = drawn(100, 4, 3)
    padded = torch.cat([features, torch.zeros(100, 3).double()], 1)
    (found,) = Regression(padded, labels, 3).solve([1e-2], 1e-9)
    (plain,) = Regression(features, labels, 3).solve([1e-2], 1e-9)
    assert found.objective == pytest.approx(plain.objective, abs=1e-10)
    assert found.weight[:, 4:].abs().max() == 0
