"""The command line in forked children of a process that has imported everything once: a run takes half a second.

A child is its own process group, as a shell makes one, and ends as a program does: its threads are joined.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import pkgutil
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 60.0  # seconds after which a run is taken to hang
PATIENCE = 10.0  # seconds after a signal to one of several processes, until the rest is killed; torchrun waits 30
TRACEBACK = "Traceback (most recent call last)"
# What Python prints where Ctrl-C meets a destructor, or the last moments of the interpreter: the run itself is whole.
NO_FAULT = re.compile(
    r"Exception ignored in.*?KeyboardInterrupt: ?\n|Process ForkProcess-\d+:.*?SystemExit: 0.*?KeyboardInterrupt\n",
    re.DOTALL,
)
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Stop:
    """A signal at a moment of a run.

    Attributes:
        signal: Its number.
        after: Seconds after the start.
        whom: "process", "group" (as the terminal does), or "second" (the second of two processes alone).
    """

    signal: int
    after: float
    whom: str = "process"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Exit status of the first process that did not end with 0; that of a signal is negative.
        seconds: From the start to the end.
        signalled: From the signal to the end; None if the run ended before.
        hung: Whether it had to be killed.
        output: What it printed, errors included.
        stuck: Whether one of several processes had to be killed after the signal, as their launcher does.
    """

    status: int
    seconds: float
    signalled: float | None
    hung: bool
    output: str
    stuck: bool = False

    @property
    def traceback(self) -> bool:
        """Whether a traceback was printed."""
        return TRACEBACK in NO_FAULT.sub("", self.output)

    @property
    def message(self) -> str:
        """The one message of a refusal; empty if it is none."""
        told = {line for line in self.output.splitlines() if line.startswith("fashion-tl: error:")}
        return told.pop() if self.status == 2 and len(told) == 1 and not self.traceback else ""


def warm_up() -> None:
    """Import all that a verb may need, and build the parsers."""
    import torch

    torch.set_num_threads(1)
    import fashion_tl

    for module in pkgutil.walk_packages(fashion_tl.__path__, "fashion_tl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "captum.attr", "safetensors.torch"):
        importlib.import_module(name)
    from fashion_tl.runs.parser import parse

    for verb in ("fit", "validate", "test"):
        parse(verb, ["--name", "warm"])


def call(
    args: Sequence[str],
    folder: Path,
    stop: Stop | None = None,
    *,
    processes: int = 1,
    tweaks: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    limit: float = LIMIT,
    during: Sequence[tuple[float, object]] = (),
) -> Ended:
    """Run ``fashion-tl`` with arguments in a folder.

    Args:
        args: The verb and its arguments.
        folder: Working directory; made if absent. The cache is in it, if the environment names no other.
        stop: A signal to send.
        processes: 1, or 2 that are launched as ``torchrun`` does.
        tweaks: Names of ``_TWEAKS``.
        environment: Variables to set.
        limit: Seconds after which the run is killed and counted as hung.
        during: Functions to call, each so many seconds after the start, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.txt"
    log.unlink(missing_ok=True)
    variables = {"FASHION_TL_CACHE_DIR": str(folder / "cache"), **(environment or {})}
    ranks = [{}] if processes == 1 else _launched(processes)
    began = time.monotonic()
    children = []
    for rank in ranks:
        given = (list(args), folder, log, {**variables, **rank}, tuple(tweaks), limit)
        child = _FORK.Process(target=_main, args=given)
        child.start()
        with suppress(OSError):
            os.setpgid(_pid(child), _pid(child))
        children.append(child)
    for after, act in during:
        _wait(children, began + after)
        if callable(act):
            act()
    signalled = None
    if stop is not None and not _wait(children, began + stop.after):
        signalled = time.monotonic()
        _send(children, stop)
    limit_of_rest = limit if signalled is None or processes == 1 else signalled - began + PATIENCE
    unfinished = not _end(children, began + min(limit, limit_of_rest))
    hung, stuck = unfinished and limit_of_rest >= limit, unfinished and limit_of_rest < limit
    ended = time.monotonic()
    statuses = [child.exitcode or 0 for child in children]
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    worst = next((status for status in statuses if status), 0)
    if worst == 1 and "SystemExit: 0" in text and TRACEBACK not in NO_FAULT.sub("", text):
        worst = 0
    for child in children:
        child.close()
    return Ended(worst, ended - began, None if signalled is None else ended - signalled, hung, text, stuck)


def _pid(child: multiprocessing.process.BaseProcess) -> int:
    return child.pid or 0


def _launched(processes: int) -> list[dict[str, str]]:
    """Return the variables that ``torchrun`` sets in each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "soak",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _main(
    args: list[str], folder: Path, log: Path, variables: dict[str, str], tweaks: tuple[str, ...], limit: float
) -> None:
    try:
        run_in(folder, log)
        faulthandler.dump_traceback_later(limit - 2, file=2)  # where it hangs
        os.environ.update(variables)
        tempfile.tempdir = None  # it was found in the parent's environment
        for tweak in tweaks:
            _TWEAKS[tweak]()
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = int(variables.get("RANK", "0"))  # type: ignore[attr-defined]
        from fashion_tl import cli
    except KeyboardInterrupt:  # a program would be starting
        sys.exit(130)
    sys.argv = ["fashion-tl", *args]
    cli.console()


def run_in(folder: Path, log: Path) -> None:
    """Begin a forked child as a program of its own: its process group, its folder, a file for what it prints."""
    with suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")


def _every_epoch() -> None:
    """Have ``last.ckpt`` written after every epoch; these epochs are shorter than the time between two."""
    from fashion_tl.callbacks.checkpoints import LastCheckpoint

    LastCheckpoint.every_seconds = 0.0


def _on_disk() -> None:
    """Have worker processes decode the image files, as where they do not fit in memory."""
    from fashion_tl.data import image_folder

    setattr(image_folder, "memory_limit", lambda *_: 0)  # noqa: B010 - the name is imported there


def _dies() -> None:
    """Have the process killed after two batches of the second epoch."""
    from fashion_tl.callbacks.checkpoints import LastCheckpoint

    keep = LastCheckpoint.on_train_batch_end

    def keep_and_die(self: LastCheckpoint, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        keep(self, trainer, module, outputs, batch, batch_idx)
        if (trainer.current_epoch, batch_idx) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)

    LastCheckpoint.on_train_batch_end = keep_and_die  # type: ignore[assignment,method-assign]


_TWEAKS = {"every epoch": _every_epoch, "on disk": _on_disk, "dies in its second epoch": _dies}


def _send(children: Sequence[multiprocessing.process.BaseProcess], stop: Stop) -> None:
    chosen = children[1:] if stop.whom == "second" else children
    for child in chosen:
        with suppress(ProcessLookupError):
            (os.killpg if stop.whom == "group" else os.kill)(_pid(child), stop.signal)


def _wait(children: Sequence[multiprocessing.process.BaseProcess], until: float) -> bool:
    """Wait until all have ended or a moment has come; returns whether all have ended."""
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
    return all(child.exitcode is not None for child in children)


def _end(children: Sequence[multiprocessing.process.BaseProcess], until: float) -> bool:
    """Wait for the end; as ``torchrun``, stop the rest where one has failed. Returns whether none had to be killed."""
    while time.monotonic() < until and not _wait(children, min(until, time.monotonic() + 0.5)):
        if any(child.exitcode for child in children) and not _wait(children, time.monotonic() + 2):
            for child in children:
                if child.exitcode is None:
                    child.terminate()
            _wait(children, min(until, time.monotonic() + 30))
            break
    hung = any(child.exitcode is None for child in children)
    for child in children:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(_pid(child), signal.SIGKILL)  # with what it has started
        child.join()
    return not hung
