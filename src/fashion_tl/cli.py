"""The one entry of the command line. It imports what a verb needs only when that verb is asked for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

from fashion_tl import __version__
from fashion_tl.errors import UserError, unknown_name

HELP = """usage: fashion-tl VERB ...

Transfer-learning experiments on images.

  fit -c FILE       train, validate, test the best checkpoint, leave a record
  validate, test    evaluate a checkpoint: -c FILE --ckpt_path CHECKPOINT
  predict           classify image files with a checkpoint
  export            write a trained backbone as a local-dir: backbone
  stages            list the stages of a backbone
  runs              list the recorded runs
  compare           write one report over recorded runs: reports/index.html
  explain           show where a classifier looks: heat maps, filters, features
  diagnose          look into a run's errors and calibration, and calibrate its checkpoint
  robustness        measure corrupted, shifted, turned and foreign images
  cache             list or clear the cached activations

`fashion-tl VERB --help` tells more; `fashion-tl --version` prints the version.
"""


def _train(args: list[str]) -> None:
    from fashion_tl.runs.verbs import run

    run(args)


def _tool(args: list[str]) -> None:
    from fashion_tl.tools import run

    run(args)


VERBS: dict[str, Callable[[list[str]], None]] = {
    **dict.fromkeys(("fit", "validate", "test"), _train),
    **dict.fromkeys(
        ("predict", "export", "stages", "runs", "compare", "explain", "diagnose", "robustness", "cache"), _tool
    ),
}


def console() -> None:
    """Run the command line as a program."""
    sys.exit(main())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments without the program's name; the process's own if None.

    Returns:
        0 when done, 2 when the user's input is wrong, 130 after Ctrl-C, 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if given[0] == "--version":
        print(f"fashion-tl {__version__}")
        return 0
    # As LightningCLI's users write it: fashion-tl --config FILE fit
    verb = next((i for i, arg in enumerate(given) if arg in VERBS), 0)
    if given[0].startswith("-"):
        given.insert(0, given.pop(verb))
    try:
        if given[0] not in VERBS:
            raise unknown_name("verb", given[0], VERBS, "`fashion-tl --help` explains them.")
        VERBS[given[0]](given)
    except UserError as error:
        print(f"fashion-tl: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) and error.filename:
            print(f"fashion-tl: error: {error.filename}: {error.strerror}. Choose another folder.", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"fashion-tl: error: the disk is full ({error.filename or error.strerror}). Free some space, then go on "
            "with --ckpt_path and the run's last.ckpt.",
            file=sys.stderr,
        )
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
