"""An average of the weights over training, which is what is validated, kept and tested."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.models.staged import StagedNetwork
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.freezing import stands_at_start
from fashion_tl.training.plan import Plan, Progress
from fashion_tl.training.progress import progress_of

SAVED = "fashion_tl_averaging"


class WeightAverage(Callback):
    """Validates, keeps and tests an average of the weights, while training goes on with the weights themselves.

    The average holds what trains: parameters, and buffers such as BatchNorm's statistics. What is frozen is not in it
    and stays bit for bit what it is; features of frozen stages serve both. It begins anew with each phase. A checkpoint
    holds the averaged weights as its weights, and the others beside them, from which training goes on.

    It stands in for Lightning's ``EMAWeightAveraging``, which averages frozen tensors too and so changes their last
    bits, rounds the integer counters of BatchNorm, averages in the precision of the weights (in bfloat16 a decay of
    0.999 stands still), has no warm-up, goes on over a change of phase, and leaves averaged weights in the module when
    a validation is broken off.

    Attributes:
        averaging: What is averaged how, for the record, and for a run that goes on: it has to be the same.
        average: The averaged tensors by name; none before the first.
    """

    averaging = ""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}  # those of training, while the average is in the module
        self._live: dict[str, Tensor] = {}  # what trains in this epoch
        self._period: float | None = None
        self._plan = Plan()  # that of this epoch
        self._count = self._step = 0

    def period(self, plan: Plan, progress: Progress) -> float:
        """Return a number for the stretch of training that is averaged; with another one the average begins anew.

        Raises:
            UserError: If the plan does not tell.
        """
        raise NotImplementedError

    def due(self, trainer: Trainer, plan: Plan) -> bool:
        """Say whether the weights after the present step belong to the average."""
        raise NotImplementedError

    def share(self, count: int) -> float:
        """Return the share of the present weights in the average of which ``count`` weights are part before."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin without an average, unless the trainer goes on from where it stands."""
        if stage == "fit" and stands_at_start(trainer):
            self._forget()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep average and weights of training: a checkpoint may be saved now, and training may go on."""
        if stage == "fit":
            self._live = {}
            self.average, self._weights = (
                {name: tensor.cpu() for name, tensor in each.items()} for each in (self.average, self._weights)
            )

    def _forget(self) -> None:
        self.average, self._weights, self._live = {}, {}, {}
        self._period, self._count, self._step = None, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the weights, before another callback puts others in, such as the best of a phase."""
        self.take_out(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on with the average, in the middle of an epoch too."""
        self.average = {name: tensor.to(pl_module.device) for name, tensor in self.average.items()}
        self._follow(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew with a phase."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, module: LightningModule) -> None:
        self._plan = _classifier(module).current_plan()
        period = self.period(self._plan, progress_of(trainer))
        if period != self._period:
            self.average, self._period, self._count = {}, period, 0
        self._live = trained_tensors(_network(module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Take the weights after an optimizer step into the average."""
        if trainer.global_step == self._step or not self.due(trainer, self._plan):
            return
        self._step = trainer.global_step
        self.update(self._live)
        self.complete(trainer, _classifier(pl_module))

    def update(self, weights: dict[str, Tensor]) -> None:
        """Take weights into the average, in float32 or wider."""
        if not self.average:
            self.average = {name: _wide(tensor.detach()).clone() for name, tensor in weights.items()}
        else:
            averages = list(self.average.values())
            present = [_wide(weights[name].detach()) for name in self.average]
            torch._foreach_lerp_(averages, present, self.share(self._count))
        self._count += 1

    def complete(self, trainer: Trainer, module: ImageClassifier) -> None:
        """Do what an average needs before it is used."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn != "fit" or not self.average:
            return
        if trainer.world_size > 1:  # each process has buffers of its own; those of the first are what is kept
            names = [name for name in self.average if name not in dict(_network(pl_module).named_parameters())]
            first = trainer.strategy.broadcast({name: self.average[name].cpu() for name in names})
            _copy(first, self.average)
        self.put_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the weights."""
        if trainer.state.fn == "fit":
            self.take_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the weights in the module."""
        if trainer.state.fn == "fit":
            self.take_out(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        self.put_in(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module where nothing was left to train, too."""
        self.put_in(pl_module)

    def put_in(self, module: LightningModule) -> None:
        """Put the average into the module, and keep the weights of training meanwhile."""
        if not self._weights:
            tensors = tensors_of(_network(module))
            self._weights = {name: tensors[name].detach().clone() for name in self.average}
            _copy(self.average, tensors)

    def take_out(self, module: LightningModule) -> None:
        """Put the weights of training back."""
        _copy(self._weights, tensors_of(_network(module)))
        self._weights = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the averaged weights as those of the checkpoint, and beside them what training goes on from."""
        if trainer.state.fn != "fit":
            return
        state = checkpoint["state_dict"]
        full = {f"network.{name}": average for name, average in self.average.items()}
        weights = {f"network.{name}": tensor for name, tensor in self._weights.items()}
        kept = {name: weights.get(name, state[name]) for name in full}
        state.update({name: average.to(state[name].dtype) for name, average in full.items()})
        checkpoint[SAVED] = {
            "averaging": self.averaging,
            "period": self._period,
            "count": self._count,
            "step": self._step,
            "weights": kept,
            "average": {name: average for name, average in full.items() if average.dtype != state[name].dtype},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the average of a checkpoint, and put the weights of training back into the module.

        Raises:
            UserError: If the checkpoint has the average alone.
        """
        if trainer.state.fn != "fit":
            return
        self._forget()
        saved, plan = checkpoint.get(SAVED), checkpoint.get("callbacks", {}).get("FreezeUnfreeze", {})
        if saved is None and plan.get("averaging") == self.averaging:
            raise UserError(
                f"{trainer.ckpt_path} was saved after a test and holds averaged weights without those that training "
                "goes on from; save it right after fit, or start from its weights with --model.init_from."
            )
        if saved is None or saved["averaging"] != self.averaging:
            return  # another averaging is refused when training starts
        average = {**{name: checkpoint["state_dict"][name] for name in saved["weights"]}, **saved["average"]}
        self.average = {_bare(name): _wide(tensor).clone() for name, tensor in average.items()}
        self._period, self._count, self._step = saved["period"], saved["count"], saved["step"]
        _copy({_bare(name): tensor for name, tensor in saved["weights"].items()}, tensors_of(_network(pl_module)))


def trained_tensors(network: StagedNetwork) -> dict[str, Tensor]:
    """Return what of ``tensors_of`` moves in training, by name."""
    moving = network.moving()
    return {name: tensor for name, tensor in tensors_of(network).items() if name in moving}


def tensors_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return the floating parameters, and the floating buffers that a state has, by name."""
    kept = network.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in kept.items() if tensor.is_floating_point()}


@torch.no_grad()
def _copy(values: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _bare(name: str) -> str:
    return name.removeprefix("network.")


def _network(module: LightningModule) -> StagedNetwork:
    return _classifier(module).network


def _classifier(module: LightningModule) -> ImageClassifier:
    if not isinstance(module, ImageClassifier):
        raise TypeError(f"averages are of an ImageClassifier's weights, not of a {type(module).__name__}'s")
    return module
