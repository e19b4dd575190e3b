"""The averages of weights that a run can keep: a moving average of steps (EMA), the mean of late epochs (SWA)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from fashion_tl.callbacks.weight_average import WeightAverage, tensors_of
from fashion_tl.errors import UserError, out_of_range
from fashion_tl.models.batch_norm import estimating, moving_norms
from fashion_tl.seeds import run_seed, seed_batch
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.plan import Plan, Progress
from fashion_tl.training.progress import progress_of

SHARE = (1e-6, 1 - 1e-6)  # lowest and highest decay, and share of a phase
WARMUP_POWER = 2 / 3
MOST_BATCHES = 100  # from which statistics are estimated


class EMA(WeightAverage):
    """Moving average of the weights, in which those of n steps ago count by decay^n (Tarvainen & Valpola 2017).

    The decay rises with the steps of the phase as in timm's ``ModelEmaV3``: min(decay, 1 - (1 + step)^(-2/3)), step
    from 0, so that the first weights do not weigh for long.

    Args:
        decay: The decay, above 0 and below 1; the average reaches back about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        _check_share("ema", decay)
        self.decay = decay
        self.averaging = f"ema {decay:g}"

    def period(self, plan: Plan, progress: Progress) -> float:
        """Return the number of the phase."""
        return float(plan.phase(progress))

    def due(self, trainer: Trainer, plan: Plan) -> bool:
        """Take every step."""
        return True

    def share(self, count: int) -> float:
        """Return the share of new weights, from 1 down to 1 - decay."""
        return float(1 - min(self.decay, 1 - (1 + count) ** -WARMUP_POWER))


class SWA(WeightAverage):
    """Mean of the weights at the ends of the last epochs (SWA, Izmailov et al. 2018).

    The learning rate follows the run's schedule: with ``constant``, as in the paper, the averaged weights differ most;
    with ``cosine`` the last epochs hardly move. From its first epoch on the average is what validation sees, after
    BatchNorm's statistics were estimated anew from training images, as training sees them.

    Args:
        part: Share of the last phase whose epochs are averaged, above 0 and below 1.
    """

    def __init__(self, part: float) -> None:
        super().__init__()
        _check_share("swa", part)
        self.part = part
        self.averaging = f"swa {part:g}"

    def period(self, plan: Plan, progress: Progress) -> float:
        """Return where the last part of the last phase begins, in epochs or in steps.

        Raises:
            UserError: If the run has no end that is known.
        """
        if math.isinf(plan.length):
            raise UserError(
                "--swa averages the last epochs and needs to know which they are: set --trainer.max_epochs or "
                "--trainer.max_steps, and --trainer.limit_train_batches where the loader has no length."
            )
        return plan.last_part(self.part)

    def due(self, trainer: Trainer, plan: Plan) -> bool:
        """Take the end of each epoch after the start."""
        progress = progress_of(trainer)
        if not trainer.is_last_batch and not plan.ended(progress):
            return False
        done = trainer.current_epoch + 1 if trainer.is_last_batch and not plan.by_steps else plan.done(progress)
        return done > self.period(plan, progress) + 1e-9

    def share(self, count: int) -> float:
        """Return the share of each in a mean."""
        return 1 / (count + 1)

    def complete(self, trainer: Trainer, module: ImageClassifier) -> None:
        """Estimate BatchNorm's statistics of the average."""
        layers = moving_norms(module.network)
        if not layers:
            return
        self.put_in(module)
        with isolate_rng(), torch.no_grad(), estimating(module.network, layers):
            for inputs in _training_inputs(trainer, module):
                with trainer.precision_plugin.forward_context():
                    module.logits(inputs)
        tensors = tensors_of(module.network)
        moved = {id(buffer) for layer in layers for buffer in (layer.running_mean, layer.running_var)}
        for name, average in self.average.items():
            if id(tensors[name]) in moved:
                mean = trainer.strategy.reduce(tensors[name].to(average.dtype), reduce_op="mean")
                average.copy_(cast(Tensor, mean))
        self.take_out(module)


def _training_inputs(trainer: Trainer, module: ImageClassifier) -> Iterator[Any]:
    """Yield the inputs of an epoch of training batches, without a trace in the loaders of the run."""
    data: Any = getattr(trainer, "datamodule", None)
    loader: Any = trainer.train_dataloader if data is None else data.train_dataloader()
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(trainer.current_epoch)
    seed, count = run_seed(), int(min(MOST_BATCHES, trainer.num_training_batches))
    with _own_generators_kept(loader):
        for number, batch in enumerate(itertools.islice(loader, count), 1):
            if seed is not None:  # as no batch of training draws
                seed_batch(seed, trainer.global_rank, trainer.current_epoch, -number, module.device)
            yield trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))[0]
    if data is not None and hasattr(loader, "close"):
        loader.close()


@contextmanager
def _own_generators_kept(loader: object) -> Iterator[None]:
    """Have the generators of a loader and its samplers draw next what they would have drawn."""
    batches = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    states = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _check_share(flag: str, value: float) -> None:
    if problems := out_of_range({flag: (value, *SHARE)}, "--"):
        raise UserError(f"{problems[0]}.")


def make_average(ema: float | None, swa: float | None) -> list[WeightAverage]:
    """Return the callback that was asked for, if any.

    Raises:
        UserError: If both were.
    """
    if ema is not None and swa is not None:
        raise UserError("--ema and --swa exclude each other: give one of them.")
    return [EMA(ema)] if ema is not None else [SWA(swa)] if swa is not None else []
