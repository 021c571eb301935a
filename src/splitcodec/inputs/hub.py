"""Snapshots of repositories on the Hugging Face hub."""

from pathlib import Path
from typing import Literal

from splitcodec.errors import InputError, reason_of
from splitcodec.settings import HubSource


def download_snapshot(
    source: HubSource, kind: Literal["model", "dataset"], patterns: list[str], directory: Path
) -> None:
    """Download the repository's files that match any of `patterns` into `directory`.

    Of a model only top-level files are taken: folders hold the same weights in other formats.
    Raises InputError when repository, revision or network are missing.
    """
    # Imported here: it costs half a second that other sources need not pay.
    from huggingface_hub import errors, snapshot_download

    try:
        snapshot_download(
            source.repository,
            repo_type=kind,
            revision=source.revision,
            local_dir=directory,
            allow_patterns=patterns,
            ignore_patterns=["*/*"] if kind == "model" else None,
        )
    except errors.RevisionNotFoundError:
        raise InputError(f"{source.repository} has no revision {source.revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"the hub has no {kind} {source.repository!r}, or it is private: correct the name, "
            "or log in with `hf auth login`"
        ) from None
    except errors.HFValidationError as error:
        raise InputError(f"{source.repository!r} names no repository: {reason_of(error)}") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"cannot fetch {source.repository} from the hub: {reason_of(error)}; "
            "check the network, or name another source"
        ) from None
