"""``fashion-tl push``: an exported folder as a repository of models of a hub."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashion_tl import __version__
from fashion_tl.errors import UserError, one_line
from fashion_tl.export.local_paths import paths_of_this_machine
from fashion_tl.export.names import CARD, CONFIG, LABELS, NETWORKS

_SENT = (CARD, LABELS, *NETWORKS, CONFIG)
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE")
_TEXTS = (CARD, LABELS, CONFIG)


def push(folder: Path, repo: str, private: bool = True, endpoint: str | None = None) -> None:
    """Send a folder that `export` wrote, with its model card, to the Hugging Face Hub or another one.

    A repository that is not there is made. All files go in one commit, or none does; others that are there stay.
    Only what `export` writes is sent, and a LICENSE or NOTICE. The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        folder: The folder; look its model card, README.md, over before.
        repo: OWNER/NAME of the repository, or NAME of one of your own.
        private: Whether only you, or your organisation, may see it. With false, all may; else a repository that is
            there and public is refused.
        endpoint: Address of the hub; if not given that of HF_ENDPOINT, else https://huggingface.co.

    Raises:
        UserError: If the folder is no export or names paths of this machine, there is no token, or the hub refuses it.
    """
    files = _files_of(folder)
    for path in files:
        _check_text(path)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    hub = HfApi(endpoint and endpoint.rstrip("/"), library_name="fashion_tl", library_version=__version__)
    _check_repository(repo)
    with _refusing(hub.endpoint, repo):
        hub.token = get_token()
        if not hub.token:
            raise UserError(f"there is no token of {hub.endpoint}: `hf auth login` asks for one, or set HF_TOKEN.")
        whole = hub.create_repo(repo, private=private, exist_ok=True).repo_id
        is_private = bool(hub.model_info(whole).private)
    if private and not is_private:
        raise UserError(f"{whole} is there, and public: name another repository, or send it with --private false.")
    with _refusing(hub.endpoint, whole), _quiet():
        operations = [CommitOperationAdd(path.name, str(path)) for path in files]
        hub.create_commit(whole, operations, commit_message=f"Export of fashion_tl {__version__}")
    seen = "private" if is_private else "public"
    print(f"{len(files)} files ({seen}): {hub.endpoint}/{whole}")


def _files_of(folder: Path) -> list[Path]:
    """List the files of an export that are sent, and tell which are not."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one that `fashion-tl export RUN FOLDER` wrote.")
    there = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    files = [there[name] for name in (*_SENT, *_LICENCES) if name in there and there[name].is_file()]
    names = {path.name for path in files}
    missing = [name for name in (CARD, LABELS) if name not in names]
    missing += [] if names & set(NETWORKS) else [" or ".join(NETWORKS)]
    if missing:
        raise UserError(f"{folder} is no export, it has no {', no '.join(missing)}: `fashion-tl export` writes them.")
    if others := sorted(set(there) - names):
        print(f"not sent, as `export` does not write it: {', '.join(others)}", file=sys.stderr)
    return files


def _check_text(path: Path) -> None:
    """Refuse what a text says of this machine."""
    if path.name not in _TEXTS:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: it is damaged. Export the run again.") from error
    if found := paths_of_this_machine(text):
        raise UserError(f"{path} names a path of this machine, {found[0]}: write something else there, then push.")


def _check_repository(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # not in its __all__

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{one_line(error).rstrip('.')}. Name a repository by OWNER/NAME.") from error


@contextmanager
def _refusing(endpoint: str, repo: str) -> Iterator[None]:
    """Turn what the hub's library raises into one message."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of httpx or httpx2, by version

    try:
        yield
    except (HTTPError, OSError, ValueError, LookupError, RuntimeError) as error:
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "status_code", None)
        if status == 401:
            why = "does not know the token (401): `hf auth login` asks for another one, or set HF_TOKEN"
        elif status == 403:
            why = f"does not let this token write {repo} (403): name a repository of your own, or take a token that may"
        elif status is not None:
            why = f"answers {status}: {one_line(error).rstrip('.')}"
        else:
            told = one_line(error.__cause__ or error).rstrip(".") or type(error).__name__
            why = f"does not take it: {told}. Is the connection there, and --endpoint or HF_ENDPOINT right?"
        end = "" if why.endswith("?") else "."
        raise UserError(f"{endpoint} {why}{end} No file was committed.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Show progress on terminals alone, and no warnings: those of the card stand on the page of the hub, too."""
    from huggingface_hub import utils

    hide = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()  # type: ignore[attr-defined]
    if hide:
        utils.disable_progress_bars()  # type: ignore[attr-defined] # none of the three is in its __all__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if hide:
            utils.enable_progress_bars()  # type: ignore[attr-defined]
