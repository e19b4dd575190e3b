"""``fashion-tl push`` to a hub on this machine, which plays what huggingface_hub asks for."""

from __future__ import annotations

import base64
import json
import socket
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from fashion_tl.cli import main

Output = pytest.CaptureFixture[str]
TOKEN = "hf_of_a_test"  # noqa: S105 - of no hub
FILES = {"README.md": b"# small\n", "labels.txt": b"a\nb\n", "model.safetensors": bytes(range(256)) * 3}


class Hub:
    """What a hub knows and has seen.

    Attributes:
        address: Where it answers.
        repositories: Whether each one is private, by its name.
        asked: Method and path of each request.
        files: Contents of the committed files, by repository and path.
        commits: Number of commits.
        refuses: Status by the beginning of a path that is answered so.
    """

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, bool] = {}
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.commits = 0
        self.refuses: dict[str, int] = {}
        self.uploaded: dict[str, bytes] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answer a request as the Hugging Face Hub does."""
        self.asked.append(f"{method} {path}")
        if refused := next((status for start, status in self.refuses.items() if path.startswith(start)), None):
            return refused, {"error": "not today"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [{"message": "no licence"}], "errors": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'ada'}/{asked['name']}"
            there = name in self.repositories
            self.repositories.setdefault(name, asked["visibility"] == "private")
            return 409 if there else 200, {"url": f"{self.address}/{name}"}
        if path.startswith("/upload/"):
            self.uploaded[path.removeprefix("/upload/")] = body
            return 200, {}
        if path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            return 200, {"objects": [one | {"actions": {"upload": self._place(one["oid"])}} for one in objects]}
        repository, _, verb = path.removeprefix("/api/models/").partition("/preupload/")
        if verb:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            told = [{"path": p, "uploadMode": modes[p.startswith("model.")], "shouldIgnore": False} for p in paths]
            return 200, {"files": told}
        repository, _, verb = repository.partition("/commit/")
        if verb:
            self._commit(repository, [json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.address}/{repository}/commit/0", "commitOid": "0" * 40}
        return 200, {"id": repository, "private": self.repositories[repository]}

    def _place(self, oid: str) -> dict[str, str]:
        return {"href": f"{self.address}/upload/{oid}"}

    def _commit(self, repository: str, lines: list[Any]) -> None:
        self.commits += 1
        for value in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
            large = "oid" in value
            content = self.uploaded[value["oid"]] if large else base64.b64decode(value["content"])
            self.files[f"{repository}/{value['path']}"] = content


@pytest.fixture
def hub(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            allowed = self.path.startswith("/upload/") or self.headers["Authorization"] == f"Bearer {TOKEN}"
            status, told = known.answer(self.command, self.path, content) if allowed else (401, {"error": "who?"})
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server asks for

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(workdir / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        known.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", known.address)  # as HF_ENDPOINT, read at import, would
        yield known
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(workdir: Path) -> Path:
    """What an export looks like."""
    made = workdir / "out"
    made.mkdir()
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    return made


def fails(capsys: Output, *args: object) -> str:
    capsys.readouterr()
    assert main(["push", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fashion-tl: error: ")
    assert err.count("\n") == 1
    assert TOKEN not in err
    return err


def test_files_of_an_export_go_in_one_commit(hub: Hub, folder: Path, capsys: Output) -> None:
    for name in ("best.ckpt", "notes.txt", ".draft.1.2.host"):
        (folder / name).write_text("mine")
    (folder / "LICENSE").write_text("MIT")
    assert main(["push", "out", "ada/garments"]) == 0
    out, err = capsys.readouterr()
    assert out == f"4 files (private): {hub.address}/ada/garments\n"
    assert err == "not sent, as `export` does not write it: best.ckpt, notes.txt\n"
    assert hub.files == {f"ada/garments/{name}": content for name, content in {**FILES, "LICENSE": b"MIT"}.items()}
    assert (hub.repositories, hub.commits) == ({"ada/garments": True}, 1)


def test_a_name_alone_is_of_the_owner_of_the_token(hub: Hub, folder: Path, capsys: Output) -> None:
    assert main(["push", "out", "garments", "--private", "false", "--endpoint", f"{hub.address}/"]) == 0
    assert capsys.readouterr().out == f"3 files (public): {hub.address}/ada/garments\n"
    assert hub.repositories == {"ada/garments": False}


def test_what_is_public_is_no_place_for_what_is_private(hub: Hub, folder: Path, capsys: Output) -> None:
    hub.repositories["ada/known"] = False
    assert "ada/known is there, and public" in fails(capsys, "out", "ada/known")
    assert hub.files == {}
    assert main(["push", "out", "ada/known", "--private", "false"]) == 0
    hub.repositories["ada/hidden"] = True
    assert main(["push", "out", "ada/hidden", "--private", "false"]) == 0
    assert "(private)" in capsys.readouterr().out
    assert len(hub.files) == 2 * len(FILES)


@pytest.mark.parametrize(
    ("refused", "status", "message"),
    [
        ("/api/repos/create", 401, "does not know the token (401): `hf auth login`"),
        ("/api/repos/create", 403, "does not let this token write ada/garments (403)"),
        ("/api/repos/create", 500, "answers 500"),
        ("/api/models/ada/garments/commit", 403, "does not let this token write ada/garments (403)"),
        ("/api/validate-yaml", 400, "answers 400"),
        ("/upload/", 403, "does not let this token write ada/garments (403)"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, folder: Path, capsys: Output, refused: str, status: int, message: str) -> None:
    hub.refuses = {refused: status}
    if status != 500 and refused == "/api/repos/create":  # else it might be there and open to the token
        hub.refuses["/api/models/ada/garments"] = status
    told = fails(capsys, "out", "ada/garments")
    assert message in told
    assert told.endswith("No file was committed.\n")
    assert hub.files == {}


def test_nothing_is_sent_without_a_token(hub: Hub, folder: Path, capsys: Output, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    assert "there is no token" in fails(capsys, "out", "ada/garments")
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "does not know the token (401)" in fails(capsys, "out", "ada/garments")


def test_where_no_hub_answers(hub: Hub, folder: Path, capsys: Output) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    for endpoint in (closed, "somewhere"):
        assert f"{endpoint} does not take it: " in fails(capsys, "out", "ada/garments", "--endpoint", endpoint)
    assert hub.asked == []


def test_what_is_no_export_is_not_sent(hub: Hub, folder: Path, capsys: Output) -> None:
    assert "gone is no folder" in fails(capsys, "gone", "ada/garments")
    assert "README.md is no folder" in fails(capsys, folder / "README.md", "ada/garments")
    for repo in ("ada/", "a/b/c", "ada/no such name", ""):
        assert "Name a repository by OWNER/NAME" in fails(capsys, "out", repo)
    (folder / "README.md").write_text("# small\n\nTrained on " + str(folder))
    assert f"README.md names a path of this machine, {folder}" in fails(capsys, "out", "ada/garments")
    (folder / "README.md").unlink()
    (folder / "model.safetensors").rename(folder / "best.ckpt")
    message = fails(capsys, "out", "ada/garments")
    assert "out is no export, it has no README.md, no model.onnx or" in message
    assert hub.asked == []


@pytest.mark.parametrize(
    "text",
    [
        "fit -c{here}/x.yaml",
        "`-c{here}/x.yaml`",
        "see file://{here}/secret/x",
        "began as local-dir:{here}/My Clients/Acme Corp/r18",
        "data{here}/gone",
        "in {temp}/gone",
        "in {home}",
        "in {home}/gone (old)/x",
        "in {marked}/x",
    ],
)
def test_a_card_that_names_a_folder_of_this_machine_is_not_sent(
    text: str, hub: Hub, folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = folder.parent / "_my own"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/ada_of_a_test")
    marked = str(here).replace("_", r"\_")
    told = text.format(here=here, temp=tempfile.gettempdir(), home=Path.home(), marked=marked)
    (folder / "README.md").write_text(f"# small\n\n{told}\n")
    assert "README.md names a path of this machine, " in fails(capsys, folder, "ada/garments")
    assert hub.asked == []


def test_a_card_may_name_what_is_no_folder_of_this_machine(hub: Hub, folder: Path) -> None:
    told = "data/tmp/pets, https://example.org/tmp/pets, ../home/x, .../pets, T-shirt/top, /pets, and/or, /gone/x"
    (folder / "README.md").write_text(f"# small\n\n{told}\n")
    assert main(["push", "out", "ada/garments"]) == 0
