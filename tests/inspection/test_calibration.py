"""Calibrations: the choice between two scalings, the file beside the checkpoint, and its application."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from fashion_tl.errors import UserError
from fashion_tl.inspection.calibration import (
    ALL_RIGHT,
    BY_LOSS,
    SIDECAR,
    TOO_FEW,
    digest,
    fit_calibration,
    load_calibration,
    read_calibration,
    write_calibration,
)
from fashion_tl.inspection.calibration_analysis import add_calibration
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.predictions import Predictions

NAMES = ("a", "b", "c")


def predictions(scale: object = 1.0, bias: object = 0.0, images: int = 3000, seed: int = 0) -> tuple[Floats, Ints]:
    """Logits whose calibrated form is ``(logits - bias) / scale``."""
    generator = np.random.default_rng(seed)
    true = generator.normal(size=(images, 3)) * 2
    labels = (true + generator.gumbel(size=true.shape)).argmax(1)
    return true * np.asarray(scale) + np.asarray(bias), labels


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"weights")
    return path


def test_a_temperature_is_chosen_where_nothing_else_is_wrong() -> None:
    found = fit_calibration(*predictions(2.5), "x", NAMES)
    assert found.method == "temperature"
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    assert found.losses["temperature"] < found.losses["unscaled"]


def test_vector_scaling_is_chosen_where_classes_differ() -> None:
    found = fit_calibration(*predictions([1.0, 2.0, 0.5], [1.0, -2.0, 0.0]), "x", NAMES)
    assert found.method == "vector"
    assert found.losses["vector"] < found.losses["temperature"]
    assert np.array(found.scale) == pytest.approx([1.0, 0.5, 2.0], rel=0.15)


def test_losses_are_measured_on_images_that_were_not_seen() -> None:
    # Labels by chance: on its own images vector scaling would seem to help, on others it cannot.
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(60, 3)), np.arange(60) % 3
    assert fit_calibration(logits, labels, "x", NAMES).losses["vector"] > np.log(3)


def test_few_images_take_the_temperature() -> None:
    few = predictions(2.0, images=12)
    found = fit_calibration(*few, "x", NAMES)
    assert (found.method, found.losses) == ("temperature", {})


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_the_file_applies_what_was_fitted(checkpoint, method) -> None:
    given = predictions(2.0) if method == "temperature" else predictions([1.0, 3.0, 0.5], [1.0, -3.0, 0.0])
    found = fit_calibration(*given, digest(checkpoint), NAMES)
    assert found.method == method
    assert write_calibration(checkpoint, found) == checkpoint.with_name(SIDECAR)
    assert read_calibration(checkpoint) == found
    logits = predictions(seed=3)[0]
    direct = logits / found.temperature if method == "temperature" else logits * found.scale + found.bias
    assert load_calibration(checkpoint)(logits) == pytest.approx(softmax(direct, axis=1), abs=1e-12)
    assert list(checkpoint.parent.glob(".*")) == []


def test_another_checkpoint_is_refused(checkpoint) -> None:
    write_calibration(checkpoint, fit_calibration(*predictions(), digest(checkpoint), NAMES))
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(UserError, match="another checkpoint"):
        load_calibration(checkpoint)


def test_a_missing_calibration_names_the_command(checkpoint) -> None:
    assert read_calibration(checkpoint) is None
    with pytest.raises(UserError, match="fashion-tl diagnose"):
        load_calibration(checkpoint)


@pytest.mark.parametrize(
    "change", [{"method": "magic"}, {"scale": [1.0]}, {"temperature": 0.0}, {"temperature": "hot"}, {"more": 1}, None]
)
def test_a_damaged_file_is_one_clear_error(checkpoint, change) -> None:
    path = write_calibration(checkpoint, fit_calibration(*predictions(), digest(checkpoint), NAMES))
    content = json.loads(path.read_text())
    path.write_text("{" if change is None else json.dumps({**content, **change}))
    with pytest.raises(UserError, match="damaged"):
        load_calibration(checkpoint)


def test_logits_of_other_classes_are_refused(checkpoint) -> None:
    write_calibration(checkpoint, fit_calibration(*predictions(), digest(checkpoint), NAMES))
    for wrong in (np.zeros((4, 2)), np.zeros(3)):
        with pytest.raises(UserError, match=r"calibrated for \(N, 3\)"):
            load_calibration(checkpoint)(wrong)


def test_logits_that_no_scaling_helps_stay_as_they_are(checkpoint) -> None:
    # Separable but for one image: whoever does not see it puts all its trust in the others.
    labels = np.arange(60) % 3
    logits = 4.0 * np.eye(3)[labels]
    logits[0] = [0.0, 4.0, 0.0]
    found = fit_calibration(logits, labels, digest(checkpoint), NAMES)
    assert found.losses["unscaled"] < found.losses["temperature"]
    assert found.method == "unscaled"
    write_calibration(checkpoint, found)
    probabilities = load_calibration(checkpoint)(logits)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-12)


def test_images_that_are_all_classified_right_do_not_make_a_model_surer() -> None:
    logits = np.eye(3)[np.arange(30) % 3] * 4.0
    found = fit_calibration(logits, np.arange(30) % 3, "x", NAMES)
    assert (found.method, found.temperature) == ("unscaled", 1.0)
    assert np.array_equal(found.apply(logits), logits)


@pytest.mark.parametrize(
    ("each", "wrong", "method", "reason"),
    [
        (10, 5, None, BY_LOSS),
        (3, 0, "unscaled", ALL_RIGHT),  # too few as well
        (10, 0, "unscaled", ALL_RIGHT),
        (3, 1, "temperature", TOO_FEW),
    ],
)
def test_the_reason_of_the_choice_is_told_wherever_the_choice_is(
    checkpoint, each: int, wrong: int, method: str | None, reason: str
) -> None:
    labels = np.arange(3 * each) % 3
    logits = 3.0 * np.eye(3)[(labels + (np.arange(3 * each) < wrong)) % 3]
    fitted = fit_calibration(logits, labels, digest(checkpoint), NAMES)
    assert method in (None, fitted.method)
    write_calibration(checkpoint, fitted)
    found = read_calibration(checkpoint)
    assert found is not None
    assert (found.method, found.reason) == (fitted.method, reason)
    analysis = Analysis("diagnose")
    add_calibration(analysis, Predictions(np.arange(len(labels)), labels, logits), found)
    (table,) = [table for table in analysis.tables if table["caption"].startswith("Scalings")]
    assert table["caption"].endswith(f"validation images, chosen: {found.method} ({reason})")
    assert [row[0] for row in table["rows"] if row[-1] == "yes"] == [found.method]


def test_a_file_of_an_earlier_version_holds_no_reason(checkpoint) -> None:
    path = write_calibration(checkpoint, fit_calibration(*predictions(), digest(checkpoint), NAMES))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in ("reason", "sha256")}))
    found = read_calibration(checkpoint)
    assert found is not None
    assert found.reason == ""


def test_few_validation_images_do_not_spoil_a_model_that_is_calibrated() -> None:
    def drawn(images: int, seed: int) -> tuple[Floats, Ints]:
        generator = np.random.default_rng(seed)
        logits = np.eye(3)[np.arange(images) % 3] * generator.normal(7, 1, size=(images, 1))
        return logits, (logits + generator.gumbel(size=logits.shape)).argmax(1)

    def loss(logits: Floats, labels: Ints) -> float:
        return float(-np.log(softmax(logits, axis=1)[np.arange(len(labels)), labels]).mean())

    many, truth = drawn(20_000, 99)
    plain = loss(many, truth)
    assert 0.001 < (many.argmax(1) != truth).mean() < 0.01
    after = [loss(fit_calibration(*drawn(99, seed), "x", NAMES).apply(many), truth) for seed in range(40)]
    assert max(after) < 2 * plain  # with a temperature of 0.01 it would be 60 times as much
