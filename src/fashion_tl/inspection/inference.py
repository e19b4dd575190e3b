"""What a run's classifier gives: logits, and the outputs of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fashion_tl.errors import UserError
from fashion_tl.features.inference import Inference
from fashion_tl.inspection.calibration import digest
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.metrics.checks import check_scores
from fashion_tl.records.analysis import write_arrays
from fashion_tl.records.predictions import Predictions, read_arrays, read_predictions
from fashion_tl.training.classifier import ImageClassifier

VALIDATION = "val_predictions.npz"
FULL = ("32-true", "64-true")  # precisions in which logits do not depend on the device beyond rounding
# A layer, and what to keep of its output.
Reader = tuple[nn.Module, Callable[[Tensor], Tensor]]


def classify(module: ImageClassifier, images: Tensor) -> Tensor:
    """Compute logits (B, K), float32, of images as stored.

    Args:
        module: A classifier; it is used in eval mode, on its device.
        images: Images (B, C, H, W), uint8 or float in 0 to 1.
    """
    module.eval()
    with torch.inference_mode():
        return module.logits(images.to(module.device)).float()


class _Logits(nn.Module):
    """A network as the one part of a chain."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


def classify_many(module: ImageClassifier, images: int, batch_size: int) -> Callable[[Tensor], Tensor]:
    """Return ``classify`` for many batches, whose network is folded or compiled where that pays.

    See ``features.inference.Inference``: logits are those of eager mode but for rounding. A classifier with logits of
    its own is left as it is.

    Args:
        module: A classifier; it is used in eval mode, on its device, and must stay as it is.
        images: Images to come, in all.
        batch_size: Images of a full batch.
    """
    if not module.is_plain:
        return partial(classify, module)
    run = Inference([_Logits(module.eval().network)], images, batch_size)

    def classified(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            ((logits,),) = run(module.preprocess(batch.to(module.device)))
            return logits.float()

    return classified


def infer(
    module: ImageClassifier, batches: Iterable[Tensor], readers: Mapping[str, Reader] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Classify images batch by batch, and read layers on the way.

    Args:
        module: A classifier; it is used in eval mode, on its device.
        batches: Images as stored (B, C, H, W).
        readers: Layers to read, by any name.

    Returns:
        Logits (N, K), and what each reader has kept (N, ...), both float32. A layer without a tensor is left out.
    """
    logits, kept = [], []
    with reading(readers or {}) as outputs:
        for images in batches:
            logits.append(classify(module, images).cpu())
            kept.append({name: value.float().cpu() for name, value in outputs.items()})
    names = [name for name in readers or {} if name in kept[0]]
    return torch.cat(logits).numpy(), {name: torch.cat([row[name] for row in kept]).numpy() for name in names}


@contextmanager
def reading(readers: Mapping[str, Reader]) -> Iterator[dict[str, Tensor]]:
    """Keep, by name, what readers take of the last outputs of their layers.

    A reader must copy or reduce the output, since a later layer may overwrite it in place.
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str, take: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, object, object], None]:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                outputs[name] = take(output)

        return keep

    handles = [layer.register_forward_hook(hook(name, take)) for name, (layer, take) in readers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def recorded_predictions(run: OpenedRun) -> Predictions:
    """Read the logits of the test from a run's record.

    Raises:
        UserError: If the file is missing or damaged, or belongs to other classes or images.
    """
    try:
        found = read_predictions(run.paths.logs, run.record, len(run.class_names))
        if not np.array_equal(found.labels, run.labels):
            tested, images = len(found.labels), len(run.labels)
            if tested < images:
                raise UserError(
                    f"it was tested on {tested:,} of {images:,} images (trainer.limit_test_batches), and all are needed"
                )
            raise UserError("test_predictions.npz is of other test images")
    except UserError as error:
        raise UserError(f"{run.paths.logs}: {error}. Train and test the run again.") from error
    return found


def validation_predictions(run: OpenedRun, batch_size: int) -> Predictions:
    """Compute the logits of the validation images, float64, or read those that were kept.

    ``val_predictions.npz`` beside the record holds index (N,) into the source's images, label (N,), logits (N, K), and
    the hash of the checkpoint: logits of another one are computed again.

    Raises:
        UserError: If a logit is not finite.
    """
    path, checkpoint = run.paths.logs / VALIDATION, digest(run.paths.best)
    split = run.data.splits["val"]
    index, labels, logits = split.indices.numpy(), split.labels.numpy(), None
    try:
        kept_index, kept_logits, of = read_arrays(path, "index", "logits", "checkpoint")
        same = str(of) == checkpoint and np.array_equal(kept_index, index)
        logits = kept_logits if same and kept_logits.shape == (len(index), len(run.class_names)) else None
    except UserError:  # missing or damaged
        pass
    if logits is None:
        batches = run.data.in_order("val", batch_size)
        logits, _ = infer(run.module, tracked(batches, "validation images", len(split)))
        arrays = {"index": index, "label": labels, "logits": logits, "checkpoint": np.array(checkpoint)}
        write_arrays(path, arrays)
    return Predictions(index, labels, check_scores(logits, labels)[0])


def tracked(batches: Iterable[Tensor], what: str, total: int) -> Iterator[Tensor]:
    """Yield batches, counting their images on a progress bar."""
    with progress(what, total) as advance:
        for images in batches:
            yield images
            advance(len(images))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; yields what is called with the number done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
