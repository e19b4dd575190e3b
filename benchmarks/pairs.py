"""Which sides are timed against which, with which commands and targets."""

from __future__ import annotations

import shlex

from benchmarks.groups import Group, Ratio, Settings, Side

PRETRAINED = "mobilenetv2_035.keras_in1k"
SEARCH = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02, 0.03, 0.05)


def plan(settings: Settings) -> list[Group]:
    """List all groups in the order in which they are run."""
    groups = [
        *_phases(settings),
        _scratch(settings),
        _whole(settings, "d-resnet18", _resnet18(settings), {"fit, twice, empty cache": "layer4"}, ("layer4",)),
        _search(settings),
        _cached(settings, "f-top", "layer4", settings.some(), 128, 5, 0.95),
        _cached(settings, "f-head", "head", settings.most(), 512, 41, 0.6),
    ]
    if settings.pretrained is not None:
        modules = (*(f"blocks.{i}" for i in range(2, 7)), "conv_head", "bn2")
        ours = {"fit, twice, empty cache": "5", "fit, twice, top 3 stages, empty cache": "3"}
        groups.insert(3, _whole(settings, "d-mobilenet", f"local-dir:{settings.pretrained}", ours, modules))
    return groups


def _resnet18(settings: Settings) -> str:
    return f"local-dir:{settings.work / 'weights' / 'resnet18'}"


def _fit(settings: Settings, experiment: str, images: int, epochs: int, *flags: str) -> str:
    """Write the arguments of one ``fashion-tl fit``."""
    arguments = ["-c", f"experiments/{experiment}.yaml", "--data.source.root", str(settings.work / "data")]
    arguments += ["--data.per_class", str(images // 10)] if images else []
    return shlex.join([*arguments, "--trainer.max_epochs", str(epochs), *flags])


def _ours(settings: Settings, folder: str, *fits: str, cold: bool = False) -> tuple[str, ...]:
    arguments = [part for fit in fits for part in ("--fit", fit)]
    return (*arguments, "--work", str(settings.work / folder), *(["--cold"] if cold else []))


def _plain(settings: Settings, folder: str, images: int, epochs: int, *flags: str) -> tuple[str, ...]:
    """Write the arguments that all sides but ours take."""
    paths = ("--data", settings.work / "data", "--split", settings.work / f"split-{images}.npz")
    return (*map(str, (*paths, "--work", settings.work / folder)), "--epochs", str(epochs), *flags)


def _phases(settings: Settings) -> list[Group]:
    images, backbone = settings.some(), _resnet18(settings)
    head = ("--model.backbone", backbone, "--model.train", "head")
    top = ("--model.backbone", backbone, "--model.train", "layer4", "--data.batch_size", "128")
    first = _fit(settings, "phase1", images, settings.epochs(10), *head)
    second = _fit(settings, "phase1", images, settings.epochs(5), *top)
    # One pass that keeps what both phases need: a schedule that passes both boundaries.
    kept = _fit(settings, "phase1", images, 2, "--model.backbone", backbone, "--model.train", "{0: head, 1: layer4}")
    rates = ("--backbone", backbone, "--lr", "0.003", "--weight_decay", "0.0001", "--warmup", "0.05")
    return [
        Group(
            "a",
            f"Phase 1: the head of ResNet-18 at 64 px, {settings.epochs(10)} epochs",
            (
                Side(
                    "usual Lightning pipeline",
                    "usual",
                    _plain(settings, "a-usual", images, settings.epochs(10), *rates, "--batch_size", "256"),
                    tuned=True,
                ),
                Side("fit, empty cache", "ours", _ours(settings, "a", first, cold=True)),
                Side("fit, warm cache", "ours", _ours(settings, "a", first), warm=True),
            ),
            (
                Ratio("fit, empty cache", "usual Lightning pipeline", 8),
                Ratio("fit, warm cache", "usual Lightning pipeline", 60),
            ),
            "ResNet-18 has random weights, the same on all sides, so the accuracies say little.",
        ),
        Group(
            "b",
            f"Phase 2: layer4 and the head of ResNet-18 at 64 px, {settings.epochs(5)} epochs",
            (
                Side(
                    "usual Lightning pipeline",
                    "usual",
                    _plain(settings, "b-usual", images, settings.epochs(5), *rates, "--train", "layer4"),
                    tuned=True,
                ),
                Side("fit, empty cache", "ours", _ours(settings, "b", second, cold=True)),
                Side(
                    "fit, activations kept by phase 1's pass",
                    "ours",
                    _ours(settings, "b", second),
                    before=_ours(settings, "b", kept, cold=True),
                ),
            ),
            (
                Ratio("fit, activations kept by phase 1's pass", "usual Lightning pipeline", 2.1),
                Ratio("fit, empty cache", "usual Lightning pipeline", 1.7),
            ),
            "ResNet-18 has random weights, the same on all sides, so the accuracies say little.",
        ),
    ]


def _scratch(settings: Settings) -> Group:
    images, epochs = settings.most(), settings.epochs(3)
    rates = ("--lr", "0.1", "--weight_decay", "0.0005", "--warmup", "0.2")
    return Group(
        "c",
        f"The scratch CNN at 28 px, all training images, {epochs} epochs",
        (
            Side("bare PyTorch loop", "bare_scratch", _plain(settings, "c-bare", images, epochs, *rates)),
            Side("fit", "ours", _ours(settings, "c", _fit(settings, "scratch", images, epochs))),
        ),
        (Ratio("fit", "bare PyTorch loop", 0.95),),
        "Both augment alike; the bare loop keeps the best weights in a file, `fit` leaves a whole record.",
    )


def _whole(settings: Settings, name: str, backbone: str, stages: dict[str, str], modules: tuple[str, ...]) -> Group:
    """Describe both phases; ``stages`` says for each of our sides what it trains in the second, the peers' first."""
    images, frozen, thawed = settings.some(), settings.epochs(3), settings.epochs(5)

    def ours(stage: str) -> tuple[str, ...]:
        common = ("--model.backbone", backbone, "--data.augment", "{hflip: 0.5, translate: 0}")
        first = _fit(settings, "phase1", images, frozen, *common, "--data.batch_size", "128")
        second = _fit(settings, "phase2", images, thawed, *common, "--model.train", stage)
        return _ours(settings, name, first, second, cold=True)

    shared = ("--backbone", backbone, "--freeze_epochs", str(frozen), "--hflip")
    rates = ("--lr", "0.003", "0.004", "--backbone_lr", "0.002", "--weight_decay", "0.02", "--dropout", "0.2")
    random = "ResNet-18 has random weights, the same on all sides, so the accuracies say little. "
    return Group(
        name,
        f"Both phases, {frozen} and {thawed} epochs, 64 px, "
        + ("MobileNetV2 0.35 with ImageNet weights" if name == "d-mobilenet" else "ResNet-18"),
        (
            Side(
                "fastai",
                "fastai_side",
                _plain(settings, f"{name}-fastai", images, thawed, *shared),
                environment="fastai",
                tuned=True,
            ),
            Side(
                "finetuning-scheduler",
                "fts_side",
                _plain(settings, f"{name}-fts", images, thawed, *shared, *rates, "--train", *modules),
                environment="fts",
                tuned=True,
            ),
            *(Side(side, "ours", ours(stage)) for side, stage in stages.items()),
        ),
        (
            *(Ratio(side, "fastai", 6, accuracy=True) for side in stages),
            Ratio(next(iter(stages)), "finetuning-scheduler", None),
        ),
        ("" if name == "d-mobilenet" else random)
        + "Horizontal flips are the only augmentation on all sides. fastai runs `fine_tune` with its own head, rates "
        "and schedule, which trains the whole backbone in the second phase; finetuning-scheduler trains what the "
        "first of `fit`'s sides trains. `fit` tests after each phase.",
    )


def _search(settings: Settings) -> Group:
    images, epochs, backbone = settings.some(), settings.epochs(3), _resnet18(settings)
    rates = SEARCH[:3] if settings.quick else SEARCH
    plain = rates[3::4][:2] if not settings.quick else rates[:1]
    tried = f"{{model.lr: [{', '.join(map(str, rates))}]}}"
    search = _fit(settings, "phase1", images, epochs, "--model.backbone", backbone, "--search", tried)
    flags = ("--backbone", backbone, "--weight_decay", "0.0001", "--warmup", "0.05", "--batch_size", "256")
    return Group(
        "e",
        f"A search of {len(rates)} learning rates of the head, {epochs} epochs each",
        (
            Side(
                f"{len(rates)} plain runs",
                "usual",
                _plain(settings, "e-usual", images, epochs, *flags, "--lr", *map(str, plain)),
                factor=len(rates) // len(plain),
                tuned=True,
            ),
            Side("fit --search, warm cache", "ours", _ours(settings, "e", search), warm=True),
        ),
        (Ratio("fit --search, warm cache", f"{len(rates)} plain runs", 50),),
        f"Of the plain runs {len(plain)} were run each time (rates {', '.join(map(str, plain))}) and their seconds "
        f"multiplied by {len(rates) // len(plain)}; accuracies are those of the best run on each side, of "
        f"{len(plain)} and of {len(rates)} rates. `fit` searches in one process, then trains and tests the best once "
        "more; of whole processes, the plain runs' imports count once for each run.",
    )


def _cached(
    settings: Settings, name: str, stage: str, images: int, batch_size: int, epochs: int, target: float
) -> Group:
    epochs, backbone = settings.epochs(epochs), _resnet18(settings)
    flags = ("--model.backbone", backbone, "--model.train", stage, "--data.batch_size", str(batch_size))
    fits = [_fit(settings, "phase1", images, count, *flags) for count in (1, 1, epochs)]
    what = "features" if stage == "head" else "activations"
    folder = settings.work / f"{name.removeprefix('f-')}-{images}"
    plain = ("--activations", str(folder), "--backbone", backbone, "--batch_size", str(batch_size))
    rates = ("--lr", "0.003", "--weight_decay", "0.0001", "--warmup", "0.05")
    train = () if stage == "head" else ("--train", stage)
    bare, ours, empty = f"bare loop over {what} in memory", "fit, warm cache", "Lightning's loop with nothing in it"
    loop = _plain(settings, f"{name}-bare", images, epochs, *plain, *rates, *train)
    return Group(
        name,
        f"ResNet-18's {'head alone' if stage == 'head' else 'top stage and head'} on cached {what}, "
        f"batches of {batch_size}",
        (
            Side(bare, "bare_cached", loop),
            Side(ours, "ours", _ours(settings, name, *fits), warm=True),
            *([Side(empty, "lightning_cached", loop)] if stage == "head" else []),
        ),
        (
            Ratio(ours, bare, target, "epoch_seconds"),
            *([Ratio(empty, bare, None, "epoch_seconds")] if stage == "head" else []),
        ),
        "Compared are the seconds of one more epoch with its validation: for `fit` a run of "
        f"{epochs} epochs less a run of 1, over {epochs - 1}, both after one that is not counted, checkpoints "
        "and record of every epoch included; for the bare loop the mean of all epochs but the first."
        + (f" {empty}: `Trainer(barebones=True)`, no callbacks, no logger, no checkpoints." if stage == "head" else ""),
    )
