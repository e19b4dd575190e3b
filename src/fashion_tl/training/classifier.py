"""The LightningModule that every classifier shares: one step, one optimizer, phases."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.data.transforms import InputSpec, Preprocess
from fashion_tl.errors import UserError, unknown_name
from fashion_tl.models.staged import BatchNormPolicy, StagedNetwork
from fashion_tl.training.freezing import FreezeUnfreeze
from fashion_tl.training.optimizer import build_optimizer, check_optimizer, group_rates, parameter_groups
from fashion_tl.training.plan import parse_phases, phase_at
from fashion_tl.training.schedules import PhasePlateau, PhaseSchedule, check_schedule, factor

BATCH_NORM = ("train", "affine", "eval")


class ImageClassifier(LightningModule):
    """Trains a staged network to classify images, in one phase or several.

    Args:
        class_names: Names of the K classes, in the order of their labels.
        input_spec: Fields of ``InputSpec``: how the images are held, at which size the network sees them.
        train: What trains: "all", "head", the name of the lowest stage, the number of top stages, or a mapping from
            a phase's first epoch to one of these, such as {0: head, 5: layer4}.
        batch_norm: What BatchNorm does in the trained stages: train, affine (statistics stay) or eval (all stays).
        optimizer: adamw, adam or sgd (with Nesterov momentum).
        lr: Peak learning rate of the head.
        backbone_lr: Peak learning rate of the top stage; the same as lr if not given.
        layer_decay: Factor on the learning rate from each stage to the one below it, 0 to 1.
        weight_decay: Weight decay of matrices and filters; biases and norms have none.
        momentum: Momentum of SGD.
        schedule: cosine (after a warm-up), one_cycle, step, plateau or constant; it begins anew with each phase.
        warmup: Share of a phase in which the rate rises (cosine, one_cycle).
        step_size: Epochs between two drops of the step schedule.
        gamma: Factor of a drop (step, plateau).
        plateau_patience: Epochs without a better validation loss before a drop (plateau).
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016), 0 to 1.
    """

    network: StagedNetwork
    preprocess: Preprocess
    architecture: str
    weights: str
    weights_hash: str | None

    def __init__(
        self,
        class_names: list[str],
        input_spec: dict[str, Any] | None = None,
        train: str | int | dict[int, Any] = "all",
        batch_norm: str = "train",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        backbone_lr: float | None = None,
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        momentum: float = 0.9,
        schedule: str = "cosine",
        warmup: float = 0.1,
        step_size: int = 3,
        gamma: float = 0.1,
        plateau_patience: int = 2,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_optimizer(optimizer, lr)
        check_schedule(schedule)
        _check_ranges(
            backbone_lr=lr if backbone_lr is None else backbone_lr,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
            momentum=momentum,
            warmup=warmup,
            step_size=step_size,
            gamma=gamma,
            plateau_patience=plateau_patience,
            label_smoothing=label_smoothing,
        )
        if batch_norm not in BATCH_NORM:
            raise unknown_name("batch_norm", batch_norm, BATCH_NORM)
        if len(class_names) < 2:
            raise UserError(f"a classifier needs at least 2 classes; got {list(class_names)}.")
        self.class_names = tuple(class_names)
        self.input_spec = InputSpec(**(input_spec or {}))
        self.take_activations(None)
        self.phases = parse_phases(train)
        self.batch_norm = cast(BatchNormPolicy, batch_norm)
        self.optimizer_name, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.lr, self.backbone_lr, self.layer_decay = lr, lr if backbone_lr is None else backbone_lr, layer_decay
        self.schedule, self.plateau_patience, self.gamma = schedule, plateau_patience, gamma
        self.shape = partial(factor, schedule, warmup=warmup, step_size=step_size, gamma=gamma)
        self.label_smoothing = label_smoothing
        self._totals: dict[str, tuple[Tensor, int]] = {}

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - as in nn.Module
        """Set an attribute; Lightning notes 40 times a step which hook it is in, and nn.Module's way is slow."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def use(self, network: StagedNetwork, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take the network and what it expects; called once by each leaf.

        Raises:
            UserError: If a phase names a stage that the network does not have.
        """
        self.network = network.to(memory_format=torch.channels_last)
        self.preprocess = Preprocess(self.input_spec, channels, mean, std)
        for phase in self.phases:
            network.resolve(phase.train)
        self.enter_phase(0)

    def take_activations(self, upper: nn.Module | None) -> None:
        """Compute logits from activations by a part of the network, or from images by all of it (None).

        The part shares the network's parameters, so it is kept out of the module's own children.
        """
        backend = self.__dict__.get("backend")
        if upper is not None and backend is not None:
            upper.compile(backend=backend, dynamic=False)
        self.__dict__["upper"] = upper

    def compile_network(self, backend: str | bool = True) -> None:
        """Compile the network, and later each part of it that trains on activations, with ``torch.compile``.

        Freezing and modes are among what compiled code is checked for, so a change of phase compiles again.

        Args:
            backend: A backend of ``torch.compile``, or True for its default, inductor.

        Raises:
            UserError: If there is no such backend.
        """
        name = backend if isinstance(backend, str) else "inductor"
        backends = torch.compiler.list_backends(exclude_tags=())
        if name not in backends:
            raise unknown_name("compile backend", name, backends, "Set it with --compile.")
        self.__dict__["backend"] = name
        self.network.compile(backend=name, dynamic=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of preprocessed images (B, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def enter_phase(self, index: int) -> None:
        """Freeze and unfreeze as a phase asks."""
        self.network.freeze_below(self.network.resolve(self.phases[index].train), self.batch_norm)

    def enter_phase_of(self, epoch: int) -> None:
        """Freeze and unfreeze as the phase of an epoch asks."""
        self.enter_phase(phase_at(self.phases, epoch))

    def describe_phase(self, index: int) -> str:
        """Say in words what trains in a phase."""
        return self.network.describe(self.network.resolve(self.phases[index].train))

    def _step(self, batch: tuple[Any, Tensor], stage: str) -> tuple[Tensor, Tensor]:
        images, labels = batch
        upper = self.__dict__.get("upper")
        logits = upper(*images) if upper is not None and isinstance(images, tuple) else self(images)
        smoothing = self.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        # Loss, hits and images are summed on the device and logged once an epoch: a step waits for nothing.
        with torch.no_grad():
            hits = (logits.argmax(1) == labels).sum()
            sums = torch.stack([loss.detach().float() * len(labels), hits])
            before, images = self._totals.get(stage, (0.0, 0))
            self._totals[stage] = (before + sums, images + len(labels))
        return loss, logits

    def _log_totals(self, stage: str) -> None:
        """Log the mean loss and the accuracy of an epoch, over all processes."""
        if stage not in self._totals:
            return
        sums, images = self._totals.pop(stage)
        totals = self.trainer.strategy.reduce(torch.cat([sums, sums.new_tensor([images])]), reduce_op="sum")
        loss, accuracy = (totals[:2] / totals[2]).unbind()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/accuracy": accuracy}, on_step=False, on_epoch=True, prog_bar=True
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the training loss of a batch of preprocessed images and labels."""
        loss = self._step(batch, "train")[0]
        if self.trainer.is_last_batch:
            self._log_totals("train")
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget what a stopped epoch has summed up."""
        self._totals.pop("train", None)

    def on_train_epoch_end(self) -> None:
        """Log an epoch that ended early, as with ``max_steps``."""
        self._log_totals("train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Sum up validation loss and accuracy."""
        self._step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log validation loss and accuracy."""
        self._log_totals("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Sum up test loss and accuracy and return logits and labels for the run's record."""
        _, logits = self._step(batch, "test")
        return {"logits": logits, "labels": batch[1]}

    def on_test_epoch_end(self) -> None:
        """Log test loss and accuracy."""
        self._log_totals("test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the class probabilities (B, K) of a batch."""
        return self(batch[0]).softmax(1)  # type: ignore[no-any-return]

    def configure_callbacks(self) -> list[Callback]:
        """Bring the freeze/unfreeze callback along, so that the module needs nothing but a Trainer."""
        return [FreezeUnfreeze()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer over all parameters, and the schedule of its rates."""
        groups = parameter_groups(self.network, self.weight_decay)
        optimizer = build_optimizer(self.optimizer_name, groups, self.lr, self.momentum)
        rates = [
            group_rates(self.network, list(groups), phase, self.lr, self.backbone_lr, self.layer_decay)
            for phase in self.phases
        ]
        if self.schedule == "plateau":
            plateau = PhasePlateau(optimizer, rates, self.gamma, self.plateau_patience)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}
        total, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs or -1
        if self.schedule != "constant" and epochs < 1:
            raise UserError(f"schedule {self.schedule!r} needs an end: set --trainer.max_epochs.")
        batches = float(self.trainer.num_training_batches) / self.trainer.accumulate_grad_batches
        steps_per_epoch = math.ceil(batches) if math.isfinite(batches) else max(1, round(total / max(epochs, 1)))
        schedule = PhaseSchedule(optimizer, self.phases, rates, steps_per_epoch, epochs, self.shape)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this module from the checkpoint alone, as plain values."""
        checkpoint["fashion_tl_module"] = type(self).__name__
        checkpoint["hyper_parameters"] = {**checkpoint.get("hyper_parameters", {}), **self.rebuilding()}

    def rebuilding(self) -> dict[str, Any]:
        """Return the hyperparameters that must differ when a checkpoint is loaded, such as ``pretrained``."""
        return {}


_FROM_ZERO = ("backbone_lr", "weight_decay", "plateau_patience")
_SHARES = ("layer_decay", "momentum", "warmup", "gamma", "label_smoothing")
_RANGES = {**dict.fromkeys(_FROM_ZERO, (0, math.inf)), **dict.fromkeys(_SHARES, (0, 1)), "step_size": (1, math.inf)}


def _check_ranges(**given: float) -> None:
    """Raise one UserError that tells all numbers out of their range."""
    problems = [
        f"model.{name} is {value}, allowed is {_RANGES[name][0]} to {_RANGES[name][1]}"
        for name, value in given.items()
        if not _RANGES[name][0] <= value <= _RANGES[name][1]
    ]
    if problems:
        raise UserError("; ".join(problems) + ".")
