"""What a run is: data, classes, vocabulary, backbone, start, optimizer, losses. It goes on only as itself.

The identity is plain JSON, kept in `identity.json` of the run's folder and in each of its checkpoints. What
may change from one start to the next (devices, workers, loggers, intervals, batch sizes, `max_steps`, how
answers are decoded) is not in it. Files are known by their content: data that were moved are the same data.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ufo.checkpoints.errors import CheckpointError
from ufo.data.errors import DataError
from ufo.data.module import UFODataModule
from ufo.data.source import Source
from ufo.files import write_json
from ufo.model import UFO
from ufo.ops.nearest import few

log = logging.getLogger(__name__)

FILE = "identity.json"
KEY = "run"  # of a Lightning checkpoint
WHOLE = 64 << 20  # bytes up to which a file is read as a whole; of larger ones the ends and the size count
PART = 1 << 20
SAMPLES = 8  # of a data set, whose images and maps are looked at

# how answers are decoded and chosen: no weight depends on it
DECODING = frozenset(
    [
        *("num_beams", "temperature", "length_penalty", "top_tokens", "keep_queries", "constrained"),
        *("max_per_image", "nms_iou", "nms_min_score", "nms_sigma", "nms_filter", "mask_threshold"),
        *("largest_parts", "score", "box", "calibration"),
    ]
)
FREE_OF_SOURCES = frozenset(["batch_size", "val_batch_size", "max_tries", "dataset", "transform", "name"])
FREE_OF_NETWORKS = frozenset(["gradient_checkpointing"])
FREE_OF_OPTIMIZERS = frozenset(["fused", "foreach"])  # which kernels compute the same step

PARTS = (
    *("sources", "backbone", "lora", "init", "optimizer", "schedule", "loss_weights", "mask_points"),
    *("module", "tasks", "seed", "mixing_temperature"),
)


def describe(cfg: DictConfig, model: UFO, data: UFODataModule) -> dict[str, Any]:
    """The identity of the run that `cfg` describes, as plain JSON."""
    plain = {key: _plain(cfg.get(key)) for key in PARTS}
    configs = {source["name"]: source for source in plain["sources"].values() if source}
    trained = [source for source in data.sources if source.weight > 0]
    network = {k: v for k, v in plain["backbone"]["network"].items() if k not in FREE_OF_NETWORKS}
    found = {
        "sources": {source.name: _source(source, configs[source.name]) for source in trained},
        "classes": {task: list(names) for task, names in model.classes.items()},
        "vocabulary": _digest("\n".join(model.tokenizer.vocab).encode("utf-8", "surrogatepass")),
        "backbone": {"type": type(model.backbone).__name__, **network},
        "lora": _same_adapters(plain["lora"]),
        "init": _start(plain["init"]),
        "optimizer": _same_steps(plain["optimizer"]),
        "ramp": plain["backbone"].get("ramp"),
        # its length follows from trainer.max_steps, which may grow
        "schedule": {k: v for k, v in (plain["schedule"] or {}).items() if k != "max_steps"},
        "loss_weights": plain["loss_weights"],
        "mask_points": plain["mask_points"],
        "module": plain["module"],
        "tasks": {
            source.task: {k: v for k, v in plain["tasks"][source.task].items() if k not in DECODING}
            for source in trained
        },
        "seed": plain["seed"],
        "mixing_temperature": plain["mixing_temperature"],
        "trainer": _clipping(cfg),
    }
    return json.loads(json.dumps(found, default=str))


def _same_adapters(lora: dict[str, Any]) -> dict[str, Any]:
    """Runs from before there was a choice of `bits` say nothing of it."""
    return {key: value for key, value in lora.items() if key != "bits" or value is not None}


def _clipping(cfg: DictConfig) -> dict[str, Any]:
    """How gradients are clipped: the one setting of the trainer that changes every step."""
    trainer = cfg.trainer
    value = trainer.get("gradient_clip_val") or None  # 0 clips nothing, too
    kind = (trainer.get("gradient_clip_algorithm") or "norm") if value else None
    return {"gradient_clip_val": value, "gradient_clip_algorithm": kind}


def _plain(value: Any) -> Any:
    """Plain values, with the defaults of the code that they name: to write one out changes nothing."""
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return _with_defaults(plain)


def _with_defaults(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_defaults(child) for child in value]
    if not isinstance(value, dict):
        return value
    filled = {key: _with_defaults(child) for key, child in value.items()}
    return {**_defaults(get_object(value["_target_"])), **filled} if "_target_" in value else filled


def _defaults(code: Callable[..., Any]) -> dict[str, Any]:
    """The default arguments of a class or function, as far as they are plain values."""
    parameters = inspect.signature(code).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, str | int | float | tuple | None)}


def _source(source: Source, config: Mapping[str, Any]) -> dict[str, Any]:
    given = {**_defaults(Source), **config}
    settings = {k: v for k, v in given.items() if k not in FREE_OF_SOURCES}
    data = source.data("train")
    return {
        **settings,
        "transform": config["transform"].get("train"),
        "dataset": dict(_settings(config["dataset"]["train"])),
        "classes": list(data.classes),
        "samples": len(data),
        "content": _content(source),
    }


def _settings(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """A data set's arguments with dotted names: of a file its content, of a folder nothing."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _settings(child, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _settings(child, f"{where}.{i}")
    elif isinstance(value, str) and os.sep in value and os.path.exists(value):
        if os.path.isfile(value):
            yield where, {"file": os.path.basename(value), "content": file_digest(Path(value))}
    else:
        yield where, value


def _content(source: Source) -> str:
    """A digest of a few images and maps, evenly spread: data in folders are known by it."""
    data, parts = source.data("train"), []
    for i in range(min(SAMPLES, len(data))):
        index = i * (len(data) - 1) // max(min(SAMPLES, len(data)) - 1, 1)
        try:
            target = data.target(index)
            path = Path(target.image)
            parts += [path.name.encode("utf-8", "surrogatepass"), file_digest(path, 0).encode()]
            if target.semantic is not None:
                parts.append(target.semantic.numpy().tobytes())
        except (DataError, OSError, ValueError):
            parts.append(b"unusable")
    return _digest(b"\0".join(parts))


def file_digest(path: Path, whole: int = WHOLE) -> str:
    """Size and content of a file; of one larger than `whole` bytes its two ends."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= max(whole, 2 * PART):
            while part := file.read(PART):
                digest.update(part)
        else:
            digest.update(file.read(PART))
            file.seek(size - PART)
            digest.update(file.read(PART))
    return digest.hexdigest()[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _start(init: Any) -> Any:
    """`init=`, and what its files hold, so that a folder that was moved is still the same start.

    So is a LoRA whose base was moved, `{file: ..., base: ...}`: a checkpoint has the base's fingerprint.
    """
    if isinstance(init, dict):  # or {sam: ..., bert: ...}
        return _start(init["file"]) if "file" in init else {k: _start(v) for k, v in init.items()}
    if not isinstance(init, str):
        return init
    path = Path(init)
    for name in ("checkpoints/last.ckpt", "model.safetensors", "model.safetensors.index.json"):
        if (path / name).is_file():
            return {"path": init, "content": file_digest(path / name)}
    return {"path": init, "content": file_digest(path)} if path.is_file() else init


# ---------------------------------------------------------------- comparing


def check_same(now: Mapping[str, Any], then: Mapping[str, Any], place: str | Path) -> None:
    """Raises CheckpointError that names the first difference where the run at `place` is another one."""
    try:
        found = differences(then, now)
    except (KeyError, TypeError, AttributeError) as error:
        log.warning("'%s' does not tell what it was trained on (%s)", place, error)
        return
    if not found:
        return
    more = f" (and {len(found) - 1} more differences)" if len(found) > 1 else ""
    raise CheckpointError(
        f"'{place}' is another run: {found[0]}{more}. A run goes on only as itself: give this one another "
        f"name=..., start again in its folder with resume=never, or start from its weights with name=... "
        f"init={place}"
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one phrase each; what only matters to one of them is left out."""
    return list(dict.fromkeys([*_of_sources(then, now), *_of_settings(then, now)]))


def _of_sources(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if "sources" not in then:
        return
    old, new = then["sources"], now["sources"]
    if old.keys() != new.keys():
        yield f"it was trained on {_names(old)}, this command trains on {_names(new)}"
    for name in old.keys() & new.keys():
        a, b = old[name], new[name]
        if a["classes"] != b["classes"]:
            yield f"{name} had the classes {_names(a['classes'])}, and now has {_names(b['classes'])}"
        if a["samples"] != b["samples"]:
            yield f"{name} had {a['samples']} training samples, and now has {b['samples']}"
        for key in sorted(a["dataset"].keys() | b["dataset"].keys()):
            one, other = a["dataset"].get(key), b["dataset"].get(key)
            if one == other or _same_content(one, other):
                continue
            if isinstance(one, dict) and isinstance(other, dict):
                yield f"{name}: the content of {other['file']} is not that of {one['file']} then"
            else:
                yield f"{name} had dataset.train.{key}={_show(one)}, and now has {_show(other)}"
        if a["content"] != b["content"]:
            yield f"{name}: images or maps of its training data are not those of then"
        rest = ("classes", "samples", "dataset", "content")
        yield from _flat_differences(
            f"sources of {name}: ",
            *({k: v for k, v in source.items() if k not in rest} for source in (a, b)),
        )


def _of_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = dict(then), dict(now)
    for both in (old, new):
        both.pop("sources", None)
    if old.get("classes") != new.get("classes"):
        for task in old.get("classes", {}).keys() & new.get("classes", {}).keys():
            a, b = old["classes"][task], new["classes"][task]
            if a != b:
                yield f"{task} had the classes {_names(a)}, and now has {_names(b)}"
    if "vocabulary" in old and old["vocabulary"] != new.get("vocabulary"):
        yield "it has another vocabulary"
    for both in (old, new):  # an older version recorded which kernels were chosen
        if "optimizer" in both:
            both["optimizer"] = _same_steps(both["optimizer"])
    if _same_content(old.get("init"), new.get("init")):
        old.pop("init"), new.pop("init")
    for name in ("init",):  # not its content: the name tells more
        for both in (old, new):
            if isinstance(both.get(name), dict) and "path" in both[name]:
                both[name] = both[name]["path"]
    for both in (old, new):
        both.pop("classes", None), both.pop("vocabulary", None)
    known = old.keys() & new.keys()  # an older version may have recorded less
    yield from _flat_differences("", {k: old[k] for k in known}, {k: new[k] for k in known})


def _same_steps(optimizer: Any) -> Any:
    if not isinstance(optimizer, Mapping):
        return optimizer
    return {k: v for k, v in optimizer.items() if k not in FREE_OF_OPTIMIZERS}


def _flat_differences(before: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    a, b = dict(_flat(old)), dict(_flat(new))
    for key in [*a, *(k for k in b if k not in a)]:
        if a.get(key) != b.get(key):
            yield f"{before}{key} was {_show(a.get(key))}, and is {_show(b.get(key))} in this command"


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value or None if isinstance(value, dict) else value


def _same_content(one: Any, other: Any) -> bool:
    both = isinstance(one, dict) and isinstance(other, dict)
    return both and one.get("content") is not None and one.get("content") == other.get("content")


def _names(names: Any) -> str:
    return few([str(name) for name in names], 6) or "nothing"


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------- the folder's record


def read(folder: Path) -> dict[str, Any] | None:
    """The identity that a run's folder records; None if there is none or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write(identity: Mapping[str, Any], folder: Path) -> None:
    """Record the identity of the run in `folder`; a full disk is not a reason to stop."""
    try:
        write_json(folder / FILE, identity, indent=1)
    except (OSError, UnicodeError) as error:
        log.warning("What this run is could not be noted in %s: %s", folder, error)
