"""A run as a subject of explanations: its test images, its predictions of them, the layer that is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fashion_tl.data.transforms import to_float, visible
from fashion_tl.errors import UserError
from fashion_tl.inspection.channels import Survey, survey
from fashion_tl.inspection.heatmaps import HeatMaps
from fashion_tl.inspection.layers import Target, choose_target, find_targets
from fashion_tl.inspection.opened import OpenedRun
from fashion_tl.inspection.panels import Explained
from fashion_tl.records.record import BROKEN_ARRAYS

Advance = Callable[[int], None]


@dataclass
class Subject:
    """An opened run with the layer that maps are taken from.

    Attributes:
        opened: The run.
        target: The layer.
        batch_size: Images in a batch when the whole test set is run through the network.
    """

    opened: OpenedRun
    target: Target
    batch_size: int = 256

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.opened.module.class_names

    @property
    def label(self) -> str:
        """Name and version of the run."""
        return f"{self.opened.paths.name} version {self.opened.paths.version}"

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """True classes (N,) of the test images."""
        truth: npt.NDArray[np.int64] = self.opened.data.splits["test"].labels.numpy()
        return truth

    @cached_property
    def logits(self) -> npt.NDArray[np.float32]:
        """Logits (N, K) of the test images: as recorded with the run, or computed where they are not."""
        try:
            with np.load(self.opened.paths.logs / "test_predictions.npz") as kept:
                logits, labels = kept["logits"], kept["label"]
            if np.array_equal(labels, self.labels) and logits.shape == (len(self.labels), len(self.class_names)):
                return np.asarray(logits, dtype=np.float32)
        except BROKEN_ARRAYS:
            pass
        return self.survey().logits

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Class probabilities (N, K) of the test images."""
        return torch.from_numpy(self.logits).double().softmax(1).numpy()

    def survey(self, advance: Advance | None = None) -> Survey:
        """Run the whole test set through the network, once."""
        if "surveyed" not in self.__dict__:
            self.__dict__["surveyed"] = survey(self.opened.module, self.target, self._batches(advance))
        found: Survey = self.__dict__["surveyed"]
        return found

    def _batches(self, advance: Advance | None) -> Iterable[Tensor]:
        for images in self.opened.data.in_order("test", self.batch_size):
            yield images
            if advance is not None:
                advance(len(images))

    def images(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Return test images (B, C, H, W), uint8, by their positions in the test set."""
        split = self.opened.data.splits["test"]
        return split.images.__getitems__(split.indices[torch.as_tensor(np.asarray(positions))])[0]

    def first_of_each_class(self, each: int, most: int) -> list[int]:
        """Return the first test images of each of the first classes: nobody chose them."""
        found = [np.flatnonzero(self.labels == label)[:each].tolist() for label in range(len(self.class_names))]
        return [int(position) for of_class in [f for f in found if f][:most] for position in of_class]

    def explain(
        self, heat: HeatMaps, positions: Sequence[int], classes: Sequence[int] | None = None
    ) -> list[Explained]:
        """Explain test images, for the predicted class or for others."""
        names = [f"test image {position}" for position in positions]
        truths = [self.class_names[self.labels[position]] for position in positions]
        return self.explain_images(heat, self.images(positions), names, truths, list(positions), classes)

    def explain_images(
        self,
        heat: HeatMaps,
        images: Tensor,
        names: Sequence[str],
        truths: Sequence[str] | None = None,
        positions: Sequence[int] | None = None,
        classes: Sequence[int] | None = None,
    ) -> list[Explained]:
        """Explain images as held (B, C, H, W)."""
        module = self.opened.module
        with torch.no_grad():
            prepared = module.preprocess(images.to(module.device))
            probabilities = torch.cat([module(part).softmax(1) for part in prepared.split(self.batch_size)])
        sure, guess = probabilities.max(1)
        wanted = guess if classes is None else torch.tensor(classes, device=guess.device)
        maps = heat(module.network, self.target, prepared, wanted).cpu().numpy()
        return [
            Explained(
                name=names[i],
                image=picture(images[i]),
                heat=maps[i],
                truth=None if truths is None else truths[i],
                predicted=self.class_names[guess[i]],
                confidence=float(sure[i]),
                shown=self.class_names[wanted[i]],
                index=None if positions is None else positions[i],
            )
            for i in range(len(images))
        ]


def picture(image: Tensor) -> npt.NDArray[np.float32]:
    """Turn an image (C, H, W), uint8 or 0 to 1, into what is drawn: (H, W) or (H, W, 3), 0 to 1; see `visible`."""
    values = to_float(visible(image[None]))[0]
    drawn: npt.NDArray[np.float32] = (values[0] if len(values) == 1 else values.permute(1, 2, 0)).cpu().numpy()
    return drawn


def subject_of(opened: OpenedRun, stage: str | None, batch_size: int) -> Subject:
    """Find the layer to look at in a run's network.

    Raises:
        UserError: If there is no such stage, or its output is no map.
    """
    module = opened.module.eval()
    module.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    targets = find_targets(module.network, module.preprocess.channels, module.input_spec.image_size)
    return Subject(opened, choose_target(targets, module.network, stage), batch_size)


def check_alike(subjects: Sequence[Subject]) -> None:
    """Raise a UserError unless all runs have the same classes and the same test images."""
    first = subjects[0]
    for other in subjects[1:]:
        if other.class_names != first.class_names:
            raise UserError(
                f"{first.label} and {other.label} have other classes ({_listed(first.class_names)}; "
                f"{_listed(other.class_names)}): only runs on the same classes can be laid side by side. "
                "Explain them one by one."
            )
        if other.opened.data.describe()["test_set"] != first.opened.data.describe()["test_set"]:
            raise UserError(
                f"{first.label} and {other.label} were tested on different images: "
                "only runs on the same test set can be laid side by side. Explain them one by one."
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names)} in all" if len(names) > 5 else "")
