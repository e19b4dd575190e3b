"""A pretrained timm backbone with a new head."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.models.backbones import create_backbone, weights_hash
from fashion_tl.models.lora import adapted_stages, add_adapters, merge_adapters
from fashion_tl.models.selection import ADAPTER
from fashion_tl.models.staged import StagedNetwork, divide_timm
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.objectives.auxiliary import AUXILIARY
from fashion_tl.training.seen import Seen


class TransferClassifier(ImageClassifier):
    """Fine-tunes a pretrained backbone from timm, or trains a linear probe on it.

    Args:
        class_names: Names of the K classes, in the order of their labels.
        backbone: Any name that timm knows, "local-dir:FOLDER" and "hf-hub:OWNER/NAME" included.
        pretrained: Whether to start from the weights of that name; else from random ones.
        init_from: A checkpoint of an earlier run, or on the command line the name of the run, to start from.
        dropout: Dropout before the head, 0 to 1.
        backbone_args: More arguments of the architecture, such as {drop_path_rate: 0.1}.
        mean: Mean per channel that images are normalised with, on the scale 0 to 1; the backbone's own if not given.
        std: Standard deviation per channel, likewise.
        lora: Low-rank adapters on the backbone's layers (Hu et al. 2022), as {rank: 4, alpha: 8, layers: "*"}; they
            train with ``train: lora``.
        **kwargs: The arguments of ``ImageClassifier``.
    """

    caches_features = True
    always = ("pretrained", "init_from")

    def __init__(
        self,
        class_names: list[str],
        backbone: str = "resnet18.tv_in1k",
        pretrained: bool = True,
        init_from: str | None = None,
        dropout: float = 0.0,
        backbone_args: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        lora: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - the arguments of ImageClassifier, checked there
    ) -> None:
        super().__init__(class_names, **kwargs)
        if not 0 <= dropout <= 1:
            raise UserError(f"model.dropout is {dropout}, allowed is 0 to 1.")
        size = self.input_spec.image_size
        self.backbone_info = create_backbone(backbone, pretrained and init_from is None, size, backbone_args)
        layers = {"dropout": nn.Dropout(dropout), "linear": nn.Linear(self.backbone_info.features, len(class_names))}
        head = nn.Sequential(OrderedDict(layers))
        info = self.backbone_info
        start = {} if init_from is None else self._read_start(Path(init_from))
        saved = start.get("fashion_tl_build", {})
        if init_from is not None:
            self._load_start(nn.ModuleDict({"backbone": info.module, "head": head}), start, init_from)
        self.weights_hash = weights_hash(info.module)
        self.head_hash = None if init_from is None else weights_hash(head)  # else the seed has drawn it
        stages = divide_timm(info.module)
        if lora is not None:
            add_adapters(info.module, lora)
            stages = adapted_stages(info.module, stages)
        network = StagedNetwork(info.module, head, stages)
        statistics = (
            tuple(saved.get(name, own) if given is None else given)
            for name, given, own in (("mean", mean, info.mean), ("std", std, info.std))
        )
        self.build(network, info.channels, *statistics)
        trained = {name for phase in self.plan.phases for name in network.select(phase.train).names}
        if lora is not None and not any(name.endswith(ADAPTER) for name in trained):
            raise UserError(
                "model.lora adds adapters, and no phase of model.train trains them: name lora there, as in "
                "--model.train lora or {0: head, 3: lora}."
            )
        self.architecture, self.weights = info.architecture, info.weights
        if init_from is not None:
            self.weights = f"{start.get('fashion_tl_weights', '?')}, then {init_from}"
            self.origins[f"model.init_from: {init_from}"] = Seen.restored(start.get("fashion_tl_seen"))

    def _read_start(self, path: Path) -> dict[str, Any]:
        checkpoint = load_checkpoint(path)
        saved = checkpoint.get("fashion_tl_build", {})
        if "backbone" not in saved:
            kind = str(checkpoint["fashion_tl_module"]).rpartition(".")[2]
            raise UserError(
                f"{path} holds a {kind}, which has no backbone of timm to start from: name a run of backbone "
                f"{self.backbone_info.architecture!r}."
            )
        if saved["backbone"] != self.backbone_info.architecture:
            raise UserError(
                f"{path} was trained with backbone {saved['backbone']!r}, this run has "
                f"{self.backbone_info.architecture!r}: give both the same --model.backbone (or the same BACKBONE to "
                "make)."
            )
        names = list(checkpoint["hyper_parameters"]["class_names"])
        if names != list(self.class_names):
            raise UserError(
                f"{path} was trained on other classes ({', '.join(names)}) than this run's data has "
                f"({', '.join(self.class_names)}): give both the same data."
            )
        return checkpoint

    @staticmethod
    def _load_start(network: nn.ModuleDict, checkpoint: dict[str, Any], path: str) -> None:
        """Load weights; adapters that the run had are merged into them."""
        prefix = "network."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        # An auxiliary head is of one run's objective: that of another starts anew.
        state = {k: v for k, v in state.items() if not k.startswith(f"head.{AUXILIARY}.")}
        adapters = checkpoint["hyper_parameters"].get("lora")
        try:
            if adapters is not None:
                add_adapters(network["backbone"], adapters)
            network.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{path} does not fit this network: {str(error).splitlines()[-1].strip()}") from error
        merge_adapters(network["backbone"])

    def checkpoint_hparams(self) -> dict[str, Any]:
        """Name the architecture instead of where its weights came from: a checkpoint has its own."""
        return {
            **super().checkpoint_hparams(),
            "backbone": self.backbone_info.architecture,
            "backbone_args": self.backbone_info.arguments,
            "pretrained": False,
            "init_from": None,
            "mean": self.preprocess.mean.flatten().tolist(),
            "std": self.preprocess.std.flatten().tolist(),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the weights came from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["fashion_tl_weights"], checkpoint["fashion_tl_weights_hash"] = self.weights, self.weights_hash
        checkpoint["fashion_tl_head_hash"] = self.head_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over where the weights came from, and what images are normalised with: a run goes on as it began."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("fashion_tl_build", {})
        self.weights = checkpoint.get("fashion_tl_weights", self.weights)
        self.weights_hash = checkpoint.get("fashion_tl_weights_hash", self.weights_hash)
        self.head_hash = checkpoint.get("fashion_tl_head_hash", self.head_hash)
        for name in ("mean", "std"):
            buffer = getattr(self.preprocess, name)
            if name in saved and len(saved[name]) == buffer.numel():
                buffer.copy_(torch.tensor(saved[name]).view_as(buffer))
