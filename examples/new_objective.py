"""An objective of one's own in a run with its record, named by its class path.

    python examples/new_objective.py

From the shell, in this folder: `fashion-tl fit -c FILE --model.objective new_objective.SymmetricCrossEntropy
--model.objective_args '{reverse: 0.5}'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fashion_tl import fit
from fashion_tl.training.objective import Objective


class SymmetricCrossEntropy(Objective):
    """Cross-entropy plus its reverse, robust to wrong labels (Wang et al. 2019).

    Args:
        class_weights: Weight of each class (K,), or None.
        label_smoothing: Share of the target spread over all classes, 0 to 1.
        reverse: Weight of the reverse cross-entropy, from 0.
        log_zero: What log 0 counts as, below 0.
    """

    def __init__(
        self,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        reverse: float = 1.0,
        log_zero: float = -4.0,
    ) -> None:
        super().__init__(class_weights, label_smoothing)
        self.reverse, self.log_zero = reverse, log_zero

    def loss(self, logits: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - any batch
        """Compute the mean loss () of logits (B, K) and targets (B,)."""
        forward = F.cross_entropy(logits, targets, self.class_weights, label_smoothing=self.label_smoothing)
        others = 1 - logits.softmax(1).gather(1, targets.unsqueeze(1))
        return forward - self.reverse * self.log_zero * others.mean()


def main(folder: Path = Path()) -> float:
    """Train a small CNN on synthetic garments; returns its test accuracy."""
    run = fit(
        {
            "name": "symmetric",
            "log_dir": str(folder / "lightning_logs"),
            "checkpoint_dir": str(folder / "checkpoints"),
            "data": {
                "source": {"class_path": "SyntheticGarments", "init_args": {"num_train": 400, "num_test": 100}},
                "batch_size": 32,
            },
            "model": {
                "class_path": "ScratchClassifier",
                "init_args": {
                    "objective": "new_objective.SymmetricCrossEntropy",
                    "objective_args": {"reverse": 0.5},
                    "lr": 0.003,
                },
            },
            "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        }
    )
    return float(run.test["accuracy"])


if __name__ == "__main__":
    print(f"test accuracy {main():.3f}")
