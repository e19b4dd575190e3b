"""Images with a run's prediction and saliency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.inspection.inference import Reader, classify, infer, recorded_predictions, tracked
from fashion_tl.inspection.layers import Target, choose_target, find_targets
from fashion_tl.inspection.run import OpenedRun, picture
from fashion_tl.inspection.saliency import METHODS, Saliency, saliency_method
from fashion_tl.metrics.metrics import Floats, softmax
from fashion_tl.models.staged import HEAD
from fashion_tl.plots.style import CORRECT, INK, WRONG
from fashion_tl.plots.tiles import Picture

SCALE_NOTE = "Bright: strongest evidence for the class in this image; dark: none."
PEAKS, MAPS = "peaks", "maps"


@dataclass(frozen=True)
class ExplainedImage:
    """An image, its prediction, and the saliency of a class.

    Attributes:
        name: What to call the image, such as "test image 17".
        image: Grey (H, W) or colour (H, W, 3), 0 to 1.
        saliency: Saliency (h, w), 0 to 1, of the predicted class or another one.
        truth: Name of the true class, if known.
        predicted: Name of the predicted class.
        confidence: Its probability, 0 to 1.
        index: Position in the test set, if it is of it.
    """

    name: str
    image: Picture
    saliency: Picture
    truth: str | None
    predicted: str
    confidence: float
    index: int | None = None

    @property
    def verdict(self) -> str:
        """Prediction and confidence, with a sign where the truth is known."""
        sign = "" if self.truth is None else "✓ " if self.truth == self.predicted else "✗ "
        return f"{sign}{self.predicted} {self.confidence:.2f}"

    @property
    def ink(self) -> str:
        """Colour of the verdict."""
        return INK if self.truth is None else CORRECT if self.truth == self.predicted else WRONG

    def figures(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "test image": self.index,
            "true": self.truth,
            "predicted": self.predicted,
            "confidence": self.confidence,
            "map": bool(self.saliency.any()),
        }


@dataclass(frozen=True)
class ExplainedRun:
    """An opened run, how its saliency is computed, and at which layer.

    Attributes:
        run: The run.
        target: The layer.
        method: One of ``METHODS``.
        batch_size: Images in a batch.
    """

    run: OpenedRun
    target: Target
    method: str
    batch_size: int

    @cached_property
    def activations(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (N, K) of the test images, the target's "peaks" (N, C) and what the "head" gets (N, F), float32."""
        backbone = self.run.module.network.backbone
        peaks: Reader = (self.target.module, lambda output: self.target.fold(output).amax((2, 3)))
        readers = {PEAKS: peaks, HEAD: (backbone, lambda output: output.clone())}
        batches = self.run.data.in_order("test", self.batch_size)
        return infer(self.run.module, tracked(batches, "test images", len(self.run.labels)), readers)

    @cached_property
    def probabilities(self) -> Floats:
        """Class probabilities (N, K) of the test images: as recorded, or computed where they are not."""
        try:
            return softmax(recorded_predictions(self.run).logits)
        except UserError:
            return softmax(self.activations[0])

    @cached_property
    def saliency(self) -> Saliency:
        """What computes the maps."""
        return saliency_method(self.method, self.run.module)

    def activation_maps(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Compute the target's map (B, C, side, side) of test images."""
        reader: Reader = (self.target.module, lambda output: self.target.fold(output).clone())
        return infer(self.run.module, [self.run.images(positions)], {MAPS: reader})[1][MAPS]

    def first_of_each_class(self, each: int, most: int) -> list[int]:
        """Return the first test images of each of the first classes: nobody chose them."""
        classes = range(len(self.run.class_names))
        found = [np.flatnonzero(self.run.labels == label)[:each].tolist() for label in classes]
        return [int(position) for of_class in [f for f in found if f][:most] for position in of_class]

    def explain(self, positions: Sequence[int], classes: Sequence[int] | None = None) -> list[ExplainedImage]:
        """Explain test images, for the predicted class or for others."""
        names = [f"test image {position}" for position in positions]
        truths = [self.run.class_names[self.run.labels[position]] for position in positions]
        return self.explain_images(self.run.images(positions), names, truths, positions, classes)

    def explain_images(
        self,
        images: Tensor,
        names: Sequence[str],
        truths: Sequence[str] | None = None,
        positions: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
    ) -> list[ExplainedImage]:
        """Explain images as stored (B, C, H, W)."""
        module, labels = self.run.module, self.run.class_names
        logits = torch.cat([classify(module, some) for some in torch.split(images, self.batch_size)])
        sure, guess = logits.softmax(1).max(1)
        wanted = guess if classes is None else torch.tensor(classes, device=guess.device)
        with torch.no_grad():
            prepared = module.preprocess(images.to(module.device))
        maps = self.saliency(module.network, self.target, prepared, wanted).cpu().numpy()
        return [
            ExplainedImage(
                name=names[i],
                image=picture(images[i]),
                saliency=maps[i],
                truth=None if truths is None else truths[i],
                predicted=labels[guess[i]],
                confidence=float(sure[i]),
                index=None if positions is None else positions[i],
            )
            for i in range(len(images))
        ]

    @property
    def layer(self) -> str:
        """The layer in words."""
        target = self.target
        return (
            f"Stage {target.stage} (layer {target.name}): {target.channels} channels of {target.side} x {target.side}."
        )

    @property
    def note(self) -> str:
        """What the maps are, in words."""
        layer = f" {self.layer}" if self.method == "grad_cam" else ""
        return f"{METHODS[self.method]} of the predicted class.{layer} {SCALE_NOTE}"

    def layer_figures(self) -> dict[str, Any]:
        """Return the layer as plain values."""
        target = self.target
        return {"stage": target.stage, "layer": target.name, "channels": target.channels, "side": target.side}


def prepare(run: OpenedRun, stage: str | None, method: str, batch_size: int) -> ExplainedRun:
    """Choose the layer of a run's network that is explained.

    Raises:
        UserError: If there is no such stage, or its output is no map.
    """
    module = run.module
    targets = find_targets(module.network, module.preprocess.channels, module.input_spec.image_size)
    return ExplainedRun(run, choose_target(targets, module.network, stage), method, batch_size)


def check_same_test(runs: Sequence[OpenedRun]) -> None:
    """Raise a UserError unless all runs have the same classes and the same test images."""
    first = runs[0]
    for other in runs[1:]:
        wrong = None
        if other.class_names != first.class_names:
            wrong = f"have other classes ({_listed(first.class_names)}; {_listed(other.class_names)})"
        elif other.data.describe()["test_set"] != first.data.describe()["test_set"]:
            wrong = "were tested on different images"
        if wrong:
            raise UserError(f"{first.label} and {other.label} {wrong}: explain them one by one.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names)} in all" if len(names) > 5 else "")
