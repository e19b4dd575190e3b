"""Multinomial logistic regression with an L2 penalty, solved to its optimum for several strengths at once.

The objective is the mean cross-entropy plus ``strength / 2`` times the squared norm of the weights; biases are free.
scikit-learn's ``C`` is ``1 / (strength * N)``. It is convex, so the norm of the gradient tells how far a solution is
from the optimum.

L-BFGS (Nocedal and Wright 2006, algorithm 7.4) starts from an inverse Hessian that is close to the true one: the
Hessian of a class is the Gram matrix of the features, weighted by p (1 - p) of each image, plus the strength (Boehning
1992, https://doi.org/10.1007/BF00048682). With the mean weight in the place of the weights, one eigendecomposition
serves all classes and strengths; where there are few parameters, the whole Hessian of some images is factorised
instead (Byrd et al. 2011, https://doi.org/10.1137/10079923X). Logits are linear in the weights, so that a line search
needs no product with the features, and all strengths share the two products of an iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-5  # of the gradient's largest magnitude; scikit-learn's default is 1e-4
MEMORY = 10  # pairs of steps and gradients
MOST_LOGITS = 2**24  # of all strengths that are solved together, which bounds memory
CURVATURE = 0.5  # share of the slope that a line search may leave
TRIALS = 30  # of a line search; each costs no product with the features
LEAST_WEIGHT = 1e-4  # of p (1 - p), where a class is nearly certain everywhere
FEW = 1024  # parameters up to which Hessians are factorised
SAMPLE = 8192  # images that they are of
REFRESHED = (1, 3, 6, 12, 24, 48, 96, 192)  # iterations that begin with a new one


@dataclass(frozen=True)
class Solution:
    """The optimum of one strength.

    Attributes:
        strength: Strength of the penalty.
        weight: Weights (K, F).
        bias: Biases (K,).
        objective: Mean cross-entropy plus penalty.
        gradient: Largest magnitude in the gradient of the objective.
        iterations: Iterations that it took.
        converged: Whether ``gradient`` is at most the tolerance.
    """

    strength: float
    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    objective: float
    gradient: float
    iterations: int
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (N, K) of features (N, F)."""
        return torch.addmm(self.bias, features, self.weight.T)


class Regression:
    """The data of a regression, prepared once for solutions of any strength.

    Args:
        features: Features (N, F), float32 or float64, centred and of about the same scale.
        labels: Classes (N,) from 0 to K - 1.
        classes: Number of classes K.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self.basis: Tensor | None = None
        if len(features) < features.shape[1]:  # the optimum lies in the space that the images span
            _, values, rows = torch.linalg.svd(features, full_matrices=False)
            self.basis = rows[values > values[0] * torch.finfo(features.dtype).eps * features.shape[1]]
            features = features @ self.basis.T
        self.features = features
        self.targets = F.one_hot(labels, classes).to(features.dtype).T.contiguous()
        variances, self.axes = torch.linalg.eigh(features.T @ features / len(features))
        self.variances = variances.clamp(min=0)
        self.sample = slice(0, len(features), max(1, len(features) // SAMPLE))

    def solve(
        self,
        strengths: Sequence[float],
        tolerance: float = TOLERANCE,
        max_iterations: int = 500,
        start: Sequence[Solution] | None = None,
    ) -> list[Solution]:
        """Solve for several strengths.

        Args:
            strengths: Strengths of the penalty, each above 0.
            tolerance: Largest magnitude in the gradient at which a solution counts as the optimum.
            max_iterations: Iterations after which it is left as it is.
            start: Where to start from for each strength; weights of 0 if not given.

        Returns:
            A solution for each strength, on the device and in the precision of the features.
        """
        size = max(1, MOST_LOGITS // self.targets.numel())
        found: list[Solution] = []
        for first in range(0, len(strengths), size):
            group = slice(first, first + size)
            theta = self._start(len(strengths[group]), start[group] if start else ())
            found += self._solve(strengths[group], theta, tolerance, max_iterations)
        if self.basis is None:
            return found
        return [replace(solution, weight=solution.weight @ self.basis) for solution in found]

    def _start(self, count: int, solutions: Sequence[Solution]) -> Tensor:
        """Return the parameters (S, K, F + 1) to start from; biases come last."""
        images, width = self.features.shape
        theta = self.features.new_zeros(count, len(self.targets), width + 1)
        prior = (self.targets.sum(1) / images).clamp(min=1 / images).log()
        theta[..., -1] = prior - prior.mean()
        for own, solution in zip(theta, solutions, strict=False):
            own[:, :-1] = solution.weight if self.basis is None else solution.weight @ self.basis.T
            own[:, -1] = solution.bias
        return theta

    def _solve(
        self, strengths: Sequence[float], theta: Tensor, tolerance: float, max_iterations: int
    ) -> list[Solution]:
        """Solve for strengths whose logits fit into memory together."""
        left = torch.arange(len(strengths), device=theta.device)
        strength = theta.new_tensor(strengths)
        logits = self._logits(theta)
        factors: Tensor | None = None
        history: list[tuple[Tensor, Tensor, Tensor]] = []
        solved: dict[int, Solution] = {}
        gradient, weights = self._gradient(theta, logits, strength)
        for iteration in range(max_iterations + 1):
            size = gradient.abs().amax((1, 2))
            done = (size <= tolerance) | (iteration == max_iterations)
            if done.any():
                objective = self._objective(theta, logits, strength)
                for i in done.nonzero().flatten().tolist():
                    solved[int(left[i])] = Solution(
                        strengths[int(left[i])],
                        theta[i, :, :-1].clone(),
                        theta[i, :, -1].clone(),
                        float(objective[i]),
                        float(size[i]),
                        iteration,
                        bool(size[i] <= tolerance),
                    )
                keep = ~done
                if not keep.any():
                    break
                left, strength, theta, logits = left[keep], strength[keep], theta[keep], logits[keep]
                gradient, weights = gradient[keep], weights[keep]
                history = [(step[keep], change[keep], scale[keep]) for step, change, scale in history]
                factors = None if factors is None else factors[keep]
            if iteration in REFRESHED and theta[0].numel() <= FEW:
                factors = self._factors(logits, strength)
            direction = self._direction(gradient, weights, strength, history, factors)
            slopes = self._logits(direction)
            length = _line_search(logits, slopes, self.targets, theta, gradient, direction, strength)[:, None, None]
            step = length * direction
            theta = theta + step
            # Computed anew from time to time, so that rounding does not add up.
            logits = self._logits(theta) if iteration % 20 == 19 else torch.addcmul(logits, length, slopes)
            before = gradient
            gradient, weights = self._gradient(theta, logits, strength)
            change = gradient - before
            curvature = _dot(step, change)
            usable = curvature > torch.finfo(theta.dtype).eps * _dot(change, change)
            scale = torch.where(usable, 1 / torch.where(usable, curvature, 1), 0)
            history = [*history[-MEMORY + 1 :], (step, change, scale)]
        return [solved[i] for i in range(len(strengths))]

    def _logits(self, theta: Tensor) -> Tensor:
        """Compute logits (S, K, N) of parameters (S, K, F + 1)."""
        flat = theta.flatten(0, 1)
        return torch.addmm(flat[:, -1:], flat[:, :-1], self.features.T).view(*theta.shape[:2], -1)

    def _gradient(self, theta: Tensor, logits: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient (S, K, F + 1), and the mean of p (1 - p) of each class (S, K)."""
        probabilities = logits.softmax(1)
        images = logits.shape[2]
        shares = probabilities.sum(2) / images
        squares = torch.linalg.vector_norm(probabilities, dim=2).square() / images
        residuals = probabilities.sub_(self.targets)
        gradient = torch.empty_like(theta)
        gradient[..., :-1] = (residuals.flatten(0, 1) @ self.features).view_as(theta[..., :-1]) / images
        gradient[..., :-1] += strength[:, None, None] * theta[..., :-1]
        gradient[..., -1] = residuals.mean(2)
        return gradient, (shares - squares).clamp(min=LEAST_WEIGHT)

    def _factors(self, logits: Tensor, strength: Tensor) -> Tensor:
        """Factorise the Hessians of some images: Cholesky's (S, K (F + 1), K (F + 1))."""
        features = F.pad(self.features[self.sample], (0, 1), value=1.0)
        probabilities = logits[..., self.sample].softmax(1)
        images, width = features.shape
        ridge = strength[:, None].repeat(1, width)
        ridge[:, -1] = LEAST_WEIGHT  # a shift of all biases changes nothing
        hessians = []
        for own, added in zip(probabilities, ridge, strict=True):
            weighted = (own.T[:, :, None] * features[:, None]).flatten(1)
            hessian = weighted.T @ weighted / -images
            for k, weight in enumerate(own):
                block = slice(k * width, (k + 1) * width)
                hessian[block, block] += (features * weight[:, None]).T @ features / images
            hessian.diagonal().add_(added.repeat(len(own)) + LEAST_WEIGHT * hessian.diagonal().mean())
            hessians.append(hessian)
        factors: Tensor = torch.linalg.cholesky(torch.stack(hessians))
        return factors

    def _direction(
        self,
        gradient: Tensor,
        weights: Tensor,
        strength: Tensor,
        history: list[tuple[Tensor, Tensor, Tensor]],
        factors: Tensor | None,
    ) -> Tensor:
        """Apply the approximate inverse Hessian to the gradient (the two loops of L-BFGS)."""
        direction, shares = -gradient, []
        for step, change, scale in reversed(history):
            share = scale * _dot(step, direction)
            shares.append(share)
            direction = direction - share[:, None, None] * change
        if factors is not None:
            direction = torch.cholesky_solve(direction.flatten(1)[..., None], factors).view_as(direction)
        else:
            rotated = direction[..., :-1] @ self.axes
            rotated /= weights[..., None] * self.variances + strength[:, None, None]
            direction = torch.cat([rotated @ self.axes.T, direction[..., -1:] / weights[..., None]], 2)
        for (step, change, scale), share in zip(history, reversed(shares), strict=True):
            direction = direction + (share - scale * _dot(change, direction))[:, None, None] * step
        return direction

    def _objective(self, theta: Tensor, logits: Tensor, strength: Tensor) -> Tensor:
        """Compute the objective (S,) in float64."""
        losses = logits.logsumexp(1) - (logits * self.targets).sum(1)
        penalty = theta[..., :-1].double().square().sum((1, 2))
        return losses.double().mean(1) + strength.double() / 2 * penalty


def _line_search(
    logits: Tensor,
    slopes: Tensor,
    targets: Tensor,
    theta: Tensor,
    gradient: Tensor,
    direction: Tensor,
    strength: Tensor,
) -> Tensor:
    """Find lengths (S,) of steps at which the slope of the objective is a small share of that at 0.

    The objective is convex along a line: the sign of its slope tells on which side its minimum lies. Newton's method
    is kept between the two sides, and bisects where it would leave them.
    """
    images = logits.shape[2]
    linear = strength * _dot(theta[..., :-1], direction[..., :-1]) - (slopes * targets).sum((1, 2)) / images
    quadratic = strength * _dot(direction[..., :-1], direction[..., :-1])
    allowed = CURVATURE * _dot(gradient, direction).abs()
    length = torch.ones_like(strength)
    low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
    pending = torch.arange(len(strength), device=strength.device)
    for _ in range(TRIALS):
        at, own = length[pending], slopes[pending]
        weighted = torch.addcmul(logits[pending], at[:, None, None], own).softmax(1).mul_(own)
        mean = weighted.sum(1)
        first = mean.sum(1) / images + linear[pending] + at * quadratic[pending]
        far = first.abs() > allowed[pending]
        if not far.any():
            break
        second = (_dot(weighted, own) - mean.square().sum(1)) / images + quadratic[pending]
        pending, at, first, second = pending[far], at[far], first[far], second[far]
        low[pending] = torch.where(first > 0, low[pending], at)
        high[pending] = torch.where(first > 0, at, high[pending])
        tried = at - first / second.clamp(min=torch.finfo(first.dtype).tiny)
        middle = torch.where(high[pending].isinf(), 2 * low[pending], (low[pending] + high[pending]) / 2)
        inside = (tried > low[pending]) & (tried < high[pending])
        length[pending] = torch.where(inside, tried, middle)
    return length


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Compute the product (S,) of each problem."""
    return (one * other).sum((1, 2))
