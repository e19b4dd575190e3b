"""Two processes of ``fashion-tl`` as ``torchrun`` starts them, forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fashion_tl.runs.verbs", "timm"])
LIMIT = 240.0  # seconds


def two_processes(*args: str) -> str:
    """Run the command line in two processes, in the present folder and environment; returns what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
    logs = [Path(f".process{rank}.txt").resolve() for rank in range(2)]
    children = [
        _SERVER.Process(
            target=_run, args=(args, Path.cwd(), log, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank, log in enumerate(logs)
    ]
    try:
        for child in children:
            child.start()
        for child in children:
            child.join(LIMIT)
        told = "\n".join(log.read_text(encoding="utf-8") for log in logs if log.is_file())
        assert [child.exitcode for child in children] == [0, 0], told
    finally:
        for child in children:
            child.kill()
            child.join()
            child.close()
        for log in logs:
            log.unlink(missing_ok=True)
    return told


def _run(args: tuple[str, ...], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    torch.set_num_threads(1)
    rank_zero_only.rank = int(environment["RANK"])  # type: ignore[attr-defined]
    from fashion_tl import cli

    sys.argv = ["fashion-tl", *args]
    cli.console()
