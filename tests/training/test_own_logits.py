"""A subclass may compute its logits in a way of its own: all that opens it later gets the same, or refuses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fashion_tl.combine.classifier import Part, ensemble_of
from fashion_tl.errors import UserError
from fashion_tl.export.network import plain_network
from fashion_tl.inspection.inference import classify, classify_many, infer
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.objectives import distillation
from fashion_tl.training.scratch import ScratchClassifier


class OwnForward(ScratchClassifier):
    def forward(self, images: Tensor) -> Tensor:
        return 3 * super().forward(images)


class OwnLogits(ScratchClassifier):
    def logits(self, inputs: Any) -> Tensor:
        return 3 * super().logits(inputs)


class Hooked(ScratchClassifier):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_forward_hook(lambda module, inputs, output: 3 * output)


def built(kind: type[ScratchClassifier]) -> ScratchClassifier:
    torch.manual_seed(0)
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    return kind(["a", "b", "c"], input_spec=spec, network="plain", network_args={"widths": [3, 4]}).eval()


OWN = pytest.mark.parametrize("kind", [OwnForward, OwnLogits, Hooked])
IMAGES = torch.arange(5 * 28 * 28).reshape(5, 1, 28, 28).remainder(251).byte()


@OWN
def test_logits_are_the_same_wherever_they_are_computed(kind: type[ScratchClassifier]) -> None:
    module, cpu = built(kind), torch.device("cpu")
    with torch.no_grad():
        expected = 3 * built(ScratchClassifier).logits(IMAGES)
        step = module.test_step((IMAGES, torch.zeros(5, dtype=torch.long)), 0)["logits"]
    found = {
        "the test step": step,
        "classify": classify(module, IMAGES),
        "classify_many": classify_many(module, len(IMAGES), len(IMAGES))(IMAGES),
        "infer": torch.from_numpy(infer(module, [IMAGES])[0]),
        "a teacher": distillation._logits(module, IMAGES, cpu),
    }
    for name, logits in found.items():
        torch.testing.assert_close(logits, expected, msg=name)


@OWN
def test_what_takes_the_network_alone_refuses_it(kind: type[ScratchClassifier]) -> None:
    module: ImageClassifier = built(kind)
    assert not module.is_plain
    with pytest.raises(UserError, match=f"{kind.__name__} computes its logits in a way of its own"):
        plain_network(module, preprocessing=True)
    why = ensemble_of([Part(module, {"identity": 1})])
    assert isinstance(why, str)
    assert "in a way of its own" in why


def test_a_subclass_that_leaves_logits_alone_is_plain() -> None:
    class Quiet(ScratchClassifier):
        def on_train_epoch_end(self) -> None:
            """Nothing."""

    assert built(Quiet).is_plain
    assert built(ScratchClassifier).is_plain
