"""The plan of the benchmarks, read without running any of it."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from benchmarks.groups import Group, Settings
from benchmarks.pairs import plan

ROOT = Path(__file__).parents[2]
TARGETS = {"a": [8, 60], "b": [2.1, 1.7], "c": [0.95], "e": [50], "f-top": [0.95], "f-head": [0.6, None]}


def groups(quick: bool = False, pretrained: bool = True) -> dict[str, Group]:
    settings = Settings(Path("work"), quick=quick, pretrained=Path("mobilenet") if pretrained else None)
    return {group.name: group for group in plan(settings)}


def value(arguments: tuple[str, ...] | list[str], flag: str) -> str | None:
    """Return what a parser would take: the last value of a flag."""
    places = [i for i, argument in enumerate(arguments) if argument == flag]
    return arguments[places[-1] + 1] if places else None


def test_targets_are_those_that_were_set():
    found = {name: [ratio.target for ratio in group.ratios] for name, group in groups().items()}
    assert found == {**TARGETS, "d-mobilenet": [6, 6, None], "d-resnet18": [6, None]}


def test_without_pretrained_weights_the_accuracy_pair_is_left_out():
    assert set(groups(pretrained=False)) == set(groups()) - {"d-mobilenet"}


@pytest.mark.parametrize("quick", [False, True])
def test_ratios_name_sides_and_sides_are_programs(quick):
    for group in groups(quick).values():
        names = [side.name for side in group.sides]
        assert len(set(names)) == len(names)
        assert {name for ratio in group.ratios for name in (ratio.ours, ratio.other)} == set(names)
        for side in group.sides:
            assert (ROOT / "benchmarks" / "sides" / f"{side.module}.py").is_file()


@pytest.mark.parametrize("quick", [False, True])
def test_both_sides_have_the_same_epochs_batches_and_images(quick):
    for group in groups(quick).values():
        seen = set()
        for side in group.sides:
            fits = [shlex.split(a) for f, a in zip(side.arguments, side.arguments[1:], strict=False) if f == "--fit"]
            for fit in fits[-1:]:
                name = value(fit, "-c")
                assert name is not None
                experiment = yaml.safe_load((ROOT / name).read_text())
                epochs = [int(value(f, "--trainer.max_epochs") or 0) for f in fits]
                batch = value(fit, "--data.batch_size") or experiment.get("data", {}).get("batch_size", 128)
                per_class = int(value(fit, "--data.per_class") or 0)
                total = sum(epochs) if group.name.startswith("d-") else epochs[-1]
                seen.add((total, int(batch), per_class * 10))
            if not fits:
                epochs_of = [int(value(side.arguments, flag) or 0) for flag in ("--epochs", "--freeze_epochs")]
                split = value(side.arguments, "--split") or ""
                images = int(split.rpartition("-")[2].removesuffix(".npz"))
                seen.add((sum(epochs_of), int(value(side.arguments, "--batch_size") or 128), images))
        assert len(seen) == 1, (group.name, seen)


def test_a_search_tries_twelve_rates_and_extrapolates_to_as_many():
    plain, ours = groups()["e"].sides
    (tried,) = re.findall(r"--search '\{model\.lr: \[(.*?)\]\}'", " ".join(ours.arguments))
    assert len(set(tried.split(", "))) == 12
    rates = plain.arguments[plain.arguments.index("--lr") + 1 :]
    assert plain.factor * len([rate for rate in rates if not rate.startswith("--")]) == 12
