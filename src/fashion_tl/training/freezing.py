"""The freeze/unfreeze callback, and early stopping that knows about phases."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from fashion_tl.errors import UserError
from fashion_tl.models.staged import BatchNormPolicy, StagedNetwork, count_parameters
from fashion_tl.training.best_weights import BestWeights
from fashion_tl.training.going_on import (
    begun,
    check_resumed,
    cut_before_validation,
    run_state,
    tell_left_out,
    without_plan,
)
from fashion_tl.training.hooks import ClassifierHooks
from fashion_tl.training.optimizer import FollowsFreezing
from fashion_tl.training.phases import written
from fashion_tl.training.plan import Plan, Progress
from fashion_tl.training.progress import progress_of
from fashion_tl.training.schedules import PlanSchedule


class PlannedModule(Protocol):
    """What a LightningModule must have for these callbacks."""

    network: StagedNetwork
    plan: Plan

    def bounded_plan(self) -> Plan:
        """Return the plan with the end that the trainer gives it."""

    def current_plan(self) -> Plan:
        """Return it with its phases where they begin by now."""

    def enter_phase(self, index: int) -> None:
        """Freeze and unfreeze as a phase asks."""

    def describe_phase(self, index: int) -> str:
        """Say in words what trains in a phase."""

    def follow(self, plan: Plan, losses: Mapping[int, float]) -> None:
        """Take the plan in force, and the validation loss of each epoch, as it grows."""


class FreezeUnfreeze(Callback):
    """Applies the plan: what is frozen and at which rates the rest trains follows from where training stands.

    That is done whenever training starts or goes on, in the middle of an epoch too, and at every change of phase. The
    optimizer's groups never change, so a run that was stopped anywhere and resumed goes on as if it had not been.

    Attributes:
        began: Where training has begun or gone on, from which the plan counts the steps that are left.
        resumed: Where training has gone on (epoch, batch), and what was "changed" there, as [before, now]; None if it
            has not.
    """

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.began: Progress | None = None
        self.resumed: dict[str, Any] | None = None
        self._plan = Plan()
        self._best = BestWeights()
        self._saved: dict[str, Any] | None = None
        self._left: dict[str, Any] = {}  # the state that the last training has ended with
        self._index: int | None = None
        self._wrapped: set[str] = set()
        self._buffers: dict[str, Tensor] = {}
        self._trainer: Trainer | None = None
        self._given: list[Callback] = []
        self._least: tuple[int | None, int | None] = None, None

    @property
    def ended_early(self) -> bool:
        """Whether the run has come to its end before its last epoch, since a phase of it ended early."""
        if self._trainer is None or self._plan.length >= sum(self._plan.longest):
            return False
        return self._plan.ended(progress_of(self._trainer))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with the first phase, before a strategy wraps the module and an optimizer is built."""
        if stage != "fit":
            return
        self.began, self.resumed, self._index, self._trainer = None, None, None, trainer
        self._least = trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps
        # First, wherever it was put: the others find the phase applied, and the weights that were validated. Last what
        # seeds the next batch: what the others have drawn does not matter.
        given: Any = trainer
        places = {id(self): -1} | {id(each): 1 for each in given.callbacks if isinstance(each, ClassifierHooks)}
        self._given, given.callbacks = given.callbacks, sorted(given.callbacks, key=lambda c: places.get(id(c), 0))
        module = cast(PlannedModule, pl_module)
        if not pl_module.training:  # handed over in eval mode as a whole, such as by load_classifier
            pl_module.train()
        _enter(module, 0)
        self._wrapped = _trained(module)
        _leave_epoch(trainer)
        if stands_at_start(trainer):
            self._forget()
        else:  # a second training of one trainer goes on
            self._saved = {**self._left, "batch": 0} if self._left else None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the trainer as it was."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the trainer as it was, which may train again."""
        self._leave()

    def _leave(self) -> None:
        """Give the trainer its limits back, and its order of callbacks, by which Lightning's tuner finds its own.

        The state stays as it is: a checkpoint may be saved now, and training may go on.
        """
        if self._trainer is not None:
            self._left = self._saved or {} if self._index is None else self.state_dict()
            given: Any = self._trainer
            given.callbacks, self._trainer = self._given, None
            given.fit_loop.min_epochs, given.fit_loop.epoch_loop.min_steps = self._least

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the plan to where training starts or goes on.

        Raises:
            UserError: If the plan does not fit the checkpoint that training goes on from, or the trainer; if that
                checkpoint keeps none; or if no optimizer has what a phase is to train.
        """
        check_accumulation(trainer)
        _begin_epoch(trainer)
        module, progress = cast(PlannedModule, pl_module), progress_of(trainer)
        if not self._saved and not stands_at_start(trainer):
            raise without_plan(trainer.ckpt_path)
        if self._saved:
            self.resumed = check_resumed(self._saved, run_state(module, trainer, progress))
            tell_left_out(trainer, self._saved)
            if cut_before_validation(self._saved):
                _end_epoch(trainer)
                progress = progress_of(trainer)
        self.began = begun(progress, self._saved or {})
        plan = module.current_plan()
        check_validations(plan, trainer, trainer.enable_validation)
        _check_optimizers(module, plan, trainer.optimizers)
        for phase in module.plan.phases[len(plan.phases) :]:
            words = written([phase.settings()])[1:-1]
            rank_zero_warn(f"the phase {words} begins after the end of the run and is left out")
        self.apply(trainer, pl_module)
        if self._plan.ended(progress):
            _end(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the plan to the epoch that begins."""
        self.apply(trainer, pl_module)

    def apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the plan to where training stands; a second time changes nothing."""
        module, progress = cast(PlannedModule, pl_module), progress_of(trainer)
        self._plan = module.current_plan()
        self._apply(trainer, module, self._plan, progress)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Put the statistics of what is frozen back, should another callback have reset them."""
        if batch_idx == 0:
            self._keep_frozen(cast(PlannedModule, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop after the plan's steps, or where its last phase ends since one before it ended early."""
        if self._plan.ended(progress_of(trainer)):
            _end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation loss of the epoch, and the weights if it is the best of a phase that may end early."""
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.state.fn == "fit" and not trainer.sanity_checking and loss is not None:
            self.losses[trainer.current_epoch] = float(loss)
            if self._index is not None and self._plan.phases[self._index].until:
                self._best.take(cast(PlannedModule, pl_module).network, self._index, float(loss))

    def state_dict(self) -> dict[str, Any]:
        """Return the plan's settings, where training stands, the validation losses, and the best weights of a phase."""
        if self._trainer is None:
            return self._left
        module = cast(PlannedModule, self._trainer.lightning_module)
        state = run_state(module, self._trainer, progress_of(self._trainer))
        best = self._best.state()
        return {**state, "losses": dict(self.losses), **({"best": best} if best else {})}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forget an earlier training: what the checkpoint keeps follows.

        Where it stands between two epochs, its loaders begin anew: ``max_steps`` would have Lightning go on within.
        """
        if self._trainer is not None:
            self._forget()
            loop = checkpoint["loops"]["fit_loop"]
            epochs = loop["epoch_progress"]["current"]
            if epochs["started"] == epochs["processed"]:
                loop["state_dict"].pop("combined_loader", None)

    def _forget(self) -> None:
        self.losses, self._saved, self._best = {}, None, BestWeights()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take losses and weights over; the rest is compared when training goes on."""
        if self._trainer is not None:
            self._best.load(state_dict.get("best", {}))
            self.losses = {int(epoch): float(loss) for epoch, loss in state_dict["losses"].items()}
            self._saved = state_dict

    def _apply(self, trainer: Trainer, module: PlannedModule, plan: Plan, progress: Progress) -> None:
        index = plan.phase(progress)
        if self._best.phase is not None and self._best.phase < index:
            self._best.restore(module.network)
        if index != self._index:
            self._index = index
            _enter(module, index)
            self._synchronise(trainer, module)
            for optimizer in trainer.optimizers:
                if isinstance(optimizer, FollowsFreezing):
                    optimizer.follow_freezing()
            frozen = module.network.frozen_buffers()
            self._buffers = {name: buffer.detach().clone() for name, buffer in frozen.items()}
            if progress.epochs == plan.phases[index].start:
                _draw_phase(trainer, module, plan, index)
        module.follow(plan, self.losses)
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PlanSchedule):
                config.scheduler.apply()

    def _synchronise(self, trainer: Trainer, module: PlannedModule) -> None:
        """Wrap the module again where what trains has changed: DDP reduces only what took gradients when it wrapped."""
        strategy, trained = trainer.strategy, _trained(module)
        if isinstance(strategy, DDPStrategy) and trained != self._wrapped:
            strategy.model = strategy.lightning_module
            gc.collect()  # the old wrapper's hooks go with it
            strategy.configure_ddp()
        self._wrapped = trained

    def _keep_frozen(self, module: PlannedModule) -> None:
        for name, buffer in module.network.frozen_buffers().items():
            if name in self._buffers and not torch.equal(buffer, self._buffers[name]):
                buffer.copy_(self._buffers[name])


def stands_at_start(trainer: Trainer) -> bool:
    """Say whether a trainer has trained nothing yet, neither itself nor by the checkpoint that it goes on from."""
    progress = progress_of(trainer)
    return progress.epoch == progress.batch == progress.steps == 0


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, whose patience counts validations of the last phase only.

    An earlier phase always runs to its end: its plateau is what the next phase is there to leave.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget that it has stopped, where training goes on."""
        if not trainer.should_stop:
            self.stopped_epoch, self.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience that this run was given."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a validation of the last phase."""
        if _in_last_phase(trainer, pl_module):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch of the last phase, where epochs are counted."""
        if _in_last_phase(trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)


def _in_last_phase(trainer: Trainer, module: LightningModule) -> bool:
    planned: Any = module
    if trainer.sanity_checking or not hasattr(module, "current_plan"):
        return True
    return trainer.current_epoch >= int(planned.current_plan().phases[-1].start)


def validates_at_ends(trainer: Any) -> bool:  # noqa: ANN401 - the Trainer, whose type does not tell what it may lack
    """Say whether an epoch that is validated is so once, at its end."""
    interval = getattr(trainer, "val_check_interval", None)  # missing where it is a time; the integer 1 is every batch
    return isinstance(interval, float) and interval == 1.0


def check_validations(plan: Plan, trainer: Any, validates: bool = True) -> None:  # noqa: ANN401 - as above
    """Refuse none and more than one validation in an epoch, where it may end a phase or cut the rates.

    Args:
        plan: The plan.
        trainer: The trainer.
        validates: Whether it validates at all.

    Raises:
        UserError: If there are none, or more.
    """
    if not plan.may_end_early and plan.schedule.name != "plateau":
        return
    what = "model.train says until: plateau" if plan.may_end_early else "model.schedule is plateau"
    if not validates:
        other = "leave until out" if plan.may_end_early else "choose another schedule"
        raise UserError(
            f"{what}, which looks at the validation loss, and there is no validation: give the trainer validation "
            f"images, or {other}."
        )
    if not validates_at_ends(trainer):
        raise UserError(
            f"{what}, which counts one validation an epoch, and trainer.val_check_interval is "
            f"{getattr(trainer, 'val_check_interval', 'a time')}: leave it out."
        )


def check_accumulation(trainer: Any) -> None:  # noqa: ANN401 - as above
    """Refuse to accumulate other numbers of batches in other epochs: phases and rates count epochs of equal steps.

    Raises:
        UserError: If a callback of the trainer does.
    """
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise UserError(
            "trainer.callbacks has a GradientAccumulationScheduler, which changes how many steps an epoch has, and the "
            "rates follow them: leave it out, and give one number, as --trainer.accumulate_grad_batches 4."
        )


def _end(trainer: Trainer) -> None:
    """End training where the plan ends; a least number of epochs or steps is for what stops early."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None


def _check_optimizers(module: PlannedModule, plan: Plan, optimizers: list[Optimizer]) -> None:
    """Refuse optimizers of a subclass that lack what a phase is to train."""
    network, policy = module.network, cast(BatchNormPolicy, plan.batch_norm)
    stepped = {id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]}
    lacking = {name for name, _, parameter in network.staged_parameters() if id(parameter) not in stepped}
    for phase in plan.phases:
        if names := sorted(network.trained_names(network.select(phase.train), policy) & lacking):
            raise UserError(
                f"the phase from epoch {phase.start} trains {names[0]}{' and others' * (len(names) > 1)}, which no "
                f"optimizer of {type(module).__name__}.configure_optimizers has: give it all parameters of the "
                "network, frozen ones too."
            )


def _leave_epoch(trainer: Trainer) -> None:
    """Have an epoch that an exception has cut begin anew in Lightning's counts, as it does in its training.

    Else it would count as being in progress for ever, and a checkpoint of a later epoch would go on in the wrong place.
    """
    epochs: Any = trainer.fit_loop.epoch_progress
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    if epochs.current.started > epochs.current.processed:
        batches.reset_on_run()
    for counts in (epochs.total, epochs.current, batches.total):
        counts.ready = counts.started = counts.completed = counts.processed


def _begin_epoch(trainer: Trainer) -> None:
    """Have training go on behind a whole epoch as it does without ``max_steps``, with which Lightning ends it again."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if fit.restarting and not fit.restarted_mid_epoch and not fit.restarted_on_epoch_start:
        limit, epoch.max_steps = epoch.max_steps, -1
        fit.restarting = False  # by the loop's own rule, which asks for the limit
        epoch.max_steps = limit
        fit.reset()
        epochs: Any = fit.epoch_progress.current
        epochs.completed = epochs.processed


def _end_epoch(trainer: Trainer) -> None:
    """Have training go on behind an epoch whose last batch is done and whose validation is not."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if epoch.restarted_on_last:
        # It was written within the validation, and Lightning would validate the rest of the images. Where it was
        # written before, Lightning counts the epoch as done itself.
        fit.epoch_progress.increment_processed()
        fit.epoch_progress.increment_completed()
        for done in (epoch.batch_progress, epoch.scheduler_progress, epoch.automatic_optimization.optim_progress):
            done.reset_on_run()
        epoch.val_loop.batch_progress.reset_on_run()
        epoch.val_loop.batch_progress.total.reset()
        epoch.reset_restart_stage()
        epoch.val_loop.reset_restart_stage()
    fit.reset_restart_stage()  # it would leave out the start of the next epoch


def _enter(module: PlannedModule, index: int) -> None:
    """Enter a phase, which decides the mode of every part of the network, whatever mode it was handed over in."""
    module.enter_phase(index)
    module.network.train()


def _trained(module: PlannedModule) -> set[str]:
    return {name for name, parameter in module.network.named_parameters() if parameter.requires_grad}


def _draw_phase(trainer: Trainer, module: PlannedModule, plan: Plan, index: int) -> None:
    trained = count_parameters(module.network, trained_only=True)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            words = f"phase {index + 1} of {len(plan.phases)} from epoch {trainer.current_epoch + 1}: "
            words += f"trains {module.describe_phase(index)} ({trained:,} parameters)"
            logger.experiment.add_text("phase", words, trainer.global_step)
            logger.experiment.add_scalar("phase/trained_parameters", trained, trainer.global_step)
