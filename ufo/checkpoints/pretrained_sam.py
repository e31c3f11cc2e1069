"""Starting weights for UFO-ViT (`init=sam`): SAM's image encoder and BERT's embeddings.

See docs/published_system.md#vit-start.
Read from transformers' files (`facebook/sam-vit-*`, `bert-*-uncased`), on the hub or in a folder. SAM fills
patches, positions and the first layers, BERT the text embedding; new layers start as torch makes linear maps,
UFO's own tokens stay random.
A released `bert_embed*.pt` may stand for BERT: it has rows for UFO's own tokens as well.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ufo.backbones.ufo_vit import UFOViT
from ufo.backbones.vit_grids import resize_position_grid
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.stored_tensors import PICKLED, read_tensors
from ufo.hub import is_unreachable

if TYPE_CHECKING:
    from ufo.model import UFO

log = logging.getLogger(__name__)

RANDOM = "train from random weights on purpose: init=null"
AUTO = "auto"  # the released weights of the model's width
SAM_OF_WIDTH = {768: "facebook/sam-vit-base", 1024: "facebook/sam-vit-large", 1280: "facebook/sam-vit-huge"}
BERT_OF_WIDTH = {768: "bert-base-uncased", 1024: "bert-large-uncased"}

_ENCODER = "vision_encoder."
_NECK = "neck."  # SAM's output projection, which UFO-ViT replaces by its new layers
# SAM's name of a layer's part -> ours
_PARTS = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "mlp.lin1": "fc1",
    "mlp.lin2": "fc2",
}
_BERT = {
    "embeddings.word_embeddings.weight": "embedding.word.weight",
    "embeddings.position_embeddings.weight": "embedding.position.weight",
    "embeddings.LayerNorm.weight": "embedding.norm.weight",
    "embeddings.LayerNorm.bias": "embedding.norm.bias",
    # as in the first BERT files
    "embeddings.LayerNorm.gamma": "embedding.norm.weight",
    "embeddings.LayerNorm.beta": "embedding.norm.bias",
}


def source(init: Any) -> tuple[str, str | None] | None:
    """Which SAM and which BERT a value of `init=` names; None if it names something else.

    `sam` stands for those of the model's width; a mapping `{sam: ..., bert: ...}` names both, each a name on
    the hub or a folder, and `bert: null` keeps a random text embedding.
    """
    if isinstance(init, Mapping):
        unknown = sorted(set(init) - {"sam", "bert"})
        if unknown:
            raise CheckpointError(
                f"init has no '{unknown[0]}'; it takes a checkpoint or {{sam: ..., bert: ...}}"
            )
        return init.get("sam", AUTO), init.get("bert", AUTO)
    if str(init) == "sam":
        return AUTO, AUTO
    return (str(init), AUTO) if _is_sam(str(init)) else None


def _is_sam(name: str) -> bool:
    """Whether this is the hub's name of a SAM, or a folder with one."""
    path = Path(name) / "config.json"
    if not path.is_file():
        return name.startswith("facebook/sam-vit-")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        return False
    return kind in ("sam", "sam_vision_model")


def _vit(model: UFO) -> UFOViT:
    if not isinstance(model.backbone, UFOViT):
        raise CheckpointError(f"SAM's weights are for a UFOViT, not for a {type(model.backbone).__name__}")
    return model.backbone


def _sam_of(model: UFO, sam: str) -> str:
    """The SAM that `sam` stands for."""
    width = _vit(model).width
    if sam == AUTO and width not in SAM_OF_WIDTH:
        raise CheckpointError(
            f"there is no SAM of width {width}, only of {', '.join(map(str, SAM_OF_WIDTH))}; choose another "
            f"backbone=, give a folder: init={{sam: FOLDER, bert: null}}, or {RANDOM}"
        )
    return SAM_OF_WIDTH[width] if sam == AUTO else sam


def _bert_of(model: UFO, bert: str | None) -> str | None:
    """The BERT, or the file of an embedding, that `bert` stands for; None: none at all."""
    default = BERT_OF_WIDTH.get(model.backbone.width)
    if bert == AUTO and default is None:
        raise CheckpointError(
            f"there is no published BERT of width {model.backbone.width}; give the embedding that was "
            "released with UFO: init='{sam: auto, bert: bert_embed_huge.pt}', or "
            "init='{sam: auto, bert: null}' for a random one"
        )
    chosen = default if bert == AUTO else bert
    if chosen and Path(chosen).suffix in PICKLED and not Path(chosen).is_file():
        raise CheckpointError(
            f"there is no text embedding '{chosen}'; get the file that was released with UFO, take "
            f"init='{{sam: auto, bert: null}}' for a random one, or {RANDOM}"
        )
    return chosen


def check(model: UFO, sam: str = AUTO, bert: str | None = AUTO) -> None:
    """Raises CheckpointError where `initialise` could not have its files; they are downloaded, not read."""
    _files(_sam_of(model, sam))
    chosen = _bert_of(model, bert)
    if chosen and Path(chosen).suffix not in PICKLED:
        _files(chosen)


def initialise(model: UFO, sam: str = AUTO, bert: str | None = AUTO) -> None:
    """Start a UFO-ViT from SAM's encoder and BERT's embedding; all that they lack stays random.

    The position grid is resized bicubically, relative positions of global layers linearly.

    Raises CheckpointError where weights cannot be had or are of another architecture.
    """
    backbone, sam = _vit(model), _sam_of(model, sam)
    weights = sam_weights(backbone, sam)
    layers = sum(f"layers.{i}.norm1.weight" in weights for i in range(len(backbone.layers)))
    text, text_summary = _text_weights(model, bert)
    backbone.load_state_dict(backbone.state_dict() | weights | text)
    _start_new_layers(backbone)
    random = len(backbone.layers) - layers
    log.info(
        f"init: {layers} layers, patches and positions from {sam} ({len(weights)} weights); "
        f"{random} new layers stay random; {text_summary}"
    )


def _start_new_layers(backbone: UFOViT) -> None:
    """The layers behind SAM's: uniform weights and biases as torch makes them, no relative positions.

    So the published models began, docs/published_system.md#vit-start. The network's own start, a truncated
    normal without biases, is for what begins from nothing.
    """
    for layer in backbone.layers[backbone.config["depth"] :]:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


# ---------------------------------------------------------------- SAM


def sam_weights(backbone: UFOViT, name: str) -> dict[str, Tensor]:
    """A SAM's encoder under the names of `backbone` and in its sizes.

    Raises CheckpointError that names what does not fit.
    """
    found = _read(name, _sam_name)
    depth = backbone.config["depth"]
    ours = backbone.state_dict()
    new = tuple(f"layers.{i}." for i in range(depth, len(backbone.layers)))
    wanted = {k for k in ours if not k.startswith(("embedding.", *new))}
    if found.keys() != wanted:
        missing, unexpected = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
        names = [*(f"missing {k}" for k in missing), *(f"unexpected {k}" for k in unexpected)]
        raise CheckpointError(
            f"'{name}' is not a SAM encoder of {depth} layers ({len(missing)} weights missing, "
            f"{len(unexpected)} unexpected): {'; '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        )
    positions = found["pos_embed"]
    if positions.ndim != 4:
        raise CheckpointError(f"'{name}' has no square position grid: {tuple(positions.shape)}")
    global_rows = 2 * positions.shape[1] - 1
    resized = {"pos_embed": resize_position_grid(positions, ours["pos_embed"].shape[1:3])}
    for i in range(depth):
        for table in (f"layers.{i}.rel_pos_h", f"layers.{i}.rel_pos_w"):
            # windows are of one size in both, so only what spans SAM's whole image is resized
            if not backbone.layers[i].windowed and len(found[table]) == global_rows:
                resized[table] = _resize_table(found[table], len(ours[table]))
    found |= resized
    wrong = [
        f"{k}: {tuple(v.shape)}, not {tuple(ours[k].shape)}"
        for k, v in found.items()
        if v.shape != ours[k].shape
    ]
    if wrong:
        raise CheckpointError(
            f"'{name}' is of another architecture than this backbone: {'; '.join(wrong[:3])}"
            f"{' ...' if len(wrong) > 3 else ''}"
        )
    return found


def _sam_name(name: str) -> str | None:
    """transformers' name of a weight -> ours; None for what is not in the encoder."""
    if not name.startswith(_ENCODER):
        return None
    name = name.removeprefix(_ENCODER)
    if name.startswith(_NECK):
        return None
    if name.startswith("patch_embed."):
        return name.replace("projection.", "")
    if not name.startswith("layers."):
        return name
    layer, number, part = name.split(".", 2)
    stem, _, kind = part.rpartition(".")
    # relative positions: `attn.rel_pos_h`
    return f"{layer}.{number}.{_PARTS[stem]}.{kind}" if stem in _PARTS else f"{layer}.{number}.{kind}"


def _resize_table(table: Tensor, rows: int) -> Tensor:
    """Relative positions `[2·S-1, d]` resized linearly to `[rows, d]`."""
    return F.interpolate(table.T[None], size=rows, mode="linear")[0].T.contiguous()


# ---------------------------------------------------------------- BERT


def _text_weights(model: UFO, name: str | None) -> tuple[dict[str, Tensor], str]:
    """BERT's embedding under our names, and what is to be said about it.

    What is not asked for by name is left out where it does not fit.
    """
    width, tokens = model.backbone.width, len(model.tokenizer.vocab)
    chosen = _bert_of(model, name)
    if chosen is None:
        return {}, "the text embedding stays random"
    if Path(chosen).suffix in PICKLED:
        return _embedding_file(model, Path(chosen))
    found = _read(chosen, lambda key: _BERT.get(key.removeprefix("bert.")))
    missing = sorted(set(_BERT.values()) - found.keys())
    if missing:
        raise CheckpointError(f"'{chosen}' is not a BERT: it has nothing for {', '.join(missing)}")
    word, position = found["embedding.word.weight"], found["embedding.position.weight"]
    ours = {k: v.clone() for k, v in model.backbone.state_dict().items() if k in found}
    positions = len(ours["embedding.position.weight"])
    if word.shape != (tokens, width) or len(position) < positions:
        reason = (
            f"{chosen} embeds {len(word)} tokens at {len(position)} positions in width {word.shape[-1]}, "
            f"this model {tokens} at {positions} in {width}"
        )
        if name == AUTO:
            return {}, f"the text embedding stays random: {reason}"
        raise CheckpointError(f"{reason}; choose another BERT, or init={{sam: ..., bert: null}}")
    extra = len(ours["embedding.word.weight"]) - tokens
    ours["embedding.word.weight"][:tokens] = word
    ours["embedding.position.weight"].copy_(position[:positions])
    for norm in ("embedding.norm.weight", "embedding.norm.bias"):
        ours[norm].copy_(found[norm])
    return ours, f"{tokens} tokens from {chosen}, UFO's own {extra} stay random"


def _embedding_file(model: UFO, path: Path) -> tuple[dict[str, Tensor], str]:
    """The text embedding of a released `bert_embed*.pt`, with the rows of UFO's own tokens."""
    state = {f"embeddings.{key}": value.float() for key, value in read_tensors(path).items()}
    found = {_BERT[key]: value for key, value in state.items() if key in _BERT}
    missing = sorted(set(_BERT.values()) - found.keys())
    if missing:
        raise CheckpointError(f"'{path}' is not a text embedding: it has nothing for {', '.join(missing)}")
    ours = {k: v for k, v in model.backbone.state_dict().items() if k in found}
    positions = "embedding.position.weight"
    if len(found[positions]) > len(ours[positions]):
        found[positions] = found[positions][: len(ours[positions])]
    wrong = [
        f"{key} is {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in ours.items()
        if found[key].shape != value.shape
    ]
    if wrong:
        raise CheckpointError(
            f"'{path}' belongs to another model: {'; '.join(wrong)} (bert_embed.pt has a row for <MASK>, "
            "bert_embed_womask.pt has none; _large and _huge are wider)"
        )
    return found, f"{len(found['embedding.word.weight'])} tokens from {path}, UFO's own included"


# ---------------------------------------------------------------- files


def _read(name: str, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """The tensors, float32, that `rename` has a name for, from a folder or the hub; others are not read."""
    found: dict[str, Tensor] = {}
    try:
        for file in _files(name):
            with safe_open(file, "pt") as weights:
                chosen = {key: rename(key) for key in weights.keys()}  # noqa: SIM118 (no mapping)
                found |= {ours: weights.get_tensor(key).float() for key, ours in chosen.items() if ours}
    except SafetensorError as error:
        raise CheckpointError(f"'{name}' is damaged ({error}); download it again") from error
    return found


def _files(name: str) -> list[Path]:
    """The `.safetensors` of a folder, or of a repository on the hub."""
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            offline = is_unreachable()
            folder = Path(snapshot_download(name, allow_patterns=["*.safetensors"], local_files_only=offline))
        except Exception as error:
            raise CheckpointError(
                f"'{name}' is not a folder and cannot be had from the hub ({type(error).__name__}); "
                "download it elsewhere and give the folders: "
                f"'init={{sam: FOLDER, bert: FOLDER}}', or {RANDOM}"
            ) from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"'{name}' has no .safetensors; save it with transformers' save_pretrained")
    return files
