"""Upload a folder of preference pairs to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from judges.errors import CannotRun

# The stores of completions and the journals are not uploaded.
_UPLOADED_FILES = ("README.md", "account.json", "pairs.*", "candidates.jsonl", "plots/*.png")


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a folder of `make_pairs` to the dataset OWNER/NAME and return the URL; a new dataset is private.

    Raises CannotRun if the hub cannot be reached or refuses the upload. The folder is never changed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as Unreachable  # type: ignore[attr-defined]  # from its HTTP client

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            allow_patterns=list(_UPLOADED_FILES),
            commit_message="Add preference pairs",
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, Unreachable, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CannotRun(
            f"--push {repository}: {reason}; the data is in {folder}: log in (hf auth login) and run the same"
            " command again"
        ) from error
    return str(commit)
