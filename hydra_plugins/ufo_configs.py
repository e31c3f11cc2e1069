"""Where Hydra looks for plug-ins: lets a file as conf/hydra/launcher/joblib.yaml replace a plug-in's config.

Hydra would take a plug-in's config of the same name for a schema of the file, and warn about it. And where it
looks for configs: in those of the extensions, behind the project's own.
"""

from pathlib import Path
from urllib.parse import unquote, urlparse

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ufo import extensions, places
from ufo.runs import naming, scenes

naming.register()  # before any config is composed
places.register()
scenes.register()


class OwnFilesFirst(SearchPathPlugin):
    """Drops from Hydra's store what the application's own folder of configs has a file for."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        store = ConfigStore.instance().repo.get("hydra", {})
        for entry in search_path.get_path():
            if entry.provider != "main" or not entry.path:
                continue
            url = urlparse(entry.path)
            folder = Path(unquote(url.path)) if url.scheme in ("", "file") else None
            for group in ("launcher", "sweeper"):
                for file in sorted((folder / "hydra" / group).glob("*.yaml")) if folder else ():
                    store.get(group, {}).pop(file.name, None)


class Extensions(SearchPathPlugin):
    """Adds the folders of configs that packages of others bring along."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in extensions.config_folders():
            search_path.append("ufo-extensions", f"file://{folder.absolute()}")


TRANSFORMS = {
    "plain": (
        *("plain_detection", "plain_instance_segmentation", "plain_semantic_segmentation", "plain_caption"),
        *("plain_grounding", "plain_referring_segmentation", "plain_reasoning_segmentation", "plain_vqa"),
    ),
    "square": ("square_caption", "referring_segmentation", "reasoning_segmentation", "vqa"),
}
"""By option of `transform`: its former names, one for each task, which users' own files still have."""

for _option, _names in TRANSFORMS.items():
    for _name in _names:
        ConfigStore.instance().store(group="transform", name=_name, node={"defaults": [_option]})
