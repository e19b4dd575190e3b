"""A table of inputs that no verb can make sense of: each kind of mistake in each place where it can be made.

A case is a verb and its arguments. What files a case needs lies in the working folder, see ``FILES`` and ``links``.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

from ..data.packed import write_parquet, write_shard

Case = tuple[str, ...]

COUNTS = (
    *("data.image_size", "data.batch_size", "data.eval_batch_size", "data.label_budget", "data.per_class"),
    *(
        "data.split_seed",
        "data.num_workers",
        "data.folds",
        "data.fold",
        "folds",
        "data.source.num_train",
        "data.source.num_test",
        "data.source.seed",
    ),
    *("model.step_size", "model.plateau_patience", "data.augment.translate", "data.augment.rand_augment"),
    *(
        "patience",
        "seeds",
        "processes",
        "checkpoint_steps",
        "trainer.num_nodes",
        "trainer.min_epochs",
        "trainer.min_steps",
    ),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.check_val_every_n_epoch", "trainer.log_every_n_steps"),
    *("trainer.num_sanity_val_steps", "trainer.accumulate_grad_batches"),
    "trainer.reload_dataloaders_every_n_epochs",
)
NUMBERS = (
    *("model.lr", "model.backbone_lr", "model.layer_decay", "model.weight_decay", "model.momentum", "model.warmup"),
    *("model.gamma", "model.label_smoothing", "data.val_fraction", "data.test_fraction", "checkpoint_minutes"),
    *(f"data.augment.{name}" for name in ("hflip", "rotation", "brightness", "contrast", "saturation", "hue")),
    *("data.augment.random_erasing", "data.augment.random_erasing_area", "trainer.gradient_clip_val"),
    *(f"data.mix.{name}" for name in ("mixup", "cutmix", "probability")),
    *("data.augment.random_resized_crop", "data.augment.rand_augment_magnitude"),
    *(f"trainer.limit_{part}_batches" for part in ("train", "val", "test", "predict")),
    *("trainer.overfit_batches", "trainer.val_check_interval"),
)
FLAGS = (
    *("data.augment.trivial_augment", "find_lr", "trainer.barebones", "trainer.detect_anomaly"),
    *("trainer.inference_mode", "trainer.sync_batchnorm"),
    *("trainer.enable_progress_bar", "trainer.use_distributed_sampler", "trainer.benchmark"),
)
NAMES = (
    *("model.optimizer", "model.schedule", "model.batch_norm", "model.objective", "model.class_weights"),
    *("model.smoothing_confusion", "data.mix.pairs", "data.sampler"),
    *("model.network", "data.interpolation", "cache", "monitor", "compile", "trainer.accelerator"),
    *("trainer.strategy", "trainer.precision", "trainer.profiler", "trainer.gradient_clip_algorithm"),
    *("trainer.deterministic", "data.source", "model"),
)
MAPPINGS = ("model.network_args", "model.objective_args", "model.terms", "search", "study")
LISTS = ("cache_keep", "model.class_weights")
CLASSES = (
    *("model", "data.source", "trainer.callbacks", "trainer.logger", "trainer.plugins", "model.objective"),
    *("trainer.profiler", "trainer.strategy", "trainer.accelerator"),
)
CODE = ("os.system", "subprocess.Popen", "builtins.exec", "pathlib.Path", "gone_of_test.Thing", "os", ".", "a.b.c.d")
NOT_FINITE = {"nan": ".nan", "infinite": ".inf", "minus infinite": "-.inf"}
NOT_A_NUMBER = {"text": "many", "empty": "", "list": "[1, 2]", "mapping": "{a: 1}", "huge": "1" + "0" * 30}
# With -1 or from below zero on.
MAY_BE_NEGATIVE = ("trainer.max_epochs", "trainer.max_steps", "trainer.num_sanity_val_steps")
MAY_BE_NULL = (
    *("data.image_size", "data.label_budget", "data.per_class", "data.source.num_test", "patience"),
    *("checkpoint_steps", "checkpoint_minutes", "trainer.min_epochs", "trainer.min_steps", "trainer.max_epochs"),
    *("trainer.check_val_every_n_epoch", "trainer.log_every_n_steps", "trainer.num_sanity_val_steps"),
    *("model.backbone_lr", "data.val_fraction", "trainer.gradient_clip_val", "trainer.val_check_interval"),
    *(f"trainer.limit_{part}_batches" for part in ("train", "val", "test", "predict")),
    *("model.smoothing_confusion", "data.mix.pairs", "model.terms"),
    *("model.objective_args", "model.network_args", "search", "study", "model.class_weights"),
    *("trainer.profiler", "trainer.precision", "trainer.gradient_clip_algorithm", "trainer.deterministic"),
    *("data.source", "trainer.benchmark", "trainer.enable_progress_bar", "data.folds", "data.fold", "folds"),
)
ZERO = ("trainer.accumulate_grad_batches", "trainer.check_val_every_n_epoch", "trainer.max_epochs", "trainer.max_steps")
FOLDERS = {
    "file": "a_file",
    "below a file": "a_file/logs",
    "links in a circle": "circle_1",
    "below links in a circle": "circle_1/logs",
    "dangling link": "dangling",
    "below a dangling link": "dangling/logs",
    "proc": "/proc/logs",
    "below proc": "/proc/self/logs",
    "sys": "/sys/logs",
    "device": "/dev/null",
    "name of 300 letters": "l" * 300,
    "path of 6000 letters": "/".join(["l" * 100] * 60),
    "zero byte": "a\0b",
}
SECTIONS = {"null": "null", "number": "3", "list": "[1]", "set": "!!set {a, b}", "text": "x", "bytes": "!!binary aGk="}
ALIASES = "bcdefghij"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("a" + ALIASES, ALIASES, strict=False)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("a" + ALIASES, ALIASES, strict=False)
)
CANARY = "[touch, canary]"
CONTENTS = {
    "bomb of anchors": BOMB,
    "bomb of merges": MERGES,
    "anchor within itself": "study: &a {a: *a}\n",
    "apply": f"study: !!python/object/apply:os.system {CANARY}\n",
    "apply as the whole": f"!!python/object/apply:subprocess.Popen [{CANARY}]\n",
    "new": "study: !!python/object/new:subprocess.Popen [[touch, canary]]\n",
    "name": "study: {a: !!python/name:os.system }\n",
    "module": "study: {a: !!python/module:os }\n",
    "tuple": "study: {a: !!python/tuple [1]}\n",
    "own tag": "study: !mine 3\n",
    "class that is a callable": f"model: {{class_path: os.system, init_args: {{command: {CANARY}}}}}\n",
    "class path of a list": "model: {class_path: [1], init_args: {}}\n",
    "arguments that are a number": "model: {class_path: ScratchClassifier, init_args: 3}\n",
    "syntax": "a: b: c\n",
    "tabs": "data:\n\tbatch_size: 3\n",
    "unclosed": "data: {batch_size: 3\n",
    "too deep": "study: " + "[" * 5000 + "\n",
    "two documents": "name: a\n---\nname: b\n",
    "number as a name": "5: 3\n",
    "null as a name": "null: 3\n",
    "list": "- a\n- b\n",
    "text": "hello\n\n",
    "impossible date": "study: {a: 2020-13-45}\n",
    "set in a study": "study: {a: !!set {b}}\n",
    "bytes in a study": "study: {a: !!binary aGk=}\n",
    "unknown name": "larning_rate: 3\n",
    "unknown name of a section": "data: {batch_sise: 3}\n",
    "unknown argument": "model: {class_path: ScratchClassifier, init_args: {lrr: 3}}\n",
    "base that is a number": "extends: 3\n",
    "base that is not there": "extends: gone.yaml\n",
    "base that is itself": "extends: a_config.yaml\n",
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "trainer.devices": ("0", "-1", "99", "999999", "many", "[]", "{a: 1}", "0,1", "1.5", ""),
    "trainer.num_nodes": ("3",),
    "trainer.accelerator": ("tpu", "mps", "cuda", "gpu", "null"),
    "trainer.strategy": ("fsdp", "deepspeed", "xla", "ddpp"),
    "trainer.max_time": ("00:00:00:00", "x", "-1", "{seconds: 0}", "{seconds: -1}", "{weeks: x}", "{a: 1}", "{}"),
    "trainer.val_check_interval": ("1000", "0.001", "x", "00:00:00:00", "{seconds: -1}", "1.5"),
    "trainer.limit_train_batches": ("0.001", "1.5"),
    "trainer.limit_val_batches": ("0.001", "1.5"),
    "trainer.limit_test_batches": ("0.001", "1.5"),
    "trainer.overfit_batches": ("1.5",),
    "trainer.check_val_every_n_epoch": ("5",),
    "trainer.min_epochs": ("2",),
    "trainer.min_steps": ("4",),
    "trainer.enable_checkpointing": ("false",),
    "trainer.fast_dev_run": ("-1", "x", "1.5"),
    "trainer.barebones": ("true",),
    "trainer.max_epochs": ("-2", "-5"),
    "trainer.callbacks": (
        *("[{class_path: ModelCheckpoint, init_args: {save_top_k: -5}}]", "[Callback, 3]", "3", "[3]"),
        "[{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: gone}}]",
        "[{class_path: ModelCheckpoint, init_args: {monitor: gone}}]",
        "[{class_path: LambdaCallback, init_args: {on_train_start: os.abort}}]",
        "[{class_path: LambdaCallback, init_args: {on_train_start: {class_path: subprocess.Popen, "
        "init_args: {args: [touch, canary]}}}}]",
        "[{class_path: EarlyStopping}]",
        "[{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 0}}}]",
        "[{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 1, 1: 3}}}]",
    ),
    "trainer.logger": ("Logger", "{class_path: CSVLogger, init_args: {save_dir: null}}", "3", "[3]"),
    "model.class_names": ("[a, b]", "3"),
    "model.input_spec": ("{channels: 3}", "3"),
    "model": ("ImageClassifier", "fashion_tl.training.classifier.ImageClassifier", "LightningModule"),
    "data.source": ("Source", "SyntheticSource", "ImageFolder", "CSV", "TorchVision", "HuggingFace", "WebDataset"),
    "data.source.num_train": ("0", "39", "10000001"),
    "data.image_size": ("0", "3", "4097"),
    "data.per_class": ("0",),
    "data.label_budget": ("1",),
    "data.folds": ("0", "1", "5", "1001"),
    "data.fold": ("0", "1"),
    "data.sampler": ("Balanced", "[balanced]", "null", "weighted"),
    "folds": ("0", "1", "1001", "true"),
    "model.lr": ("0", "1e400"),
    "model.train": (
        *(
            "null",
            "{}",
            "99",
            "-1",
            "1.5",
            "",
            "layer9",
            "[]",
            "[99]",
            "[gone]",
            "true",
            "{0: true}",
            "{0: head, 0.5: all}",
        ),
        *("{0.0: head}", "{true: head}", "{0: null}", "{0: [[head]]}", "{1: head}", "{-1: head, 0: all}", "{a: head}"),
        *("{0: head, '0': all}", "{0: {train: head, lr: .nan}}", "{0: {train: head, lr: -1}}", "{0: {lr: 1}}"),
        *("{0: {train: head, rate: 1}}", "{0: {train: {a: 1}}}"),
    ),
    "model.network_args": (
        *("{widths: 3}", "{widths: []}", "{widths: [0]}", "{widths: [-3]}", "{widths: [a]}", "{widths: [1000000000]}"),
        *("{widths: [3.5]}", "{widths: null}", "{widths: {a: 3}}", "{widths: [1, 1, 1, 1, 1, 1]}", "{gone: 3}"),
        *("{widths: [3], convs: 0}", "{widths: [3], convs: x}", "{widths: [3], dropout: 2}", "{in_channels: 3}"),
        *("{widths: [3], dropout: .nan}", "{widths: [3], hidden: 0}", "{widths: [3], hidden: x}", "{w: &a [*a]}"),
    ),
    "model.objective_args": ("{gamma: 2}", "{gamma: .nan}", "{gone: 1}"),
    "model.class_weights": ("[1]", "[]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, -1]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, .nan]"),
    "search": (
        *(
            f"{{{name}: [a]}}"
            for name in (
                *("name", "seeds", "log_dir", "checkpoint_dir", "ckpt_path", "search", "config"),
                *("folds", "data.folds", "data.fold"),
            )
        ),
        *("{model.lr: [0.01, -1]}", "{model.lr: [0.01, .nan]}", "{model.lrr: [1]}", "{gone: [1]}", "{model.lr: 3}"),
        *("{model.lr: [[1]]}", "{model.network: [plain, gone]}", "{5: [1]}", "[1]", "{model.lr: []}"),
        *("{data.batch_size: [8, 0]}", "{model.train: [head, layer9]}", "{'model.lr=3': [1]}"),
    ),
    "study": ("{a: .nan}", "{a: [.inf]}", "{a: !!set {b}}", "{a: !!binary aGk=}"),
    "cache_keep": ("[gone]", "[[1]]", "{a: 1}"),
    "cache_views": ("0", "-1", "x", "1.5", ".nan", "[2]"),
    "cache_dtype": ("int8", "", "[float16]"),
    "seed_everything": ("-1", "4294967296", "1099511627776", "x", "1.5", ".nan", "null", "[1]"),
    "seeds": ("0", "-1", "100000"),
    "patience": ("1.5",),
    "checkpoint_minutes": ("0",),
    "checkpoint_steps": ("0",),
    "ckpt_path": ("", "last", "best", "gone.ckpt", "a_file", "a_folder", "/proc/gone", "g" * 300),
    "extends": ("gone.yaml", ""),
    "name": ("", "a/b", "..", ".", "a b", "a\nb", "../up", "-x", "é", "n" * 300, "a\0b", "$(x)"),
    "resume": ("maybe", "2"),
}
TRANSFER: dict[str, tuple[str, ...]] = {
    "model.mean": ("[0.5, 0.5]", "[]", "[.nan]", "[x]", "3"),
    "model.std": ("[0.5, 0.5]", "[]", "[0]", "[-1]", "[.inf]", "[1e-60]"),
    "model.dropout": ("2", "-1", ".nan", "x"),
    "model.backbone": ("", "resnet81", "local-dir:", "local-dir:gone", "../x"),
    "model.backbone_args": (
        *("{gone: 3}", "{in_chans: 0}", "{in_chans: -1}", "{in_chans: x}", "{num_classes: 3}", "3"),
        *("{drop_path_rate: 7}", "{drop_rate: .nan}"),
    ),
    "model.init_from": ("gone", "gone.ckpt", "a_file.ckpt", "a/b"),
    "model.pretrained": ("maybe",),
}
ARGUMENTS: tuple[Case, ...] = (
    ("fit", "stray"), ("fit", "--"), ("fit", "-x"), ("fit", "--gone", "3"), ("fit", "-c"), ("fit", "--name"),
    ("fit", "-c", "gone.yaml"), ("fit", "-c", "a_folder"), ("fit", "-c", "fifo.yaml"), ("fit", "-c", "bytes.yaml"),
    ("fit", "-c", "empty.yaml"), ("fit", "-c", ""), ("fit", "-c", "y" * 300), ("fit", "-c", "a\0b"),
    ("fit", "-c", "/dev/null"), ("fit", "-c", "circle_1"), ("fit", "-c", "dangling"),
    ("fit", "--resume", "true", "--ckpt_path", "last"), ("fit", "--resume", "true", "--trainer.fast_dev_run", "true"),
    ("fit", "--log_dir", "here", "--checkpoint_dir", "here"), ("fit", "--log_dir", "a/..", "--checkpoint_dir", "."),
    ("fit", "--log_dir", "checkpoints"), ("fit", "--checkpoint_dir", "lightning_logs"),
    ("fit", "--seeds", "2", "--seed_everything", "false"), ("fit", "--processes", "2"),
    ("probe", "--processes", "2"), ("fit", "--seeds", "2", "--ckpt_path", "last"),
    ("fit", "--search", "{model.lr: [1]}", "--trainer.fast_dev_run", "true"),
    ("fit", "--folds", "3", "--search", "{model.lr: [1]}"), ("fit", "--folds", "3", "--ckpt_path", "last"),
    ("fit", "--folds", "3", "--data.fold", "1"), ("fit", "--folds", "3", "--data.folds", "3", "--data.fold", "1"),
    ("fit", "--folds", "3", "--trainer.fast_dev_run", "true"), ("fit", "--folds", "3", "--seed_everything", "false"),
    ("fit", "--folds", "3", "--processes", "2", "--trainer.devices", "2"), ("probe", "--folds", "3"),
    ("fit", "--data.folds", "3", "--data.fold", "4"), ("probe", "--data.sampler", "balanced"),
    ("fit", "--data.sampler", "balanced", "--model.class_weights", "balanced"),
    ("fit", "--data.sampler", "balanced", "--trainer.overfit_batches", "3"),
    ("fit", "--data.label_budget", "4", "--data.per_class", "4"),
    ("fit", "--data.label_budget", "4", "--data.val_fraction", "0.6"),
    ("fit", "--model.objective", "focal", "--model.label_smoothing", "0.1"),
    ("fit", "--model.objective", "focal", "--model.objective_args", "{gamma: -1}"),
    ("test",), ("validate",), ("test", "--ckpt_path", "gone.ckpt"), ("validate", "--ckpt_path", "a_file"),
    ("test", "--ckpt_path", ""), ("validate", "--ckpt_path", "last"), ("test", "--trainer.devices", "99"),
    ("validate", "--trainer.limit_val_batches", "0"), ("test", "--trainer.limit_test_batches", ".nan"),
    ("test", "--gone"), ("validate", "--trainer.accelerato", "cpu"),
    ("probe", "--pool", "men"), ("probe", "--pool", ""), ("probe", "--knn", "maybe"), ("probe", "--strengths", "[]"),
    ("probe", "--strengths", "[0]"), ("probe", "--strengths", "[.nan]"), ("probe", "--strengths", "x"),
    ("probe", "--seeds", "3"), ("probe", "--search", "{model.lr: [1]}"), ("probe", "--resume", "true"),
    ("probe", "--gone"), ("probe", "-c", "gone.yaml"), ("probe", "--ckpt_path", "gone.ckpt"),
    ("probe", "--name", "a b"), ("probe", "--log_dir", "here", "--checkpoint_dir", "here"), ("probe", "stray"),
)  # fmt: skip
VERBS: tuple[Case, ...] = (
    ("fitt",), ("Fit",), ("",), ("--gone",), ("predict",), ("predict", "gone.ckpt"),
    ("predict", "gone.ckpt", "gone.png"),
    ("predict", "a_file", "a_file"), ("predict", "a_folder", "a_file"), ("predict", "--gone"), ("predict", "-x"),
    ("predict", "a_file", "a_file", "--batch_size", "0"), ("predict", "a_file", "a_file", "--batch_size", "-3"),
    ("predict", "a_file", "a_file", "--batch_size", "x"), ("predict", "a_file", "a_file", "--batch_size", "1.5"),
    ("predict", "a_file", "a_file", "--batch_size"), ("predict", "a_file", "a_file", "--batch", "3"),
    ("export",), ("export", "gone.ckpt"), ("export", "gone.ckpt", "out"), ("export", "a_file", "out"),
    ("export", "a_folder", "out"), ("export", "gone.ckpt", "out", "more"), ("export", "--gone"),
    ("export", "gone", "out", "--format", "onnx"), ("export", "gone", "out", "--format", "gone"),
    ("export", "gone", "out", "--format"), ("export", "gone", "out", "--int8=maybe"),
    ("export", "gone", "out", "--int8"), ("export", "gone", "a_folder", "--format", "torch"),
    ("export", "gone", "out", "--format", "torch", "--int8", "true"), ("doctor", "gone"), ("doctor", "--gone"),
    ("export", "gone", "out", "--preprocessing", "false"), ("export", "gone", "out", "--preprocessing", "maybe"),
    ("export", "gone", "out", "--input_type", "int8"), ("export", "gone", "out", "--log_dir", "gone"),
    ("predict", "a_file", "a_file", "--output", "a.parquet"), ("predict", "a_file", "a_file", "--invert=maybe"),
    ("stages",), ("stages", "resnet81"), ("stages", ""), ("stages", "local-dir:gone"), ("stages", "--gone"),
    ("stages", "test_resnet", "--image_size", "0"), ("stages", "test_resnet", "--image_size", "-4"),
    ("stages", "test_resnet", "--image_size", "x"), ("stages", "test_resnet", "--image_size", "1.5"),
    ("stages", "test_resnet", "--image", "32"), ("stages", "test_resnet", "more"),
    ("runs", "--gone"), ("runs", "--newes"), ("runs", "--log_dir"), ("runs", "gone"), ("runs", "--log_dir", "gone"),
    ("runs", "--log_dir", "a_file"), ("compare",), ("compare", "gone"), ("compare", "--log_dir", "gone"),
    ("compare", "--log_dir", "a_file"), ("compare", "--outpu", "x"), ("compare", "--output"),
    ("explain",), ("explain", "gone"), ("explain", "a_folder"), ("explain", "gone", "--method", "grad_cma"),
    ("explain", "gone", "--method", ""), ("explain", "gone", "--seed", "x"), ("explain", "gone", "--seed", "1.5"),
    ("explain", "gone", "--batch_size", "0"), ("explain", "gone", "--batch_size", "x"), ("explain", "--gone"),
    ("explain", "gone", "--channels", "x"), ("explain", "gone", "--projector", "x"), ("explain", "gone", "--stag", "x"),
    ("diagnose",), ("diagnose", "gone"), ("diagnose", "a_folder"), ("diagnose", "a_file"), ("diagnose", "gone", "more"),
    ("diagnose", "gone", "--batch_size", "0"), ("diagnose", "gone", "--batch_size", "x"), ("diagnose", "--gone"),
    ("diagnose", "gone", "--costs"), ("diagnose", "gone", "--costs", "gone.csv"), ("diagnose", "gone", "--cost", "x"),
    ("robustness",), ("robustness", "gone"), ("robustness", "a_folder"), ("robustness", "gone", "--images", "0"),
    ("robustness", "gone", "--images", "x"), ("robustness", "gone", "--seed", "x"), ("robustness", "--gone"),
    ("robustness", "gone", "--batch_size", "-1"), ("robustness", "gone", "--image", "3"),
    ("cache",), ("cache", "gone"), ("cache", "lst"), ("cache", "list", "more"), ("cache", "--gone"), ("cache", ""),
)  # fmt: skip


# Of a source of files, each with its arguments; the tables and folders are those of ``make_sources``.
SOURCES: dict[str, tuple[str, ...]] = {
    "ImageFolder": (
        *("folder=gone", "folder=a_file", "folder=torn", "folder=val_alone", "folder=two_vals"),
        *("folder=whole resize=padd", "folder=whole crop=0", "folder=whole skip_unreadable=maybe"),
    ),
    "CSV": (
        *("file=gone.csv", "file=a_folder", "file=fifo.yaml", "file=bytes.yaml", "file=empty.yaml", "file=a_file"),
        *("file=good.csv label_column=lable", "file=good.csv path_column=x", "file=good.csv split_column=set"),
        *(
            "file=good.csv group_column=g",
            "file=good.csv folder=gone",
            "file=good.csv resize=padd",
            "file=good.csv crop=2",
        ),
        *("file=labels.csv", "file=split.csv split_column=set", "file=group.csv split_column=set group_column=g"),
        *("file=good.csv delimiter=;", "file=good.csv storage_size=0", "file="),
    ),
    "TorchVision": (
        *(
            "name=MNISTT",
            "name=",
            "name=CocoDetection",
            "name=MNIST arguments={split:x}",
            "name=EMNIST arguments={split:x}",
        ),
        *("name=DTD arguments={split:val}", "name=MNIST arguments=3", "name=EMNIST", "name=MNIST size=3"),
    ),
    "HuggingFace": (
        *("name=", "name=gone.parquet", "name=./gone", "name=a_file", "name=a_folder", "name=fifo.yaml"),
        *("name=broken.parquet", "name=good.parquet label_column=lable", "name=good.parquet image_column=label"),
        *("name=good.parquet image_column=img", "name=good.parquet group_column=g", "name=floats.parquet"),
        *("name=bare.parquet", "name=two.parquet", "name=good.parquet splits={train:trian}"),
        *(
            "name=good.parquet splits={dev:train}",
            "name=good.parquet splits={test:train}",
            "name=good.parquet splits=3",
        ),
        *("name=good.parquet class_names=[a,b]", "name=good.parquet class_names=3", "name=good.parquet revision=main"),
        *("name=damaged.parquet", "name=damaged.parquet skip_unreadable=maybe", "name=good.parquet crop=2"),
        *(f"name={'y' * 300}", "name=late", "name=late splits={test:null} resize=padd", "name=good.parquet rows=3"),
    ),
    "WebDataset": (
        *("train=", "train=gone.tar", "train=gone-*.tar", "train=good-{000..003}.tar", "train={a}.tar", "train=a_file"),
        *("train=a_folder", "train=fifo.yaml", "train=cut.tar", "train=packed.tar.gz", "train=bare.tar"),
        *("train=twice.tar", "train=damaged.tar", "train=good-000.tar test=good-*.tar", "train=good-000.tar val=gone"),
        *("train=good-000.tar image=jpg", "train=good-000.tar label=json", "train=good-000.tar class_names=[a,b]"),
        *("train=good-000.tar label=pgm", "train=good-000.tar crop=0", "train=good-000.tar label_field=x label=json"),
        *("train=good-000.tar test=late.tar", "train=good-000.tar shuffle=3", "val=good-000.tar"),
        f"train={'y' * 300}",
    ),
}


def _flag(name: str, value: str) -> Case:
    return ("fit", f"--{name}={value}")


def _in_a_file(name: str, value: str) -> str:
    """Write a setting as a file holds it."""
    section, _, rest = name.partition(".")
    if not rest:
        return f"{name}: {value}\n"
    if section == "model":
        return f"model: {{class_path: ScratchClassifier, init_args: {{{rest}: {value}}}}}\n"
    if rest.startswith("source."):
        rest, value = "source", f"{{class_path: SyntheticGarments, init_args: {{{rest[7:]}: {value}}}}}"
    if rest.startswith("augment."):
        rest, value = "augment", f"{{{rest[8:]}: {value}}}"
    return f"{section}: {{{rest}: {value}}}\n"


def flag_cases() -> Iterator[tuple[str, Case]]:
    """Yield a name and a case for every flag with every kind of value that it cannot have."""
    for name in (*COUNTS, *NUMBERS):
        for kind, value in {**NOT_FINITE, **NOT_A_NUMBER}.items():
            if (name, kind) != ("trainer.val_check_interval", "mapping"):
                yield f"{name} {kind}", _flag(name, value)
        if name not in MAY_BE_NEGATIVE:
            yield f"{name} negative", _flag(name, "-1")
    for name in COUNTS:
        yield f"{name} fraction", _flag(name, "2.5")
    for name in ZERO:
        yield f"{name} zero", _flag(name, "0")
    for part in ("train", "val", "test", "predict"):
        yield f"trainer.limit_{part}_batches zero", _flag(f"trainer.limit_{part}_batches", "0")
    yield "trainer.val_check_interval zero", _flag("trainer.val_check_interval", "0")
    for name in FLAGS:
        for value in ("maybe", "3", "[true]", ""):
            yield f"{name} {value!r}", _flag(name, value)
    for name in NAMES:
        for value in ("gone", ""):
            yield f"{name} {value!r}", _flag(name, value)
    for name in (*MAPPINGS, *LISTS):
        for value in ("gone", "3") if name in MAPPINGS else ("gone", "{a: 1}"):
            yield f"{name} {value!r}", _flag(name, value)
    for name, values in SETTINGS.items():
        for value in values:
            yield f"{name} {value[:60]!r}", _flag(name, value)
    for name in CLASSES:
        for value in CODE:
            yield f"{name} {value}", _flag(name, value)
    for flag in ("log_dir", "checkpoint_dir"):
        for kind, value in FOLDERS.items():
            yield f"{flag} {kind}", _flag(flag, value)
    for name in (*COUNTS, *NUMBERS, *NAMES, *FLAGS):
        yield f"{name} abbreviated", _flag(name[:-2], "3")


def file_cases() -> Iterator[tuple[str, str]]:
    """Yield a name and what a configuration holds, for every kind of content that it cannot have."""
    for section in ("data", "trainer", "model"):
        for kind, value in SECTIONS.items():
            if (section, kind) != ("model", "text"):
                yield f"{section} {kind}", f"{section}: {value}\n"
    yield from CONTENTS.items()
    for name in (*COUNTS, *NUMBERS):
        yield f"{name} not finite", _in_a_file(name, ".inf")
        yield f"{name} text", _in_a_file(name, "many")
    for name in (*COUNTS, *NUMBERS, *NAMES, *FLAGS, *MAPPINGS, *LISTS):
        if name not in MAY_BE_NULL and name not in ("model", "trainer.strategy"):
            yield f"{name} null", _in_a_file(name, "null")


def other_cases() -> Iterator[tuple[str, Case]]:
    """Yield a name and a case of every other kind."""
    for case in (*ARGUMENTS, *VERBS):
        yield " ".join(part[:40] for part in case) or "empty", case


def source_cases() -> Iterator[tuple[str, Case]]:
    """Yield a name and a case for every source of files that cannot be read, and a share that it does not take."""
    flags = ("--data.source.root", ".", "--data.image_size", "8")
    for source, given in SOURCES.items():
        for text in given:
            values = (f"--data.source.{each}" for each in text.split())
            yield f"{source} {text}", ("fit", "--data.source", source, *flags, *values)
    whole = (
        "fit",
        "--data.source",
        "ImageFolder",
        *flags,
        "--data.source.folder",
        "whole",
        "--data.val_fraction",
        "0.1",
    )
    yield "val_fraction of a source with validation images", whole


def make_sources(folder: Path) -> None:
    """Lay out what the cases of sources name: four images of each class and split."""
    image = b"P5 4 4 255 " + bytes(range(16))
    parts = {
        "whole": ("train", "val", "test"),
        "torn": ("train",),
        "val_alone": ("val", "cat"),
        "two_vals": ("train", "val", "valid"),
    }
    for name, splits in parts.items():
        for split in splits:
            for label in ("cat", "dog"):
                (folder / name / split / label).mkdir(parents=True)
                for number in range(4):
                    (folder / name / split / label / f"{number}.pgm").write_bytes(image + bytes([number]))
    rows = [f"whole/train/{label}/{number}.pgm,{label}" for label in ("cat", "dog") for number in range(4)]
    tables = {
        "good": ("path,label", rows),
        "labels": ("path,label", [*rows, rows[0].replace(",cat", ",dog")]),
        "split": ("path,label,set", [f"{row},{'dev' if '2' in row else 'train'}" for row in rows]),
        "group": ("path,label,set,g", [f"{row},{'val' if '2' in row else 'train'},one" for row in rows]),
    }
    for name, (header, lines) in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]))
    _pack_sources(folder, image)


def _pack_sources(folder: Path, image: bytes) -> None:
    """Lay out Parquet files and shards of eight images."""
    images, labels = [image + bytes([number]) for number in range(8)], ["cat", "dog"] * 4
    write_parquet(folder / "good.parquet", images, {"label": labels})
    write_parquet(folder / "floats.parquet", images, {"label": [0.5] * 8})
    write_parquet(folder / "bare.parquet", images, {})
    write_parquet(folder / "two.parquet", images, {"label": labels, "kind": labels})
    write_parquet(folder / "damaged.parquet", [b"x", *images[1:]], {"label": labels})
    write_parquet(folder / "late/train-0.parquet", images, {"label": labels})
    write_parquet(folder / "late/test-0.parquet", images[:3], {"label": ["cat", "dog", "eel"]})
    (folder / "broken.parquet").write_bytes(b"PAR1")
    files = [
        (f"{number}.{kind}", content)
        for number, (content, label) in enumerate(zip(images, labels, strict=True))
        for kind, content in (("pgm", content), ("cls", label.encode()))
    ]
    good = write_shard(folder / "good-000.tar", files).read_bytes()
    (folder / "cut.tar").write_bytes(good[: len(good) // 2])
    (folder / "packed.tar.gz").write_bytes(gzip.compress(good))
    write_shard(folder / "bare.tar", files[::2])
    write_shard(folder / "twice.tar", [*files, files[0]])
    write_shard(folder / "damaged.tar", [("0.pgm", b"x"), *files[1:]])
    write_shard(folder / "late.tar", [("8.pgm", image), ("8.cls", b"eel")])


def make_files(folder: Path) -> None:
    """Lay out what the cases name."""
    (folder / "a_file").write_text("x")
    (folder / "a_file.ckpt").write_text("x")
    (folder / "a_folder").mkdir()
    (folder / "empty.yaml").write_text("")
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    (folder / "circle_1").symlink_to("circle_2")
    (folder / "circle_2").symlink_to("circle_1")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo.yaml")
