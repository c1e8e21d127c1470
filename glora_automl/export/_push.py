"""Upload of an export to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token

from glora_automl._messages import one_line, short
from glora_automl._version import __version__
from glora_automl.errors import ExportError
from glora_automl.export._record import read_record

__all__ = ["check_repository", "push_export"]


def check_repository(repository: str) -> None:
    """Check the name of a repository before any work.

    Raises:
        ExportError: If it is not ``OWNER/NAME``, or no token is stored on this machine.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise ExportError(
            f"`push` must be OWNER/NAME of a repository on the hub, got {short(repository)}. "
            "Correct `push`."
        )
    if get_token() is None:
        raise ExportError(
            "`push` must come with a token of the hub, got none. Run 'hf auth login' or set "
            "HF_TOKEN."
        )


def push_export(path: Path, repository: str, *, private: bool = False) -> str:
    """Upload an export to a repository of the hub, which is created if it does not exist.

    Args:
        path: Folder of the export.
        repository: ``OWNER/NAME``.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        ExportError: If the folder is no export, or the hub refuses it.
    """
    record = read_record(path)
    api = HfApi(library_name="glora-automl", library_version=__version__)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=path,
            commit_message=f"Upload {record.kind} of {record.about.get('study', 'a study')!r}",
        )
    except Exception as error:  # the exceptions of the hub's client have no common class
        raise ExportError(
            f"The hub must accept {short(repository)}, got: {one_line(error)}. Check the token and "
            "`push`; the export is in its folder."
        ) from None
    return str(commit.commit_url)
