"""Studies in databases: several processes, and machines that share nothing else."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Tune, results_of

FEW = ("--sampler", "random", "--pruner", "none", "--trainer.max_epochs", "1", "--name", "shared")


def binaries() -> Path | None:
    """Find the programs of a PostgreSQL server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that is started for the test; skips where there is none, or no driver."""
    where = binaries()
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)
    if where is None or driver is None:
        pytest.skip("needs a PostgreSQL server (initdb) and psycopg")
    folder = tmp_path_factory.mktemp("postgresql")
    as_other: dict[str, str] = {}
    if os.geteuid() == 0:  # a server does not run as root
        user = next((each.pw_name for each in pwd.getpwall() if each.pw_name in ("postgres", "nobody")), None)
        if user is None:
            pytest.skip("a PostgreSQL server needs a user other than root")
        as_other = {"user": user}
        shutil.chown(folder, user)
        for parent in folder.parents:
            if parent.owner() == "root" and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, quiet = str(folder / "data"), {"cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    make = [where / "initdb", "-D", data, "-U", "tuner", "--auth=trust", "--no-sync"]
    subprocess.run(make, check=True, **quiet, **as_other)  # type: ignore[call-overload]
    start = [where / "postgres", "-D", data, "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    with subprocess.Popen([*start, "-F"], **quiet, **as_other) as server:  # type: ignore[call-overload]
        try:
            for _ in range(100):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"postgresql+{driver}://tuner:secret@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for connections


def share(tune: Tune, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Begin a study on one machine, by several processes, and end it on another that shares the database alone."""
    here, there = ("--log_dir", "here"), ("--log_dir", "there", "--checkpoint_dir", "there_checkpoints")
    assert tune(*FEW, *here, "--storage", url, "--trials", "3", "--processes", "2") == 0
    capfd.readouterr()
    assert tune(*FEW, *there, "--storage", url, "--trials", "5") == 0
    shown = capfd.readouterr().out
    assert "3 trials are finished already" in shown
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("[")] == [
        ["[4/5]", "trial", "3"], ["[5/5]", "trial", "4"],
    ]  # fmt: skip
    assert "secret" not in shown
    assert {path.name for path in Path("here/tuning/shared/runs").iterdir()} == {f"trial{n:04}" for n in range(3)}
    assert {path.name for path in Path("there/tuning/shared/runs").iterdir()} == {"trial0003", "trial0004"}
    # In one process on one machine, without a database, the trials are the same.
    assert tune(*FEW, "--trials", "5") == 0
    import json

    found = json.loads(Path("there/tuning/shared/results.json").read_text())["trials"]
    alone = results_of("shared")["trials"]
    assert [(row["settings"], row["value"]) for row in found] == [(row["settings"], row["value"]) for row in alone]


@pytest.mark.slow
@pytest.mark.thorough
def test_machines_share_sqlite(tune: Tune, capfd: pytest.CaptureFixture[str]) -> None:
    share(tune, "sqlite:///trials.db", capfd)


@pytest.mark.slow
def test_machines_share_postgresql(tune: Tune, postgresql: str, capfd: pytest.CaptureFixture[str]) -> None:
    share(tune, postgresql, capfd)
