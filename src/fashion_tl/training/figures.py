"""Figures while training, by torchmetrics, right over several processes: log loss, accuracies and macro F1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassStatScores
from torchmetrics.utilities.distributed import gather_all_tensors

SAMPLES = 8192  # a metric's update costs the same for one batch and for many


class TrainingFigures(nn.Module):
    """Mean loss and accuracy of a training epoch; a step only keeps what its objective said.

    The metrics are updated once, at the end of the epoch: nothing in a step waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict({"loss": MeanMetric(), "accuracy": MeanMetric()})
        self._kept: list[tuple[Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, correct: Tensor, count: int) -> None:
        """Keep the loss and the correct samples of a batch."""
        self._kept.append((loss.detach(), correct, count))

    def reset(self) -> None:
        """Begin an epoch."""
        self._kept.clear()
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator] # nn.Module

    def flush(self) -> None:
        """Bring the metrics up to date."""
        if not self._kept:
            return
        losses, correct, counts = zip(*self._kept, strict=True)
        weights = torch.tensor(counts, dtype=torch.float32, device=losses[0].device)
        self.metrics["loss"].update(torch.stack(losses).float(), weights)  # type: ignore[operator]
        self.metrics["accuracy"].update(torch.stack(correct).float() / weights, weights)  # type: ignore[operator]
        self._kept.clear()

    def final(self, stage: str) -> dict[str, Metric]:
        """Return the metrics to log, by name."""
        self.flush()
        return {f"{stage}/{name}": metric for name, metric in self.metrics.items()}  # type: ignore[misc]

    def kept(self) -> list[Tensor]:
        """Return what a checkpoint in the middle of an epoch keeps, of each of P processes; all of them call this.

        Returns:
            Losses, correct samples and samples of each batch (P, batches); nothing between two epochs.
        """
        if not self._kept:
            return []
        losses, correct, counts = zip(*self._kept, strict=True)
        own = [torch.stack(losses), torch.stack(correct), torch.tensor(counts, device=losses[0].device)]
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        return [torch.stack(gather_all_tensors(each) if several else [each]).cpu() for each in own]

    def restore(self, kept: list[Tensor], rank: int, device: torch.device) -> None:
        """Go on from the batches that a process has seen before a checkpoint."""
        self.reset()
        if kept and rank < len(kept[0]):
            losses, correct, counts = (each[rank].to(device) for each in kept)
            self._kept = list(zip(losses, correct, counts.tolist(), strict=True))


class BalancedAccuracy(MulticlassStatScores):
    """Mean recall over the classes that occur; torchmetrics' own counts one that is predicted alone as 0.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, average="none", validate_args=False)

    def compute(self) -> Tensor:
        """Return the mean as a scalar; 0 without any sample."""
        correct, *_, actual = super().compute().unbind(-1)
        occurs = actual > 0
        recalls = correct[occurs] / actual[occurs]
        return recalls.mean() if len(recalls) else recalls.sum()


class EvaluationFigures(nn.Module):
    """Log loss in nats, accuracy, balanced accuracy and macro F1 of an evaluation.

    Args:
        classes: Number of classes K.

    Attributes:
        used: Whether the evaluation has given any batch; a step of a subclass may count figures of its own instead.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
                "balanced_accuracy": BalancedAccuracy(classes),
                "macro_f1": MulticlassF1Score(classes, average="macro", validate_args=False),
            }
        )
        self.used = False
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._samples = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take the logits (B, K) of a batch and its classes (B,)."""
        self.used = True
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        self._kept.append((losses, logits.argmax(1), labels))
        self._samples += len(labels)
        if self._samples >= SAMPLES:
            self.flush()

    def reset(self) -> None:
        """Begin an evaluation; what one that broke off has left is dropped."""
        self.used = False
        self._kept.clear()
        self._samples = 0
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator]

    def flush(self) -> None:
        """Bring the metrics up to date."""
        if not self._kept:
            return
        losses, predicted, labels = (torch.cat(tensors) for tensors in zip(*self._kept, strict=True))
        if len(labels):
            self.metrics["loss"].update(losses)  # type: ignore[operator]
            for name in ("accuracy", "balanced_accuracy", "macro_f1"):
                self.metrics[name].update(predicted, labels)  # type: ignore[operator]
        self._kept.clear()
        self._samples = 0

    def final(self, stage: str) -> dict[str, Metric]:
        """Return the metrics to log, by name."""
        self.flush()
        return {f"{stage}/{name}": metric for name, metric in self.metrics.items()}  # type: ignore[misc]
