"""The one entry of the command line. It imports what a verb needs only when that verb is asked for."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fashion_tl import __version__
from fashion_tl.errors import UserError, check_known

# Each is run by MODULE:NAME and has a parser of its own, as LightningCLI: configurations, and every field by flag.
CONFIGURED = {
    "fit": ("runs.verbs:train", "-c FILE: train, validate, test the best checkpoint, leave a record"),
    "validate": ("runs.verbs:validate", "-c FILE --ckpt_path CHECKPOINT: evaluate on the validation images"),
    "test": ("runs.verbs:test", "-c FILE --ckpt_path CHECKPOINT: evaluate on the test images"),
    "probe": ("probe.verb:main", "-c FILE: solve a linear classifier on the features of every stage"),
}
# Each is a function, MODULE:NAME, whose signature and docstring are its command line.
FUNCTIONS = {
    "new": ("new:new", "write a commented experiment to begin with"),
    "predict": ("inspection.predict:predict", "classify image files with a checkpoint"),
    "export": ("export.verb:export", "write a trained network as ONNX, torch.export, safetensors or timm files"),
    "push": ("export.push:push", "send an exported folder to the Hugging Face Hub"),
    "stages": ("models.listing:stages", "list the stages of a backbone"),
    "runs": ("records.listing:runs", "list the recorded runs"),
    "compare": ("report.compare:compare", "write one report over recorded runs: reports/index.html"),
    "ensemble": ("combine.ensemble:ensemble", "combine finished runs: mean, selection, stack, soup of weights, views"),
    "interpolate": ("combine.interpolate:interpolate", "find the best network between two runs (WiSE-FT)"),
    "explain": ("inspection.explain:explain", "show where a classifier looks: heat maps, filters, features"),
    "diagnose": ("inspection.diagnose:diagnose", "measure a run's errors and calibration, calibrate its checkpoint"),
    "robustness": ("inspection.robustness:robustness", "measure corruptions, shifts and out-of-distribution images"),
    "audit": ("inspection.audit:audit", "find duplicates across train, validation and test; score runs without them"),
    "verify": ("inspection.verify:verify", "compute what records say again: figures, data, split, weights"),
    "tournament": ("tournament.verbs:tournament", "compare strategies of training over label budgets and seeds"),
    "ablate": ("tournament.verbs:ablate", "turn off each switch of a configuration alone, or add changes alone"),
    "tune": ("tuning.verbs:tune", "search settings by validation (Optuna): TPE, random or grid; prune; test the best"),
    "cache": ("cache.listing:cache", "list or clear what is cached: features, decoded images, indices of folders"),
    "doctor": ("doctor:doctor", "say what this machine offers, what is wrong, and how to mend it"),
    "completion": ("completion:completion", "print the script that completes verbs, flags and runs in a shell"),
}
VERBS = CONFIGURED | FUNCTIONS


def help_text() -> str:
    """Return what `fashion-tl --help` prints."""
    return "\n".join(
        (
            "usage: fashion-tl VERB ...\n\nTransfer-learning experiments on images.\n",
            *(f"  {verb:12} {text}" for verb, (_, text) in VERBS.items()),
            "\n`fashion-tl VERB --help` tells more; `fashion-tl --version` prints the version.\n",
        )
    )


def function_of(home: str) -> Callable[..., Any]:
    """Import what is run for a verb, by MODULE:NAME."""
    module, _, name = home.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"fashion_tl.{module}"), name)
    return found


def run(verb: str, args: list[str]) -> None:
    """Run a verb with its arguments.

    Raises:
        UserError: If the user's input is wrong.
    """
    check_known("verb", verb, VERBS, "`fashion-tl --help` explains them.")
    if verb in CONFIGURED:
        function_of(CONFIGURED[verb][0])(args)
    else:
        from fashion_tl.commands import call

        call(function_of(FUNCTIONS[verb][0]), f"fashion-tl {verb}", args)


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = 2000  # with fewer, threads have to be woken at each operation; more take the cores from other work


def let_threads_sleep() -> None:
    """Have OpenMP's threads (libgomp's) wait briefly, then sleep, unless the user has chosen; before torch is imported.

    By default they spin for many milliseconds, which on cores that have other work as well makes a step take several
    times as long; where they sleep at once, a step of many small operations waits for them to wake.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


class _Output(io.FileIO):
    """A stream of the process that goes nowhere once its reader has gone, as `head` does: a training goes on.

    Args:
        stream: The stream in whose place it is, which would close the descriptor if nobody kept it.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.fileno(), "w", closefd=False)
        self.stream = stream

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - a buffer
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for libraries and later processes too
            os.close(nowhere)
            return len(data)


def outlasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to write to in the place of one of the process's own, whose reader may go."""
    stream.flush()
    raw = _Output(stream)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as Python's own, unbuffered
        encoding=stream.encoding,
        errors="backslashreplace",  # names of files may hold what a terminal cannot show
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def console() -> None:
    """Run the command line as a program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = outlasting(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = outlasting(sys.stderr)
    sys.exit(main())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments without the program's name; the process's own if None.

    Returns:
        0 when done, 1 when `doctor` finds something wrong, 2 when the user's input is wrong, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    if given[0] == "--version":
        print(f"fashion-tl {__version__}")
        return 0
    if given[0].startswith("-"):  # as LightningCLI's users write it: fashion-tl --config FILE fit
        verb = next((i for i, arg in enumerate(given) if arg in VERBS), 0)
        given.insert(0, given.pop(verb))
    let_threads_sleep()
    try:
        run(given[0], given[1:])
    except UserError as error:
        print(f"fashion-tl: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not error.filename:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror
        hint = "Free some space, then run it again" if full else "Run it again, or choose another place"
        hint += "; --resume true goes on with what is not done." if given[0] == "fit" else "."
        print(f"fashion-tl: error: {error.filename}: {why}. {hint}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        return _status(stop)
    except KeyboardInterrupt:
        return 130
    return 0


def _status(stop: SystemExit) -> int:
    """Tell apart why the process was about to exit: Lightning turns both signals into a SystemExit."""
    if type(stop).__name__ == "SIGTERMException":
        return 143
    if isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    return stop.code if isinstance(stop.code, int) else 0
