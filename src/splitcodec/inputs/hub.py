"""Snapshots of repositories on the Hugging Face hub.

Files lie in the hub's own cache (`HF_HOME`), so that a killed download goes on where it was, and
what is there is not fetched again.
"""

from pathlib import Path
from typing import Literal

from splitcodec.errors import InputError, reason_of
from splitcodec.settings import HubSource


def download_snapshot(
    source: HubSource, kind: Literal["model", "dataset"], patterns: list[str]
) -> tuple[Path, list[Path]]:
    """The folder of a snapshot, and its files that match any of `patterns`, downloaded if need be.

    Of a model only top-level files are taken: folders hold the same weights in other formats.
    Raises InputError when repository, revision or network are missing.
    """
    # Imported here: it costs half a second that other sources need not pay.
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    wanted = {
        "allow_patterns": patterns,
        "ignore_patterns": ["*/*"] if kind == "model" else None,
    }
    try:
        folder = snapshot_download(
            source.repository, repo_type=kind, revision=source.revision, **wanted
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
    # Beside them may lie what was fetched by other patterns.
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    names = filter_repo_objects(files, key=lambda path: str(path.relative_to(folder)), **wanted)
    return Path(folder), list(names)
