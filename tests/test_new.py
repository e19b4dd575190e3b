"""A new experiment passes the parser, and so does each setting that it has as a comment."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fashion_tl.cli import main
from fashion_tl.runs.parser import parse


def test_a_new_experiment_passes_the_parser(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "photos" / "cats").mkdir(parents=True)
    assert main(["new", "mine"]) == 0
    assert "fashion-tl fit -c mine.yaml" in capsys.readouterr().out
    config = parse("fit", ["-c", "mine.yaml"])
    assert (config.name, config.data.source.class_path) == ("mine", "fashion_tl.FashionMNIST")
    (workdir / "experiments").mkdir()
    assert main(["new", "1e3", "--images", "photos"]) == 0
    config = parse("fit", ["-c", "experiments/1e3.yaml"])
    assert (config.name, config.data.source.init_args.folder, config.data.image_size) == ("1e3", "photos", 160)
    assert config.model.init_args.batch_norm == "eval"
    for name in ("null", "2024", "0x1F", "1_000", "on", "e3"):
        assert main(["new", name, "--output", "other/file.yaml"]) == 0
        assert parse("fit", ["-c", "other/file.yaml"]).name == name
        Path("other/file.yaml").unlink()


def test_what_it_has_as_comments_can_be_uncommented(workdir: Path) -> None:
    assert main(["new", "mine"]) == 0
    text = Path("mine.yaml").read_text()
    begins = text.index("seed_everything")
    comments = re.findall(r"^ *# \w+: .*$", text[begins:], re.MULTILINE)
    assert len(comments) > 9
    plain = [(comment, comment.replace("# ", "", 1)) for comment in comments]
    for comment, setting in plain:
        Path("changed.yaml").write_text(text.replace(comment, setting))
        assert parse("fit", ["-c", "changed.yaml"]) != parse("fit", ["-c", "mine.yaml"]), setting


def test_nothing_is_overwritten_and_bad_names_are_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("name: other")
    for args, told in (
        (["mine"], "mine.yaml exists"),
        (["a b"], "a run's name"),
        (["other", "--images", "nowhere"], "no such folder"),
        (["../other"], "a run's name"),
        (["other.yaml"], "fashion-tl new other\n"),
    ):
        assert main(["new", *args]) == 2
        assert told in capsys.readouterr().err
    assert [path.name for path in workdir.iterdir()] == ["mine.yaml"]
    assert Path("mine.yaml").read_text() == "name: other"


def test_the_command_that_it_prints_can_be_typed(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "spaced", "--output", "my exps/a b.yaml"]) == 0
    command = capsys.readouterr().out.partition("then ")[2]
    assert shlex.split(command) == ["fashion-tl", "fit", "-c", "my exps/a b.yaml"]
    assert f"# Command:  {command}" in Path("my exps/a b.yaml").read_text()
