"""What language-model backbones share: tiles, the prefix pass, answers against it.

See docs/published_system.md#prefix.
`net` is an unmodified transformers model; its decoder layers run one by one, so that a query's local image
prompt can be added between them. Prompt and image form the prefix, whose keys and values all answers share.
Shapes: `B` images, `I` image tokens, `N` prefix tokens, `Q` queries, `R = B*Q` rows, `T` answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ufo.backbones.base import Backbone
from ufo.backbones.context import Context, FirstToken, LayerMemory
from ufo.backbones.prefix import (
    ImageTokens,
    add_local,
    answer_layer,
    at_image,
    image_part,
    prefix_layer,
    prefix_mask,
)
from ufo.backbones.prefix_attention import NAME
from ufo.backbones.quirks import Quirks
from ufo.backbones.tiles import Layout, cut_tiles, mosaic, tile_layout
from ufo.backbones.transformers_net import build_net, image_token, json_values, longest_context
from ufo.ops.points import Corners
from ufo.tokenizer import Tokenizer

IMAGE = "<image>"  # where a question wants the image


class MLLM(Backbone):
    """A transformers model with an image in its prompt.

    Args:
        vocab_size: rows of the embedding and the output head; further rows are appended or cut.
        config: of the transformers model, as a mapping; weights are random.
        pretrained: a name on the hub or a folder instead: config and weights.
        max_tiles: most tiles that an image is cut into.
        system: what the chat format tells the model at first; default: as the published models were told.
        compat: departures of the published code to repeat, flags of `ufo.backbones.quirks.Quirks`.
        gradient_checkpointing: which decoder layers the backward pass computes again: none, all, every N-th.
        dtype: of the weights.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    default_system: ClassVar[str] = ""
    image_text: ClassVar[str]  # what stands in a prompt for the image: one `patch_token` among others
    tokens: ClassVar[tuple[str, ...]]  # special tokens of the chat format that the tokenizer must have
    pixel_mean_std: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]  # of red, green, blue in 0..1
    answers_continue_prompt = True
    pixel_mean: Tensor  # [3, 1, 1]
    pixel_std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        *,
        vocab_size: int,
        config: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        max_tiles: int = 12,
        system: str | None = None,
        compat: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool | int = False,
        dtype: str = "float32",
    ):
        super().__init__()
        self.net = build_net(self.model_class, config, pretrained, vocab_size, getattr(torch, dtype))
        self.net.set_attn_implementation({"text_config": NAME, "vision_config": NAME})
        rope = self.decoder.rotary_emb
        if rope.rope_type == "dynamic":
            # it would stretch beyond the context length, where `check_prompt` lets nothing go; to look
            # whether it must, every pass would wait for the device
            rope.rope_type = "default"
        self.system = self.default_system if system is None else system
        self.max_tiles, self.quirks = max_tiles, Quirks(**(compat or {}))
        self.gradient_checkpointing, self.dtype = gradient_checkpointing, dtype
        self._image_token = image_token(self.net.config.to_dict()) if pretrained else None
        self.width = self.net.config.get_text_config().hidden_size
        self.context_length = longest_context(self.net.config)
        for name, values in zip(("pixel_mean", "pixel_std"), self.pixel_statistics(), strict=True):
            value = 255 * torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    # ---------------------------------------------------------------- what differs between families

    @property
    def decoder(self) -> Any:
        """The language model: `embed_tokens`, `layers`, `norm` and `rotary_emb`."""
        return self.net.model.language_model

    def rotary(self, x: Tensor, positions: Tensor) -> Any:
        """Cosines and sines of the places `positions [b, N]` of tokens `x [b, N, C]`, for the layers."""
        return self.decoder.rotary_emb(x, positions)

    @property
    def tile(self) -> int:
        """Pixels of a tile's side."""
        size = self.net.config.vision_config.image_size
        return size if isinstance(size, int) else size[0]

    def layout(self, height: int, width: int) -> Layout:
        """How an image of this size in pixels becomes tiles and tokens."""
        rows, cols = tile_layout(height, width, self.tile, self.max_tiles)
        config = self.net.config
        patch = config.vision_config.patch_size
        patch = patch if isinstance(patch, int) else patch[0]
        side = round(self.tile // patch * getattr(config, "downsample_ratio", 1))
        return Layout(rows, cols, side, side)

    def read_images(self, images: Tensor, layout: Layout) -> ImageTokens:
        """Images `[B, 3, H, W]` of 0..255 -> image tokens `[B, I, C]`, tile by tile, row by row."""
        tiles = cut_tiles(images, self.tile, layout.rows, layout.cols)
        tokens = self.net.model.get_image_features(pixel_values=self.normalise(tiles)).pooler_output
        tokens = tokens if isinstance(tokens, Tensor) else torch.stack(list(tokens))  # [B*P, T, C]
        if tokens.shape[1] != layout.height * layout.width:
            raise ValueError(
                f"the vision tower gives {tokens.shape[1]} tokens a tile instead of {layout.height} x "
                f"{layout.width}; choose network.config.vision_feature_select_strategy=full or default"
            )
        return ImageTokens(tokens.unflatten(0, (images.shape[0], -1)).flatten(1, 2))

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of red, green and blue that the vision tower was trained with, in 0..1."""
        return self.pixel_mean_std

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels `[..., 3, H, W]` of 0..255 as the vision tower wants them."""
        return ((pixels - self.pixel_mean) / self.pixel_std).to(self.net.dtype)

    def positions(self, inside: Tensor, visible: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Places of the prefix's tokens for the rotary embedding, and of what follows `[b]`.

        `inside [b, N]` is True at image tokens, `visible [b, N]` at all that are no padding.
        """
        return torch.arange(inside.shape[1], device=inside.device)[None], visible.sum(1)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings `[..., C]` of tokens `[...]`."""
        return self.decoder.embed_tokens(ids)

    # ---------------------------------------------------------------- prompts

    @property
    def window_pixels(self) -> int:  # type: ignore[override]  # it is worked out, nobody sets it
        return self.tile

    def grid_windows(self, height: int, width: int) -> tuple[int, int]:
        layout = self.layout(height, width)
        return layout.rows, layout.cols

    def with_image(self, question: str) -> str:
        """A question with the image in its place, or after it."""
        text = question if IMAGE in question else f"{question}\n{IMAGE}"
        return text.replace(IMAGE, self.image_text, 1)

    def attach(self, tokenizer: Tokenizer) -> None:
        try:
            for token in self.tokens:
                tokenizer.token_id(token)
        except ValueError as error:
            raise ValueError(
                f"{type(self).__name__} needs the tokenizer of its language model: {error}; "
                "backbone.tokenizer._target_=ufo.hf_tokenizer.HFTokenizer.from_pretrained reads it"
            ) from error
        self.patch_id = tokenizer.token_id(self.patch_token)
        if self._image_token not in (None, self.patch_id):
            raise ValueError(
                f"{self.patch_token} is the token {self.patch_id} of the tokenizer, {self._image_token} of "
                "network.pretrained; give the tokenizer of these weights (backbone.tokenizer.name_or_path)"
            )

    def prompt_room(self, height: int, width: int, answer: int) -> int:
        # the prompt's token for the image makes room for the image itself
        return self.context_length - self.layout(height, width).tokens - answer + 1

    def check_prompt(self, ids, mask, height, width, answer) -> None:
        places = ((ids == self.patch_id) & mask).sum(1)
        if bool((places != 1).any()):
            raise ValueError(
                f"a prompt must hold one image and one has {int(places[places != 1][0])}; a question may not "
                f"contain {self.patch_token} itself"
            )
        image = self.layout(height, width).tokens
        total = ids.shape[1] - 1 + image + answer
        if total > self.context_length:
            raise ValueError(
                f"prompt ({ids.shape[1] - 1} tokens), image ({image}) and answer ({answer}) take {total} "
                f"tokens and the model reads {self.context_length}; shorten the question or take a lower "
                "image size"
            )

    # ---------------------------------------------------------------- prefix

    def encode(self, images, prompt_ids, prompt_mask, queries=None, causal=False, prompt=None) -> Context:
        layout = self.layout(*images.shape[-2:])
        image = self.read_images(images, layout)
        last = None
        if queries is None:  # the prompt's last token is the first that an answer pass feeds
            last = prompt_ids.gather(1, prompt_mask.sum(1, keepdim=True) - 1)[:, 0]
            prompt_ids, prompt_mask = prompt_ids[:, :-1], prompt_mask[:, 1:]
        x, inside, visible = self._embed_prefix(prompt_ids, prompt_mask, image.first)
        positions, free = self.positions(inside, visible, layout)
        points = None
        if queries is not None:
            size = (layout.rows * layout.height, layout.cols * layout.width)
            points = Corners.of(queries.references.expand(x.shape[0], -1, -1), size)
        mask, rope = prefix_mask(inside, visible, causal), self.rotary(x, positions)
        memory: list[LayerMemory | None] = []
        for index, layer in enumerate(self.decoder.layers):
            local = None
            if index and points is not None:
                local = points.sample(mosaic(image_part(x, inside, layout.tokens), layout)).flatten(0, 1)
            x, k, v = self.run_layer(index, self.compiled(prefix_layer), layer, x, mask, rope)
            memory.append(LayerMemory(shared=(k, v), local=local))
            if index < len(image.added):
                x = x + at_image(image.added[index].to(x.dtype), inside, 0.0)
        features = mosaic(self.decoder.norm(image_part(x, inside, layout.tokens)), layout)
        first = self._first_token(last, points, image.first, visible, free, layout)
        count = 1 if points is None else points.pixel.shape[1]
        whole = visible.shape[0] == 1 and not (self.rounds_prompts and self.training)
        padded = None if whole else visible.expand(x.shape[0], -1)
        return Context(features, memory, count, first, padded)

    def _embed_prefix(self, ids: Tensor, mask: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prompt's one patch token becomes all image tokens.

        Returns the embedded prefix `[B, N, C]`, where the image is and what is visible, both `[b, N]`.
        """
        count = patches.shape[1]
        at = torch.arange(ids.shape[1] - 1 + count, device=ids.device)[None]
        place = (ids == self.patch_id).int().argmax(1, keepdim=True)  # [b, 1]
        inside = (at >= place) & (at < place + count)
        source = torch.where(at < place, at, torch.where(inside, place, at - count + 1))  # [b, N]
        text = self.decoder.embed_tokens(ids.gather(1, source)).expand(patches.shape[0], -1, -1)
        return at_image(patches.to(text.dtype), inside, text), inside, mask.gather(1, source)

    def _first_token(self, last, points, patches, visible, free, layout) -> FirstToken:
        """A query starts from its local image prompt, a single answer from the prompt's last token."""
        batch = patches.shape[0]
        if points is None:
            embedding = self.decoder.embed_tokens(last).expand(batch, -1)
        else:
            embedding = points.sample(mosaic(patches, layout)).flatten(0, 1)
        position = free if points is None else self.quirks.first_position(free, visible.shape[1])
        position = position.expand(batch)
        return FirstToken(embedding, position.repeat_interleave(embedding.shape[0] // batch))

    # ---------------------------------------------------------------- answers

    def answer(self, context, ids, packed=None, cache=None) -> Tensor:
        if packed is not None and not len(packed):  # transformers' layers take one token at least
            return self.answer(context, ids.new_zeros(len(ids), 1), packed.new_zeros(1))[:0]
        length = ids.shape[1]
        begin, first_token = cache.length if cache else 0, context.first_token
        x = self.decoder.embed_tokens(ids)  # [R, T, C]
        if begin == 0:
            x = torch.cat([first_token.embedding[:, None].to(x.dtype), x[:, 1:]], 1)
        positions = first_token.position[:, None] + torch.arange(begin, begin + length, device=ids.device)
        first = None
        if packed is not None:
            x, positions = x.flatten(0, 1)[packed][None], positions.flatten()[packed][None]
            first = (packed % length == 0)[:, None], packed // length
        rope = self.rotary(x, positions)
        for index, layer in enumerate(self.decoder.layers):
            local = context.memory[index].local
            if local is not None and begin == 0:
                x = add_local(x, local, first)
            # a whole answer knows of its own layer only, so the pass is the same one in all layers
            known = (index, context)
            if cache is None:
                known = (0, replace(context, memory=[context.memory[index]]))
            arguments = (layer, *known, x, rope, ids, packed, cache)
            x = self.run_layer(index, self.compiled(answer_layer), *arguments)
        if cache:
            cache.length += length
        x = self.decoder.norm(x)
        return x if packed is None else x[0]

    def answer_features(self, ids: Tensor, hidden: Tensor) -> Tensor:
        return self.quirks.answer_features(ids, hidden, self.embed_tokens)

    # ---------------------------------------------------------------- names and weights

    @property
    def transformers_model(self) -> PreTrainedModel:
        return self.net

    @property
    def output_embedding(self) -> Tensor:
        return self.net.get_output_embeddings().weight

    @property
    def config(self) -> dict:
        config = json_values(self.net.config.to_dict())
        for part in (config, *(v for v in config.values() if isinstance(v, dict))):
            for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
                part.pop(key, None)
        return {
            "vocab_size": self.net.config.get_text_config().vocab_size,
            "config": config,
            "max_tiles": self.max_tiles,
            "system": self.system,
            "compat": self.quirks.flags(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "dtype": self.dtype,
        }

    def layer_of(self, parameter: str) -> int | None:
        return super().layer_of(parameter) if "language_model." in parameter else None

    def is_text(self, parameter: str) -> bool:
        return "embed_tokens" in parameter or "lm_head" in parameter or "language_model.norm" in parameter
