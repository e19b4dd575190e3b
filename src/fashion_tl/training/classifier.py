"""The LightningModule that every classifier shares: one step, one objective, one plan."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from types import FrameType
from typing import Any, Self, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.parsing import collect_init_args
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from fashion_tl.data.batches import pair_of
from fashion_tl.data.transforms import InputSpec, Preprocess
from fashion_tl.errors import UserError, check_known, check_ranges
from fashion_tl.imports import class_path
from fashion_tl.models.selection import SHORTCUTS, TrainSpec, entries_of
from fashion_tl.models.staged import BatchNormPolicy, StagedNetwork
from fashion_tl.training.checkpoints import verify
from fashion_tl.training.divergence import DivergenceGuard
from fashion_tl.training.figures import EvaluationFigures, TrainingFigures
from fashion_tl.training.freezing import FreezeUnfreeze
from fashion_tl.training.hooks import ClassifierHooks
from fashion_tl.training.objective import (
    BALANCED,
    balanced_weights,
    check_balanced_once,
    make_objective,
    prepare_objective,
)
from fashion_tl.training.optimizer import build_optimizer, check_optimizer, group_rates, parameter_groups
from fashion_tl.training.plan import Plan, Schedule, parse_phases
from fashion_tl.training.progress import progress_of
from fashion_tl.training.schedules import PlanSchedule
from fashion_tl.training.seen import Seen

BATCH_NORM = ("train", "affine", "eval")
_RANGES = {  # lowest and highest value
    **dict.fromkeys(("backbone_lr", "weight_decay", "plateau_patience"), (0, math.inf)),
    **dict.fromkeys(("layer_decay", "momentum", "warmup", "gamma", "label_smoothing"), (0, 1)),
    "step_size": (1, math.inf),
}


class ImageClassifier(LightningModule):
    """Trains a staged network to classify images, in one phase or several.

    A subclass may override Lightning's hooks, without ``super()`` too: what it does at them itself is done by callbacks
    that it brings along. In ``on_save_checkpoint`` and ``on_load_checkpoint`` it calls those here.

    Batches are images (B, C, H, W), uint8 or float in 0 to 1, with classes (B,), from any loader; the module brings
    them to what its network expects. A subclass of the leaves that changes what becomes of images may declare
    ``caches_features`` again, else features are not cached.

    Args:
        class_names: Names of the K classes, in the order of their labels.
        input_spec: Fields of ``InputSpec``: how the images are stored, at which size the network sees them.
        train: What trains: "all", "head", the name of the lowest stage, the number of top stages; norms, biases or
            lora (each with the head); or a list of stages and shell patterns over parameters, [blocks.1, "*.bn*",
            head], which trains nothing else. Or a mapping from a phase's first epoch to one of these, such as
            {0: head, 5: layer4}; {0: {train: head, until: plateau, patience: 2}, 10: layer4} ends a phase early.
        batch_norm: What BatchNorm does where it trains: train, affine (statistics stay) or eval (all stays).
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
        plateau_patience: Validations without a better loss before a drop (plateau).
        objective: cross_entropy, focal, hierarchical, expected_cost, or the class path of a subclass of ``Objective``.
        objective_args: Arguments of the objective, such as {gamma: 2}.
        class_weights: Weight of each class in the objective, or balanced: by the inverse of its share of the training
            images.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016), 0 to 1.
        smoothing_confusion: Spreads it over the classes that a class is confused with instead: a run's name or
            checkpoint, whose mistakes on the validation images tell, or a confusion matrix of K rows.
        terms: What is added to the objective, with its arguments: l2_sp, distillation, auxiliary, or the class path of
            a subclass of ``Term``; such as {l2_sp: {alpha: 0.1}}.

    Attributes:
        figures: What validation logs, and ``--monitor`` takes; a subclass that logs more adds to it.
        always: Hyperparameters that a checkpoint sets whatever the class was given.
        given: The arguments that the module was built with.
        origins: What other weights have seen that this run starts from or learns from, by how a message names them.
        cache_folder: Where what an objective computes once, such as what teachers say, is kept for other runs; None for
            nowhere.
    """

    figures: tuple[str, ...] = ("val/accuracy", "val/loss", "val/balanced_accuracy", "val/macro_f1")
    always: tuple[str, ...] = ()
    given: dict[str, Any]
    network: StagedNetwork
    preprocess: Preprocess
    architecture: str
    weights: str
    weights_hash: str | None
    head_hash: str | None = None

    def __init_subclass__(cls, **settings: Any) -> None:  # noqa: ANN401 - those of any class
        """Have a subclass that overrides a hook keep what the hook is there for.

        Raises:
            UserError: If it overrides one that only it can complete, and does not.
        """
        super().__init_subclass__(**settings)
        if own := vars(cls).get("configure_callbacks"):
            cls.configure_callbacks = _completed(own)  # type: ignore[method-assign, assignment]
        for name in {"on_save_checkpoint", "on_load_checkpoint"} & vars(cls).keys():
            code = getattr(inspect.unwrap(vars(cls)[name]), "__code__", None)
            if code is not None and name not in code.co_names:
                raise UserError(
                    f"{cls.__name__} overrides {name} without calling it, so that its checkpoints would lack what "
                    f"rebuilds it: call super().{name}(checkpoint) in it."
                )

    def __init__(
        self,
        class_names: list[str],
        input_spec: dict[str, Any] | None = None,
        train: str | int | list[str | int] | dict[Any, Any] = "all",
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
        objective: str = "cross_entropy",
        objective_args: dict[str, Any] | None = None,
        class_weights: list[float] | str | None = None,
        label_smoothing: float = 0.0,
        smoothing_confusion: str | list[list[float]] | None = None,
        terms: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # What the outermost class was built with: that, and no choice of a class between, builds it again.
        self.given = collect_init_args(cast(FrameType, inspect.currentframe()), [], classes=(ImageClassifier,))[-1]
        self.save_hyperparameters(self.given)
        check_optimizer(optimizer, lr)
        backbone_lr = lr if backbone_lr is None else backbone_lr
        shape = Schedule(schedule, warmup, step_size, gamma, plateau_patience)
        numbers = {
            "backbone_lr": backbone_lr,
            "layer_decay": layer_decay,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "warmup": warmup,
            "step_size": step_size,
            "gamma": gamma,
            "plateau_patience": plateau_patience,
            "label_smoothing": label_smoothing,
        }
        check_ranges({name: (value, *_RANGES[name]) for name, value in numbers.items()}, "model.")
        check_known("batch_norm", batch_norm, BATCH_NORM)
        if len(class_names) < 2:
            raise UserError(f"a classifier needs at least 2 classes; got {list(class_names)}.")
        self.class_names = tuple(class_names)
        self.input_spec = InputSpec(**(input_spec or {}))
        self.plan = Plan(
            phases=parse_phases(train),
            schedule=shape,
            lr=lr,
            backbone_lr=backbone_lr,
            layer_decay=layer_decay,
            batch_norm=batch_norm,
            optimizer=optimizer,
            weight_decay=weight_decay,
            momentum=momentum,
        )
        self.class_weights = class_weights
        self._balanced = class_weights == BALANCED
        self.objective = make_objective(
            objective, len(class_names), class_weights, label_smoothing, objective_args, terms, smoothing_confusion
        )
        self.origins: dict[str, Seen] = {}
        self.cache_folder: Path | None = None
        self._seen = Seen()
        self.training_figures = TrainingFigures()
        self.validation_figures = EvaluationFigures(len(class_names))
        self.test_figures = EvaluationFigures(len(class_names))
        # In a tuple: the upper part shares the network's parameters and must not be registered a second time.
        self._upper: tuple[nn.Module, ...] = ()
        self._compile_backend: str | None = None
        self._losses: Mapping[int, float] = {}
        self._followed: Plan | None = None
        self._bounded: tuple[tuple[Any, ...], Plan] | None = None
        self._logged = False

    def build(self, network: StagedNetwork, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take the network and what it expects; called once by each leaf.

        Raises:
            UserError: If a phase names what the network does not have, or what cannot train.
        """
        self.network = network.to(memory_format=torch.channels_last)
        self.preprocess = Preprocess(self.input_spec, channels, mean, std)
        self.objective.attach(self)
        for phase in self.plan.phases:
            self._check_trained(phase.train)
        self.enter_phase(0)

    def _check_trained(self, spec: TrainSpec) -> None:
        """Refuse what the network does not have, and what the policy of BatchNorm would keep from training."""
        self.network.select(spec)
        for entry in () if isinstance(spec, str | int) and spec not in SHORTCUTS else entries_of(spec):
            if not self.network.count_trained(self.network.select([entry]), self._policy):
                raise UserError(
                    f"model.train names {entry!r}, and model.batch_norm {self._policy} lets none of it train: set "
                    "--model.batch_norm train or affine."
                )

    @property
    def _policy(self) -> BatchNormPolicy:
        return cast(BatchNormPolicy, self.plan.batch_norm)

    def set_active_network(self, upper: nn.Module | None) -> None:
        """Compute logits from cached features by the upper part of the network, or from images by all of it (None)."""
        if upper is not None and self._compile_backend is not None:
            upper.compile(backend=self._compile_backend, dynamic=False)
        self._upper = () if upper is None else (upper,)

    def compile_network(self, backend: str | bool = True) -> None:
        """Compile the network, and later each upper part that trains on features, with ``torch.compile``.

        Freezing and modes are among what compiled code is checked for, so a change of phase compiles again.

        Args:
            backend: A backend of ``torch.compile``, or True for its default, inductor.

        Raises:
            UserError: If there is no such backend.
        """
        name = backend if isinstance(backend, str) else "inductor"
        backends = torch.compiler.list_backends(exclude_tags=())
        check_known("compile backend", name, backends, "Set it with --compile.")
        self._compile_backend = name
        self.network.compile(backend=name, dynamic=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of preprocessed images (B, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def logits(self, inputs: Any) -> Tensor:  # noqa: ANN401 - images, or the features that the active network takes
        """Compute logits (B, K) of what a batch brings: images (B, C, H, W), or cached features of them.

        All logits come from here: in training, in records, and in whatever opens the classifier later.
        """
        if self._upper:
            logits: Tensor = self._upper[0](*inputs)
            return logits
        return self(self.preprocess(inputs))  # type: ignore[no-any-return]

    @property
    def is_plain(self) -> bool:
        """Whether logits are those of ``network`` on what ``preprocess`` gives, with no method of a subclass, no hook.

        What takes network and preprocessing out of the module, to export or to combine them, asks.
        """
        kind = type(self)
        own = kind.forward is not ImageClassifier.forward or kind.logits is not ImageClassifier.logits
        return not (own or self._forward_hooks or self._forward_pre_hooks)

    def enter_phase(self, index: int) -> None:
        """Freeze and unfreeze as a phase asks."""
        self.network.freeze_except(self.network.select(self.plan.phases[index].train), self._policy)

    def describe_phase(self, index: int) -> str:
        """Say in words what trains in a phase."""
        return self.network.select(self.plan.phases[index].train).words

    def bounded_plan(self) -> Plan:
        """Return the plan with the end that the trainer gives it, and its phases where they were planned."""
        trainer: Any = self.trainer
        epochs = trainer.max_epochs
        freezing = self._freezing()
        began = freezing.began if freezing and freezing.began else progress_of(trainer)
        limits = (
            -1 if epochs is None else epochs,
            trainer.max_steps,
            float(trainer.num_training_batches),
            trainer.accumulate_grad_batches,
            began,
        )
        if self._bounded is None or self._bounded[0] != (*limits, id(self.plan)):
            self._bounded = (*limits, id(self.plan)), self.plan.bounded(*limits)
        return self._bounded[1]

    def current_plan(self) -> Plan:
        """Return the plan with the end that the trainer gives it, and its phases where they begin by now."""
        bounded, freezing = self.bounded_plan(), self._freezing()
        if freezing is None or not bounded.may_end_early:
            return bounded
        return bounded.placed(freezing.losses, progress_of(self.trainer))

    def _freezing(self) -> FreezeUnfreeze | None:
        trainer: Any = self.trainer
        return next((callback for callback in trainer.callbacks if isinstance(callback, FreezeUnfreeze)), None)

    def follow(self, plan: Plan, losses: Mapping[int, float]) -> None:
        """Take the plan in force, and the validation loss of each epoch, as it grows, for what sets the rates."""
        self._followed, self._losses = plan, losses

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 - from any loader
        """Return the loss of a batch of inputs and classes."""
        inputs, labels = pair_of(batch)
        outcome = self.objective(self.logits(inputs), labels, batch)
        self.training_figures.add(outcome.loss, outcome.correct, len(labels))
        loss: Tensor = outcome.loss
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - from any loader
        """Take the figures of a batch."""
        inputs, labels = pair_of(batch)
        self.validation_figures.add(self.logits(inputs), labels)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:  # noqa: ANN401 - from any loader
        """Take the figures of a batch and return its logits and classes for the run's record."""
        inputs, labels = pair_of(batch)
        logits = self.logits(inputs)
        self.test_figures.add(logits, labels)
        return {"logits": logits, "labels": labels}

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 - from any loader
        """Return the class probabilities (B, K) of a batch of inputs, with classes or without."""
        if isinstance(batch, Tensor):
            return self.logits(batch).softmax(1)
        return self.logits(batch[0] if isinstance(batch, list | tuple) else pair_of(batch)[0]).softmax(1)

    @property
    def seen(self) -> Seen:
        """The images that the weights have seen in training, here and where they come from."""
        return reduce(or_, self.origins.values(), self._seen)

    def check_seen(self, data: object) -> None:
        """Refuse weights to start from or to learn from that were trained on what this run validates or tests on.

        Raises:
            UserError: If there are some.
        """
        for whose, seen in {**self.origins, "the checkpoint": self._seen}.items():
            seen.check(data, whose)

    def learn_from(self, data: object) -> None:
        """Note that the weights see the images of a data module from here on.

        Raises:
            UserError: If they have trained on what validates or tests them here.
        """
        self.check_seen(data)
        self._seen |= Seen.by_training(data)

    def prepare_training(self) -> None:
        """Have the objective take what it needs of the data, and weigh classes by their labels if it is balanced.

        Raises:
            UserError: If the data module does not count its classes, the objective cannot have what it needs, or
                weights have seen what is to validate or test them.
        """
        data = getattr(self.trainer, "datamodule", None)
        prepare_objective(self, data, self.trainer.strategy.root_device, self.trainer.world_size)
        self.learn_from(data)
        if not self._balanced:
            return
        check_balanced_once(BALANCED, getattr(data, "sampler", None))
        counts = getattr(data, "class_counts", None)
        if counts is None:
            raise UserError(
                f"model.class_weights {BALANCED} needs a data module with `class_counts` (training images of each "
                "class); give the weights themselves, as in [1.0, 2.5]."
            )
        counts = [*counts, *[0] * (len(self.class_names) - len(counts))]
        self.class_weights = balanced_weights(counts)
        self.objective.weigh(self.class_weights)

    def begin_training_figures(self) -> None:
        """Begin the figures of an epoch."""
        self.training_figures.reset()
        self._logged = False

    def log_training_figures(self) -> None:
        """Log loss and accuracy of the epoch, once."""
        figures = self.training_figures.final("train")
        if not self._logged and figures["train/loss"].update_called:
            self.log_dict(figures, on_step=False, on_epoch=True, prog_bar=True)
            self._logged = True

    def configure_callbacks(self) -> list[Callback]:
        """Bring along what every training needs, so that the module needs nothing but a Trainer."""
        return self._missing_callbacks([])

    def _missing_callbacks(self, given: list[Callback]) -> list[Callback]:
        trainer: Any = self.trainer
        present = [*trainer.callbacks, *given]
        kinds = (FreezeUnfreeze, DivergenceGuard, ClassifierHooks)
        return [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in present)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer over all parameters, those beside the network too, and the schedule of its rates."""
        plan = self.plan
        inside = {id(parameter) for parameter in self.network.parameters()}
        own = [each for each in self.parameters() if each.requires_grad and id(each) not in inside]
        groups = parameter_groups(self.network, plan.weight_decay, own)
        optimizer = build_optimizer(plan.optimizer, groups, plan.lr, plan.momentum)
        peaks = [group_rates(self.network, list(groups), plan, i) for i in range(len(plan.phases))]

        def rates() -> list[float]:
            if self.trainer.train_dataloader is None:
                return peaks[0]  # until training starts and the length of an epoch is known
            plan, progress = self._followed or self.current_plan(), progress_of(self.trainer)
            factor = plan.factor(progress, self._losses)
            return [peak * factor for peak in peaks[plan.phase(progress)]]

        schedule = PlanSchedule(optimizer, rates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **settings: Any) -> Self:  # noqa: ANN401
        """Build a classifier from its checkpoint, as Lightning does, after comparing the file with its checksum.

        Raises:
            UserError: If it is damaged.
        """
        verify(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **settings)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this module from the checkpoint alone, and the figures so far, as plain values."""
        checkpoint["fashion_tl_module"] = class_path(type(self))
        checkpoint["fashion_tl_figures"] = self.training_figures.kept()
        checkpoint["fashion_tl_seen"] = self.seen.kept()
        checkpoint["fashion_tl_build"] = build = self.checkpoint_hparams()
        parameters = inspect.signature(type(self)).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        fitting = {
            name: value
            for name, value in build.items()
            if name in parameters or name in self.given or (anything and name in self.always)
        }
        checkpoint["hyper_parameters"] = {**self.given, **fitting}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the figures of the epoch in progress, and remember what the weights have seen."""
        self._seen |= Seen.restored(checkpoint.get("fashion_tl_seen"))
        if "fashion_tl_figures" in checkpoint:
            self.training_figures.restore(checkpoint["fashion_tl_figures"], self.global_rank, self.device)

    def checkpoint_hparams(self) -> dict[str, Any]:
        """Return the hyperparameters that must differ when a checkpoint is loaded, such as ``pretrained``.

        A subclass that chooses some of them itself is not handed them; those in ``always`` it must pass on.
        """
        return {"class_weights": self.class_weights}


def _completed(own: Callable[[Any], Any]) -> Callable[[Any], list[Callback]]:
    """Add what every training needs to the callbacks of a subclass, which need not have them."""

    @functools.wraps(own)
    def configure_callbacks(module: ImageClassifier) -> list[Callback]:
        given = own(module)
        given = [given] if isinstance(given, Callback) else list(given or [])
        return [*given, *module._missing_callbacks(given)]

    return configure_callbacks
