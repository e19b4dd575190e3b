"""Objectives on shares of classes, and smoothing between similar ones, against independent formulas."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.mixing import Mix
from fashion_tl.errors import UserError
from fashion_tl.training.confusion import confused_pairs, spread_of
from fashion_tl.training.objective import Objective, make_objective, prepare_objective
from fashion_tl.training.objectives.base import CrossEntropy, Focal
from fashion_tl.training.scratch import ScratchClassifier

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, TARGETS = torch.randn(40, 3, generator=GENERATOR), torch.randint(3, (40,), generator=GENERATOR)
OTHERS = torch.randint(3, (40,), generator=GENERATOR)
WEIGHTS = [0.2, 1.0, 3.0]
CPU = torch.device("cpu")
NAMES = ["cat", "dog", "eel"]
GROUPS = {"mammals": ["cat", "dog"]}
COSTS = [[0.0, 1.0, 5.0], [2.0, 0.0, 4.0], [1.0, 1.0, 0.0]]
KINDS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "focal": {"gamma": 2.0},
    "hierarchical": {"groups": GROUPS},
    "expected_cost": {"costs": COSTS},
}


def scratch(**settings: Any) -> ScratchClassifier:
    spec = {"channels": 1, "storage_size": 16, "image_size": 16}
    return ScratchClassifier(NAMES, network="plain", network_args={"widths": [3]}, input_spec=spec, **settings)


def objective(name: str, arguments: dict[str, Any], **settings: Any) -> Objective:
    return scratch(objective=name, objective_args=arguments, **settings).objective


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_shares_of_one_class_are_that_class(kind: str, weights: list[float] | None, smoothing: float) -> None:
    smoothing = 0.0 if kind == "focal" else smoothing
    made = objective(kind, KINDS[kind], class_weights=weights, label_smoothing=smoothing)
    hard, soft = made(LOGITS, TARGETS, None), made(LOGITS, F.one_hot(TARGETS, 3).float(), None)
    torch.testing.assert_close(soft.loss, hard.loss)
    assert soft.correct == hard.correct == (LOGITS.argmax(1) == TARGETS).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shares", [False, True])
def test_a_batch_of_classes_without_weight_has_no_loss(kind: str, smoothing: float, shares: bool) -> None:
    smoothing = 0.0 if kind == "focal" else smoothing
    made = objective(kind, KINDS[kind], class_weights=[0.0, 1.0, 3.0], label_smoothing=smoothing)
    logits, targets = LOGITS.clone().requires_grad_(), torch.zeros(40, dtype=torch.long)
    loss = made(logits, F.one_hot(targets, 3).float() if shares else targets, None).loss
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(logits.grad, torch.zeros(40, 3), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_mixed_targets_is_the_mix_of_the_losses(kind: str) -> None:
    made = objective(kind, KINDS[kind])
    shares = 0.3 * F.one_hot(TARGETS, 3) + 0.7 * F.one_hot(OTHERS, 3)
    expected = 0.3 * made(LOGITS, TARGETS, None).loss + 0.7 * made(LOGITS, OTHERS, None).loss
    outcome = made(LOGITS, shares, None)
    torch.testing.assert_close(outcome.loss, expected)
    assert outcome.correct == (LOGITS.argmax(1) == OTHERS).sum()


def test_soft_cross_entropy_is_torchs() -> None:
    shares = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    for smoothing in (0.0, 0.2):
        ours = make_objective("cross_entropy", 3, label_smoothing=smoothing)(LOGITS, shares, None).loss
        torch.testing.assert_close(ours, F.cross_entropy(LOGITS, shares, label_smoothing=smoothing))


def test_a_sure_prediction_has_a_finite_gradient_in_the_focal_loss_of_shares() -> None:
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    make_objective("focal", 2, arguments={"gamma": 0.5})(logits, torch.tensor([[0.5, 0.5]]), None).loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sure_prediction_has_a_finite_gradient_in_the_focal_loss_of_classes(gamma: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    make_objective("focal", 2, arguments={"gamma": gamma})(logits, torch.tensor([0, 0]), None).loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(logits.grad[0].abs().max()) < 1e-40


class Doubled(Focal):
    def losses(self, logits: Tensor) -> Tensor:
        return 2 * super().losses(logits)


def test_a_focal_loss_of_your_own_counts_on_classes_and_on_shares() -> None:
    plain, doubled = Focal(), Doubled()
    Objective.settle(doubled, scratch(), SimpleNamespace(mix=Mix(mixup=0.2)), CPU)
    for targets in (TARGETS, F.one_hot(TARGETS, 3).float()):
        torch.testing.assert_close(doubled.loss(LOGITS, targets, None), 2 * plain.loss(LOGITS, targets, None))


def test_focal_loss_is_the_sum_by_hand() -> None:
    p = probabilities(LOGITS)[np.arange(40), TARGETS.numpy()]
    weights = np.array(WEIGHTS)[TARGETS.numpy()]
    expected = np.sum(-weights * (1 - p) ** 2 * np.log(p)) / weights.sum()
    assert float(Focal(WEIGHTS)(LOGITS, TARGETS, None).loss) == pytest.approx(expected, rel=1e-6)


def test_smoothing_goes_to_the_classes_that_are_confused() -> None:
    confusion = [[8.0, 3.0, 1.0], [0.0, 9.0, 0.0], [2.0, 2.0, 5.0]]
    made = objective("cross_entropy", {}, label_smoothing=0.2, smoothing_confusion=confusion, class_weights=WEIGHTS)
    module = scratch()
    made.settle(module, None, CPU)
    targets = np.array([[0.8, 0.15, 0.05], [0, 1, 0], [0.1, 0.1, 0.8]])[TARGETS.numpy()]
    weights = np.array(WEIGHTS)
    losses = -(targets * weights * log_softmax(LOGITS.double().numpy(), axis=1)).sum(1)
    expected = losses.sum() / weights[TARGETS.numpy()].sum()
    assert float(made(LOGITS, TARGETS, None).loss) == pytest.approx(expected, rel=1e-6)
    soft = made(LOGITS, F.one_hot(TARGETS, 3).float(), None).loss
    assert float(soft) == pytest.approx(expected, rel=1e-6)


def test_rows_of_the_spread_sum_to_one_whatever_is_confused() -> None:
    confusion = torch.tensor([[5.0, 0, 0], [1, 0, 3], [0, 0, 0]])
    assert torch.equal(spread_of(confusion), torch.tensor([[1.0, 0, 0], [0.25, 0, 0.75], [0, 0, 1]]))


def test_the_fewest_pairs_that_make_up_half_of_the_confusions() -> None:
    confusion = torch.tensor([[90.0, 6, 0, 1], [5, 80, 2, 0], [0, 3, 70, 4], [0, 0, 0, 60]])
    names = ["a", "b", "c", "d"]
    assert confused_pairs(confusion, names) == [["a", "b"]]
    confusion[0, 3] += 20
    confusion[2, 3] += 10
    assert confused_pairs(confusion, names) == [["a", "d"], ["c", "d"]]
    with pytest.raises(UserError, match="the run confuses no classes"):
        confused_pairs(torch.eye(4), names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing_confusion": COSTS}, r"give --model\.label_smoothing too"),
        ({"terms": {"l2sp": {}}}, r"unknown term 'l2sp'; did you mean 'l2_sp'.*--model\.terms"),
        ({"terms": {"l2_sp": {"alfa": 1}}}, r"model\.terms\.l2_sp do not fit.*alfa"),
        ({"terms": {"l2_sp": 3}}, r"model\.terms\.l2_sp is 3: it must be a mapping"),
        ({"terms": {"l2_sp": {"alpha": -1}}}, r"model\.terms\.l2_sp\.alpha is -1, allowed is 0 or more"),
        ({"terms": {"distillation": {}}}, r"teachers must name a run"),
        ({"terms": {"distillation": {"teachers": "a", "weight": 2}}}, r"distillation\.weight is 2, allowed is 0 to 1"),
        ({"terms": {"no.such.Term": {}}}, r"model\.terms: cannot import 'no\.such\.Term'"),
        ({"terms": {"auxiliary": {"groups": {"all": NAMES}}}}, "all classes are in one group"),
        ({"objective": "hierarchical"}, r"objective_args\.groups is missing"),
        ({"objective": "hierarchical", "objective_args": {"groups": {"a": ["cot"]}}}, "unknown class 'cot'; did you"),
        ({"objective": "hierarchical", "objective_args": {"groups": {"a": "cat"}}}, "must be a list of class names"),
        ({"objective": "expected_cost"}, r"needs model\.objective_args\.costs"),
        ({"objective": "expected_cost", "objective_args": {"costs": [[0, 1], [1, 0]]}}, "has 2 rows, and there are 3"),
        ({"objective": "expected_cost", "objective_args": {"costs": [[0, -1], [1, 0]]}}, "cost"),
    ],
)
def test_wrong_settings_tell_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(settings.pop("objective", "cross_entropy"), settings.pop("objective_args", {}), **settings)


@pytest.mark.parametrize("given", [[[1, 2], [3, 4]], [["a"] * 3] * 3, [[0, -1, 0]] * 3])
def test_a_confusion_matrix_has_a_row_for_each_class(given: Any) -> None:
    made = objective("cross_entropy", {}, label_smoothing=0.1, smoothing_confusion=given)
    module = scratch()
    with pytest.raises(UserError, match=r"model\.smoothing_confusion is .*: it needs 3 rows \(true classes\) of 3"):
        made.settle(module, None, CPU)


class Hinge(Objective):
    def loss(self, logits: Tensor, targets: Tensor, batch: Any) -> Tensor:
        return F.multi_margin_loss(logits, targets)


class Mean(Hinge):
    takes_shares = True


@pytest.mark.parametrize(("own", "fits"), [(Hinge, False), (Mean, True), (type("Sub", (Mean,), {}), False)])
def test_an_objective_with_a_loss_of_its_own_says_whether_it_takes_shares(own: type[Objective], fits: bool) -> None:
    module = scratch()
    mixing, plain = SimpleNamespace(mix=Mix(mixup=0.2)), SimpleNamespace(mix=None)
    own().settle(module, plain, CPU)
    if fits:
        own().settle(module, mixing, CPU)
        return
    with pytest.raises(UserError, match=r"data\.mix makes targets shares.*does not declare takes_shares"):
        own().settle(module, mixing, CPU)


class Silent(Hinge):
    """Overrides what prepares it, and does not call the base."""

    def prepare(self, module: Any, data: Any) -> None:
        self.prepared = True


@pytest.mark.parametrize("terms", [{}, {"l2_sp": {}}])
def test_checks_do_not_depend_on_what_prepares_an_objective(terms: dict[str, Any]) -> None:
    module = scratch(objective=f"{__name__}.Silent", terms=terms)
    prepare_objective(module, None, CPU)
    assert any(getattr(part, "prepared", False) for part in module.objective.modules())
    with pytest.raises(UserError, match=r"data\.mix makes targets shares"):
        prepare_objective(module, SimpleNamespace(mix=Mix(mixup=0.2)), CPU)


class Smoothed(CrossEntropy):
    def prepare(self, module: Any, data: Any) -> None:
        pass


def test_smoothing_does_not_depend_on_what_prepares_an_objective() -> None:
    module = scratch(objective=f"{__name__}.Smoothed", label_smoothing=0.2, smoothing_confusion=COSTS)
    prepare_objective(module, None, CPU)
    assert module.objective.spread is not None


@pytest.mark.parametrize("own", ["Hinge", "Silent"])
def test_smoothing_by_confusions_is_refused_with_a_loss_of_its_own(own: str) -> None:
    module = scratch(objective=f"{__name__}.{own}", label_smoothing=0.2, smoothing_confusion=COSTS)
    with pytest.raises(UserError, match=r"model\.smoothing_confusion .*overrides loss.*override losses instead"):
        prepare_objective(module, None, CPU)


def probabilities(logits: Tensor) -> np.ndarray:
    found: np.ndarray = np.exp(log_softmax(logits.double().numpy(), axis=1))
    return found


def test_hierarchical_loss_is_the_sum_by_hand() -> None:
    made = objective("hierarchical", {"groups": GROUPS, "weight": 0.7})
    p, y = probabilities(LOGITS), TARGETS.numpy()
    of_group = np.where(y < 2, p[:, 0] + p[:, 1], p[:, 2])
    expected = np.mean(-np.log(p[np.arange(40), y]) - 0.7 * np.log(of_group))
    assert float(made(LOGITS, TARGETS, None).loss) == pytest.approx(expected, rel=1e-6)


def test_expected_cost_is_the_sum_by_hand() -> None:
    made = objective("expected_cost", {"costs": COSTS, "weight": 0.5, "cross_entropy": 2.0})
    p, y = probabilities(LOGITS), TARGETS.numpy()
    costs = [sum(p[i, j] * COSTS[y[i]][j] for j in range(3)) for i in range(40)]
    expected = np.mean(-2 * np.log(p[np.arange(40), y]) + 0.5 * np.array(costs))
    assert float(made(LOGITS, TARGETS, None).loss) == pytest.approx(expected, rel=1e-6)


def test_groups_of_fashion_mnist_are_known() -> None:
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    spec = {"channels": 1, "storage_size": 16, "image_size": 16}
    made: Any = ScratchClassifier(names, input_spec=spec, objective="hierarchical").objective
    assert made.membership.sum(0).tolist() == [5, 1, 3, 1]


@pytest.mark.parametrize("shares", [False, True])
def test_processes_divide_by_the_weight_of_all_their_targets(shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.nn.functional.one_hot(TARGETS, LOGITS.shape[1]).float() if shares else TARGETS
    made = objective("cross_entropy", {}, class_weights=WEIGHTS)
    whole = made(LOGITS, targets, None).loss
    halves = [slice(0, 1), slice(1, len(TARGETS))]
    total = torch.tensor(WEIGHTS)[TARGETS].sum()
    monkeypatch.setattr("torch.distributed.all_reduce", lambda own: own.copy_(total))
    made.processes = 2
    losses = [made(LOGITS[half], targets[half], None).loss for half in halves]
    assert float(sum(losses) / 2) == pytest.approx(float(whole), rel=1e-5)
    alone = made.eval()(LOGITS[:1], targets[:1], None).loss  # outside of training each process is on its own
    assert float(alone) != pytest.approx(float(losses[0]), rel=1e-3)
