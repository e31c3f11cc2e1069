"""Models on the hub of Hugging Face: `ufo.load("user/name")` and `UFO.push_to_hub`.

What is fetched are a model folder's config, tokenizer and safetensors, whatever else a repository holds, and
only where the user names it: a name inside of a file is never followed. Nothing of it is run.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ufo.backbones.lora import has_adapters
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_card import CARD, PICTURES, write_card
from ufo.checkpoints.model_folder import first_line, save
from ufo.checkpoints.transformers_folder import is_model_folder
from ufo.hub import is_unreachable
from ufo.places import shipped

if TYPE_CHECKING:
    from ufo.model import UFO

Place = TypeVar("Place")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
FILES = ["config.json", "vocab.txt", "tokenizer.json", "*.safetensors", "model.safetensors.index.json"]
"""What is fetched of a repository."""


def hub_name(path: str | Path) -> str | None:
    """The name that a text is, `user/name` or `user/name@revision`; None for a path.

    A name whose first part is a folder here is a path that was mistyped, not a name, and `weights/NAME` is
    the shipped model in every folder.
    """
    text = str(path)
    if not isinstance(path, str) or not NAME.fullmatch(text) or Path(text).exists() or shipped(text):
        return None
    first = Path(text).parts[0]
    return None if Path(first).is_dir() else text


def fetch_model(name: str) -> Path:
    """The folder into which a model of the hub was downloaded, now or before.

    Raises CheckpointError where there is none, or no connection and none was downloaded before.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    offline = is_unreachable()
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=FILES, local_files_only=offline
            )
        )
    except Exception as error:  # whatever its library and the network raise
        reason = "it cannot be reached, and nothing was downloaded before" if offline else first_line(error)
        raise CheckpointError(
            f"'{name}' is no path here, and the hub gives no model of that name: {reason}"
        ) from error


def fetched(path: Place, is_elsewhere: Callable[[str], bool]) -> Place | Path:
    """Where a training starts: a name on the hub becomes the model folder that was downloaded.

    Args:
        path: what `init=` says; anything but a name of the hub is given back.
        is_elsewhere: whether a name may be that of a model of transformers, which others read.

    Raises CheckpointError as `fetch_model`.
    """
    name = hub_name(path) if isinstance(path, str) else None
    if name is None:
        return path
    if not is_elsewhere(name):
        return fetch_model(name)
    folder = config_of(name)
    return fetch_model(name) if folder is not None and is_model_folder(folder) else path


def config_of(name: str) -> Path | None:
    """The folder with the `config.json` of a repository; None where it has none or cannot be asked."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=["config.json"],
                local_files_only=is_unreachable(),
            )
        )
    except Exception:  # whatever its library and the network raise; who reads the model says what is wrong
        return None


def save_pretrained(
    model: UFO,
    folder: str | Path,
    *,
    name: str = "",
    results: Mapping[str, float | None] | None = None,
    command: str = "",
    licence: str = "",
    pictures: Sequence[Any] = (),
) -> Path:
    """A model folder with a model card; arguments as in `UFO.push_to_hub`."""
    path = save(model, folder)
    write_card(
        model,
        path,
        name=name or path.name,
        results=results or {},
        command=command,
        licence=licence,
        pictures=pictures,
    )
    return path


def push(
    model: UFO,
    repository: str,
    *,
    private: bool | None = None,
    message: str = "Upload a model",
    token: str | None = None,
    **card: Any,
) -> str:
    """Upload a model folder with its card; gives the address. Arguments as in `UFO.push_to_hub`.

    Raises CheckpointError where it cannot be uploaded, or would be of no use to others.
    """
    from huggingface_hub import HfApi

    if not NAME.fullmatch(repository) or "@" in repository:
        raise CheckpointError(f"'{repository}' is no name on the hub; write user/name")
    base = model.backbone.base
    if has_adapters(model.backbone.lora) and base and Path(base["name"]).exists():
        raise CheckpointError(
            f"this is a LoRA on '{base['name']}', which is only here; merge it first (ufo convert --merge), "
            "and push the folder that gives"
        )
    if is_unreachable():
        raise CheckpointError("the hub cannot be reached; save_pretrained writes the same folder to the disk")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="ufo-push-") as scratch:
        folder = save_pretrained(model, Path(scratch) / repository.split("/")[1], name=repository, **card)
        try:
            address = str(api.create_repo(repository, private=private, exist_ok=True))
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message,
                # of an older push: shards that are no more, pictures of other weights
                delete_patterns=["*.safetensors", "model.safetensors.index.json", f"{PICTURES}/*", CARD],
            )
        except Exception as error:  # whatever its library and the network raise
            raise CheckpointError(
                f"'{repository}' could not be uploaded ({first_line(error)}); log in with `hf auth login`, "
                "or give a token that may write there (HF_TOKEN)"
            ) from error
    return address
