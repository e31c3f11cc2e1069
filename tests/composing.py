"""Hydra reads and merges the same yaml files for hundreds of tests: a test process remembers what came out.

Nearly all of the time of a composition goes into files (read some fifty, find the defaults list, merge), and
the values of the command line come last. So three things are kept: what is in a file, which files some group
choices lead to, and what these are when merged. Whoever asks gets a copy; a file that changed is read again.
What the texts of overrides and references (`a=[1,2]`, `${b}`) mean is kept, too: their parser is slow.
`tests/test_composing.py` compares with Hydra as it is.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omegaconf.base
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

_create_list = defaults_list.create_defaults_list
_create_map = defaults_list._create_interpolation_map
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
Plugins.instance()  # imports the sources a second time, and registers these
FileSource = SourcesRegistry.instance().resolve("file")
PackageSource = SourcesRegistry.instance().resolve("pkg")
_load_file = FileSource.load_config
_load_resource = PackageSource.load_config
_parse_override = OverridesParser.parse_rule
_parse_reference = omegaconf.base.parse
_kept_reference = functools.cache(_parse_reference)

_files: dict[object, tuple[ConfigResult, bytes]] = {}
_lists: dict[object, DefaultsList] = {}
_merged: dict[object, bytes] = {}
_alive: dict[int, object] = {}
_overrides: dict[tuple[str, str], Any] = {}


def remember() -> None:
    """From now on Hydra composes from memory, in this process and in copies of it."""
    config_loader_impl.create_defaults_list = _kept_list
    defaults_list.create_defaults_list = _kept_list
    defaults_list._create_interpolation_map = _map_if_needed
    ConfigLoaderImpl._compose_config_from_defaults_list = _kept_merge
    FileSource.load_config = _kept_file
    PackageSource.load_config = _kept_resource
    OverridesParser.parse_rule = _kept_override
    omegaconf.base.parse = _kept_reference


def forget() -> None:
    """Hydra as it is again."""
    config_loader_impl.create_defaults_list = _create_list
    defaults_list.create_defaults_list = _create_list
    defaults_list._create_interpolation_map = _create_map
    ConfigLoaderImpl._compose_config_from_defaults_list = _merge
    FileSource.load_config = _load_file
    PackageSource.load_config = _load_resource
    OverridesParser.parse_rule = _parse_override
    omegaconf.base.parse = _parse_reference


def _kept_list(repo, config_name, overrides_list, prepend_hydra, skip_missing) -> DefaultsList:
    """The defaults list of these group choices, with the other overrides of this command."""
    overrides = Overrides(repo=repo, overrides_list=overrides_list)
    values = {id(override) for override in overrides.config_overrides}
    choices = tuple(o.input_line for o in overrides_list if id(o) not in values)
    key = (_state(repo), config_name, choices, prepend_hydra, skip_missing)
    if key not in _lists:
        _lists[key] = _create_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    kept = _lists[key]
    found = copy.copy(kept.overrides)
    found.known_choices, found.config_overrides = dict(found.known_choices), overrides.config_overrides
    return DefaultsList(kept.defaults, kept.defaults_tree, overrides.config_overrides, found)


def _kept_override(self, s: str, rule_name: str) -> Any:
    if (s, rule_name) not in _overrides:
        _overrides[s, rule_name] = _parse_override(self, s, rule_name)
    return copy.deepcopy(_overrides[s, rule_name])


def _map_if_needed(overrides, defaults_list, self_added) -> DictConfig:
    """Hydra makes this table for every file; it is looked at where a defaults list has a `${...}`."""
    if any(default.is_interpolation() for default in defaults_list):
        return _create_map(overrides, defaults_list, self_added)
    return OmegaConf.create()


def _kept_merge(self, defaults, repo) -> DictConfig:
    key = (_state(repo), tuple((d.config_path, d.package, d.primary, d.is_self) for d in defaults))
    if key not in _merged:
        try:
            cfg = _merge_at_once(self, defaults, repo)
        except (OmegaConfBaseException, HydraException):  # Hydra says which file does not fit
            cfg = _merge(self, defaults=defaults, repo=CachingConfigRepository(repo.delegate))
        _merged[key] = pickle.dumps(cfg)
    return pickle.loads(_merged[key])


def _merge_at_once(loader: ConfigLoaderImpl, defaults, repo) -> DictConfig:
    """Hydra merges one file after another, and after each walks over all that it has."""
    loaded = [loader._load_single_config(default=default, repo=repo) for default in defaults]
    whole = OmegaConf.create()
    with flag_override(whole, "no_deepcopy_set_nodes", True):
        whole.merge_with(*(result.config for result in loaded))
    one = SimpleNamespace(_load_single_config=lambda default, repo: SimpleNamespace(config=whole))
    return _merge(one, defaults=[None], repo=repo)


def _kept_file(self, config_path: str) -> ConfigResult:
    name = self._normalize_file_name(config_path)
    path = os.path.realpath(os.path.join(self.path, name))
    state = _stamp(path) if os.path.isfile(path) else None
    return _kept(_load_file, self, config_path, (self.path, self.provider, name, state) if state else None)


def _kept_resource(self, config_path: str) -> ConfigResult:
    """Files of installed packages do not change."""
    return _kept(_load_resource, self, config_path, (self.path, self.provider, config_path))


def _kept(load, source, config_path: str, key: object) -> ConfigResult:
    if key is None:
        return load(source, config_path)
    if key not in _files:
        result = load(source, config_path)
        content = pickle.dumps(result.config)
        result.config = None
        _files[key] = (result, content)
    result, content = _files[key]
    result = copy.copy(result)
    result.header, result.config = dict(result.header), pickle.loads(content)
    return result


def _state(repo) -> object:
    """Where configs are searched: all yaml files with their times, and what the code has registered."""
    places: list[object] = [_stored(ConfigStore.instance().repo)]
    for source in repo.get_sources():
        files = []
        if source.scheme() == "file":
            for folder, _, names in os.walk(source.path):
                files += [_stamp(os.path.join(folder, name)) for name in names if name.endswith(".yaml")]
        places.append((source.scheme(), source.provider, source.path, tuple(files)))
    return tuple(places)


def _stored(repo: dict[str, Any]) -> tuple[object, ...]:
    """What the code has registered as configs; `_alive` keeps the nodes, so that each has its own `id`."""
    found: list[object] = []
    for name, node in repo.items():
        if not isinstance(node, dict):
            _alive[id(node)] = node
        found.append((name, _stored(node) if isinstance(node, dict) else id(node)))
    return tuple(found)


def _stamp(path: str | Path) -> tuple[str, int, int]:
    status = os.stat(path)
    return str(path), status.st_mtime_ns, status.st_size
