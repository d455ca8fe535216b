"""An exported folder on the Hugging Face Hub."""

from pathlib import Path


class PushError(ValueError):
    """A folder that cannot be pushed, with the reason and the remedy."""


def check_push(repo_id: str) -> None:
    """Check what can be checked of a push before anything is copied; the hub is not asked.

    Raises:
        PushError: If the name is none, the hub is switched off, or nobody is logged in.
    """
    from huggingface_hub import get_token, is_offline_mode
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"`--push` must be a name of the hub, `owner/name`: {error}") from error
    if is_offline_mode():
        raise PushError("`--push` needs the hub, and HF_HUB_OFFLINE is set. Unset it, or export without `--push`.")
    if get_token() is None:
        raise PushError("`--push` needs a login: run `hf auth login` once, or set HF_TOKEN.")


def push(folder: Path, repo_id: str, public: bool) -> str:
    """Upload a folder as one commit, after which the repository holds the same files and no others.

    Args:
        folder: What to upload.
        repo_id: The repository, which is made where it does not exist; one that exists stays as visible as it is.
            Without an owner it belongs to the one who is logged in.
        public: Whether a new repository is for everybody; private otherwise.

    Returns:
        What to say of it: its address, and who can see it.

    Raises:
        PushError: If the hub refuses it or cannot be reached.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=not public, exist_ok=True)
        full = address.repo_id  # with its owner, also where the name has none
        seen = "private" if api.model_info(full).private else "public"
        api.upload_folder(
            repo_id=full,
            folder_path=folder,
            commit_message="Export of a sequence by sefe-plugin",
            delete_patterns=["*"],  # a model of an earlier push beside an adapter would be loaded in its place
        )
    except (HTTPError, OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PushError(
            f"{folder} is whole, but it is not on the hub as {repo_id}: {first} The same command tries again."
        ) from error
    return f"{address} ({seen})"
