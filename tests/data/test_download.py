"""Downloads against a server on this machine that misbehaves in every way a server can."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.data import download as module
from fashion_tl.data.download import DownloadError, download
from fashion_tl.errors import UserError

CONTENT = bytes(range(256)) * 40
Answer = Callable[["Server"], None]


class Server(BaseHTTPRequestHandler):
    """Answers one request after the other as the test says, and the last of these for ever."""

    answers: list[Answer]
    ranges: list[str | None]
    stop: threading.Event

    def do_GET(self) -> None:
        self.ranges.append(self.headers.get("Range"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(self)

    def begin(self, length: int | None, status: int = 200) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def whole(server: Server) -> None:
    server.begin(len(CONTENT))
    server.wfile.write(CONTENT)


def without_length(server: Server) -> None:
    server.begin(None)
    server.wfile.write(CONTENT)


def cut_off(server: Server) -> None:
    server.begin(len(CONTENT))
    server.wfile.write(CONTENT[:5000])


def rest(server: Server) -> None:
    start = int((server.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
    server.begin(len(CONTENT) - start, 206)
    server.wfile.write(CONTENT[start:])


def stalled(server: Server) -> None:
    server.begin(len(CONTENT))
    server.wfile.write(CONTENT[:5000])
    server.wfile.flush()
    server.stop.wait(10)


def silent(server: Server) -> None:
    server.stop.wait(10)


def dripping(server: Server) -> None:
    server.begin(len(CONTENT))
    while not server.stop.wait(0.02):
        server.wfile.write(b"x")
        server.wfile.flush()


def wrong(server: Server) -> None:
    server.begin(20)
    server.wfile.write(b"please log in first.")


def hung_up(server: Server) -> None:
    server.connection.close()


def status(code: int) -> Answer:
    return lambda server: server.send_error(code)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Start a server that gives these answers; returns the address of a file."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(module, "STALLED", 0.3)
    Server.stop, Server.ranges = threading.Event(), []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        monkeypatch.setattr(server, "handle_error", lambda *_: None)  # clients go while it writes
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def start(*answers: Answer) -> str:
            Server.answers = list(answers)
            return f"http://127.0.0.1:{server.server_port}/file.gz"

        yield start
        Server.stop.set()
        server.shutdown()
        thread.join()


def check(path: Path) -> None:
    if path.read_bytes() != CONTENT:
        raise UserError(f"{path} is damaged. Replace it.")


@pytest.mark.parametrize(
    "answers",
    [
        (whole,),
        (without_length,),
        (cut_off, whole),
        (cut_off, rest),
        (stalled, rest),
        (silent, whole),
        (hung_up, status(500), status(503), whole),
        (cut_off, status(416), whole),
        (cut_off, wrong, whole),
        (wrong, wrong, whole),
    ],
    ids=lambda answers: " then ".join(getattr(answer, "__name__", "error") for answer in answers),
)
def test_a_server_that_gives_the_file_in_the_end(
    serve: Callable[..., str], tmp_path: Path, answers: tuple[Answer, ...]
) -> None:
    path = tmp_path / "made" / "file.gz"
    download(serve(*answers), path, check)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert len(Server.ranges) == len(answers)
    if answers[-1] is rest:
        assert Server.ranges == [None, "bytes=5000-"]


@pytest.mark.parametrize(
    ("answer", "attempts", "reason"),
    [
        (cut_off, 4, r"the server broke off after 5,000 of 10,240 bytes"),
        (stalled, 4, r"the server sent nothing for 0\.3 s"),
        (silent, 4, r"the server sent nothing for 0\.3 s"),
        (hung_up, 4, r"closed connection without response"),
        (status(503), 4, r"HTTP Error 503"),
        (status(404), 1, r"HTTP Error 404"),
        (wrong, 4, r"is damaged"),
    ],
    ids=["cut off", "stalled", "silent", "hung up", "503", "404", "wrong"],
)
def test_a_server_that_never_does(
    serve: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: Answer,
    attempts: int,
    reason: str,
) -> None:
    address = serve(answer)
    with pytest.raises(DownloadError, match=f"{address}: .*{reason}") as caught:
        download(address, tmp_path / "file.gz", check)
    assert "\n" not in str(caught.value)
    assert len(Server.ranges) == attempts
    assert capsys.readouterr().err.count("once more in") == attempts - 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_takes_for_ever(
    serve: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.5)
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"only .* bytes of 10240 came in"):
        download(serve(dripping), tmp_path / "file.gz", check)
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_continued(serve: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / ".file.partial.gz").write_bytes(CONTENT[:77])
    download(serve(rest), tmp_path / "file.gz", check)
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert Server.ranges == ["bytes=77-"]


def test_ctrl_c_leaves_nothing(serve: Callable[..., str], tmp_path: Path) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(serve(whole), tmp_path / "file.gz", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_tried_again(
    serve: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    address = serve(whole)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        download(address, tmp_path / "file.gz", check)
    assert len(Server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_several_at_once_fetch_a_file_once(serve: Callable[..., str], tmp_path: Path) -> None:
    def slow(server: Server) -> None:
        time.sleep(0.2)
        whole(server)

    address, begin = serve(slow), threading.Barrier(4)

    def run() -> None:
        begin.wait()
        download(address, tmp_path / "file.gz", check)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(Server.ranges) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file.gz"]
