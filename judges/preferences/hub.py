"""A folder of pairs to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from judges.errors import CannotRun

# What a reader needs; the store of completions and the journals stay.
_PUSHED = ("README.md", "account.json", "pairs.*", "candidates.jsonl", "plots/*.png")


def push(folder: Path, repository: str) -> str:
    """Upload a folder of `make_pairs` to the dataset OWNER/NAME, made private where it is new; its address.

    Raises CannotRun where the hub cannot be reached, or refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as Unreachable  # type: ignore[attr-defined]  # of its HTTP client

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            allow_patterns=list(_PUSHED),
            commit_message="Add preference pairs",
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, Unreachable, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CannotRun(
            f"--push {repository}: {first}; the data is in {folder}: log in (hf auth login) and run the same again"
        ) from error
    return str(done)
