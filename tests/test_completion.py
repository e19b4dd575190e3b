"""The script that completes in bash: what it offers, in a real bash, without Python."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest
import shtab

from fashion_tl import cli
from fashion_tl.completion import _plain, whole_parser

DRIVER = """
PATH=/usr/bin:/bin
source ./script
function_name=$(complete -p fashion-tl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=()
$function_name fashion-tl "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
OFFERED = {
    "exp": {"export", "explain"},
    "fit --trainer.max_ep": {"--trainer.max_epochs"},
    "fit --model.backbone_": {"--model.backbone_args", "--model.backbone_lr"},
    "fit --data.source.gr": {"--data.source.group_column"},
    "fit --model ": {"ScratchClassifier", "TransferClassifier"},
    "fit -c ph": {"photo.yaml"},
    "tune --trainer.max_ep": {"--trainer.max_epochs"},
    "tune --sampler ": {"tpe", "random", "grid"},
    "compare ": {"first", "second"},
    "compare first s": {"second"},
    "ensemble f": {"first"},
    "predict --invert ": {"true", "false"},
    "cache ": {"list", "clear"},
}


@pytest.fixture(scope="session")
def parser() -> argparse.ArgumentParser:
    return whole_parser()


@pytest.fixture
def folder(workdir: Path, parser: argparse.ArgumentParser) -> Path:
    """A folder with the script, the records of two runs, a study's folder, and a file."""
    for name in ("first/version_0", "first/version_1", "second/version_0", "tuning/study/runs"):
        (workdir / "lightning_logs" / name).mkdir(parents=True)
    (workdir / "photo.yaml").touch()
    (workdir / "script").write_text(shtab.complete(parser, shell="bash"))  # noqa: S604 - no command
    return workdir


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("typed", OFFERED)
def test_bash_offers(typed: str, folder: Path) -> None:
    words = ["fashion-tl", *typed.split(" ")]
    done = subprocess.run(["bash", "-c", DRIVER, "bash", *words], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == OFFERED[typed]
    assert not done.stderr


def test_every_verb_is_offered(parser: argparse.ArgumentParser) -> None:
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert set(verbs.choices) == set(cli.VERBS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(
    shell: str, parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fashion_tl.completion.whole_parser", lambda: parser)
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--trainer.max_epochs" in script or "trainer.max_epochs" in script
    if interpreter := shutil.which(shell):
        read = [interpreter, "--no-execute" if shell == "fish" else "-n"]
        assert subprocess.run(read, input=script, text=True, capture_output=True, check=False).returncode == 0
    assert cli.main(["completion", "tcsh"]) == 2


def test_texts_hold_nothing_that_a_shell_reads() -> None:
    assert _plain("A table's `path` (below $ROOT): 20 % [of it]. More.") == "A tables path, 20 of it"
    assert len(_plain("word " * 100)) <= 90
    assert _plain(None) == ""
