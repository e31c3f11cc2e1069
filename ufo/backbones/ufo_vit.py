"""UFO-ViT: one SAM-style transformer for prompt, image, queries and answers (paper section 3.4).

The four streams pass through the same layers and differ in what they may attend to:
prompt `[B, n, C]` -> image `[B, H, W, C]` -> queries `[B, Q, C]` -> answers `[R, T, C]`, R = B*Q.
Outputs are the mean over the last layers (`mean_layers`), for image features and answers alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ufo.backbones.attention import answer_mask, attend, hiding, table_rows
from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context, KeysValues, LayerMemory
from ufo.backbones.quirks import QueryUpdate, Quirks
from ufo.backbones.vit_grids import gather_windows, partition, resize_position_grid, to_windows, unpartition
from ufo.backbones.vit_layers import Embedding, Layer
from ufo.backbones.vit_passes import close_pass, image_pass, open_pass, prompt_pass, query_pass
from ufo.backbones.vit_streams import QueryStream, Windows
from ufo.ops.autocast import product_type
from ufo.ops.constants import constant
from ufo.ops.grid import Queries

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
PROMPTS_KEPT = 8  # a page may ask for all tasks in turn; 200 tokens take 22 MB in the base model
TABLES_KEPT = 8  # position tables of other grids: that of 25 x 25 queries takes 2 MB


@dataclass
class _AnswerCall:
    """What all layers need to know of one call of `answer`."""

    shape: tuple[int, int]  # (R, T)
    packed: Tensor | None  # int64 [M]: the tokens are these of the R*T
    number: Tensor | None  # int64 [M], the row of each of them, counted without gaps
    mask: Tensor | None  # what is hidden [T, keys]
    cache: AnswerCache | None
    layers: int  # that answers do not skip


class UFOViT(Backbone):
    """SAM-style ViT with windowed and global attention that also reads prompts and writes answers.

    `depth` SAM layers (global attention at `global_layers`) are followed by `new_layers` windowed ones;
    `mean_layers` (default: the new ones) are averaged for the output. `query_update_at_global` is a departure
    of the published code, see `ufo.backbones.quirks.Quirks` and docs/published_system.md#queries.
    """

    pixel_mean: Tensor  # [3, 1, 1]
    pixel_std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        global_layers: Sequence[int] = (2, 5, 8, 11),
        new_layers: int = 6,
        mean_layers: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        image_size: int = 1120,
        patch_size: int = 16,
        window_size: int = 14,
        max_positions: int = 512,
        drop_path_rate: float = 0.0,
        text_dropout: float = 0.1,
        query_update_at_global: QueryUpdate = "never",
        gradient_checkpointing: bool | int = False,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self._config = {
            k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
            for k, v in arguments.items()
        }
        layers = depth + new_layers
        if new_layers == 0 and not mean_layers:
            raise ValueError("without new layers say which layers to average: mean_layers=[...]")
        if image_size % (patch_size * window_size):
            raise ValueError(
                f"image_size={image_size} does not divide into windows of {window_size} patches of "
                f"{patch_size} pixels; use a multiple of {patch_size * window_size}"
            )
        self.width, self.patch_size, self.window_size = width, patch_size, window_size
        self.window_pixels = patch_size * window_size
        self.mean_layers = frozenset(mean_layers or range(depth, layers))
        self.quirks = Quirks(query_update_at_global=query_update_at_global)
        self.gradient_checkpointing, self.max_positions = gradient_checkpointing, max_positions
        grid = image_size // patch_size
        self._prompts: dict[tuple, list[tuple[Tensor, Tensor]]] = {}
        self._tables: dict[tuple, Tensor] = {}
        self.patch_embed = nn.Conv2d(3, width, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.embedding = Embedding(vocab_size, width, max_positions, text_dropout)
        self.layers = nn.ModuleList(
            Layer(
                width,
                heads,
                round(width * mlp_ratio),
                grid if i in global_layers else window_size,
                windowed=i not in global_layers,
                drop=drop_path_rate * i / max(layers - 1, 1) if drop_path_rate else None,
            )
            for i in range(layers)
        )
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        # its gradient would come from nothing but the image features of the last layer's neighbours
        self.layers[-1].rel_pos_h.requires_grad_(False)
        self.layers[-1].rel_pos_w.requires_grad_(False)

    # ---------------------------------------------------------------- prefix: prompt, image, queries

    def check_prompt(self, ids, mask, height, width, answer) -> None:
        if ids.shape[1] > self.max_positions:
            raise ValueError(
                f"a prompt has {ids.shape[1]} tokens and the model reads {self.max_positions}; ask for fewer "
                "classes or with shorter texts, or train with a larger backbone.network.max_positions"
            )

    def encode(self, images, prompt_ids, prompt_mask, queries=None, causal=False, prompt=None) -> Context:
        prompt = self.read_prompt(prompt_ids, prompt_mask) if prompt is None else prompt
        image = self.embed_image(images)  # [B, H, W, C]
        stream = state = None
        if queries is not None:
            stream = self._query_stream(image, queries)
            state = torch.zeros_like(stream.start)
        kinds = Windows.of_kinds(self._layers, self.window_size, image, prompt_mask, stream)
        mean: Any = 0.0  # a tensor from the first of `mean_layers` on
        memory: list[LayerMemory | None] = []
        for index, (layer, text) in enumerate(zip(self._layers, prompt, strict=True)):
            kind = kinds[layer.windowed]
            arguments = (layer, text, image, state, kind, kind.positions[index], stream)
            image, state, kept = self.run_layer(index, self._encode_layer, *arguments)
            memory.append(LayerMemory(**kept) if kept else None)
            if index in self.mean_layers:
                mean = mean + image
        features = mean / len(self.mean_layers)
        return Context(features, memory, 1 if stream is None else stream.start.shape[1])

    @property
    def _layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers]

    def read_prompt(self, ids: Tensor, mask: Tensor) -> list[KeysValues]:
        """Keys and values of the prompt in every layer, 2 x `[B or 1, heads, n, d]`.

        Without gradients and in `eval` mode a prompt that serves the whole batch is read once: the last few
        are remembered until a weight changes or the mode is set.
        """
        # a step between two uses may have changed weights behind the version counters' back
        if self.training or torch.is_grad_enabled():
            self._prompts.clear()
            return self.encode_prompt(ids, mask)
        if len(ids) > 1 or any(p.is_inference() for p in self.parameters()):
            return self.encode_prompt(ids, mask)
        state = tuple((p.data_ptr(), p._version) for p in self.parameters())
        kind = (
            torch.get_autocast_dtype(ids.device.type) if torch.is_autocast_enabled(ids.device.type) else None
        )
        key = (tuple(ids[0].tolist()), tuple(mask[0].tolist()), kind, state)
        found = self._prompts.pop(key, None)
        self._prompts[key] = found = self.encode_prompt(ids, mask) if found is None else found
        while len(self._prompts) > PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]  # the one not used for longest
        return found

    def encode_prompt(self, ids: Tensor, mask: Tensor) -> list[KeysValues]:
        x = self.embedding(ids, torch.arange(ids.shape[1], device=ids.device))  # [B or 1, n, C]
        mask, pairs = hiding(mask[:, None, None], product_type(x)), []
        for index, layer in enumerate(self._layers[:-1]):
            x, k, v = self.run_layer(index, self._prompt_layer, layer, x, mask)
            pairs.append((k, v))
        return [*pairs, self._layers[-1].heads_of(x)[1:]]

    def _prompt_layer(self, layer: Layer, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.compiled(prompt_pass)(layer, x, mask)

    def train(self, mode: bool = True) -> UFOViT:
        # averaged weights are swapped in and out between the modes
        self._prompts.clear()
        self._tables.clear()
        return super().train(mode)

    def embed_image(self, images: Tensor) -> Tensor:
        """uint8 RGB `[B, 3, H, W]` pixels -> patches with positions `[B, H/p, W/p, C]`."""
        x = (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        return x + self._positions(x.shape[1:3])

    def _positions(self, size: tuple[int, int] | torch.Size) -> Tensor:
        """The position table of a grid `[1, *size, C]`; without gradients and in `eval` mode made once."""
        if self.training or torch.is_grad_enabled():
            self._tables.clear()
            return resize_position_grid(self.pos_embed, size)
        table = self.pos_embed
        if table.is_inference():
            return resize_position_grid(table, size)
        key = (tuple(size), table.data_ptr(), table._version)
        if key not in self._tables:
            while len(self._tables) >= TABLES_KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = resize_position_grid(table, size)
        return self._tables[key]

    def _query_stream(self, image: Tensor, queries: Queries) -> QueryStream:
        """Start states are the position embedding, resized to the query grid, at each reference's cell."""
        batch, height, width = image.shape[:3]
        references = queries.references.expand(batch, -1, -1)
        rows, cols = queries.grid
        table = self._positions((rows, cols))[0]  # [G_h, G_w, C]
        size = constant((cols, rows), references.dtype, references.device)
        cell = (references * size).long()  # (x, y)
        start = table_rows(table.flatten(0, 1), cell[..., 1] * cols + cell[..., 0]).to(image.dtype)
        windows = (height // self.window_size) * (width // self.window_size)
        return QueryStream.of(queries, start, (height, width), windows)

    def _encode_layer(self, layer, text, image, state, windows: Windows, positions, queries):
        """One layer of all prefix streams; also returns what answers may see of it.

        The tokens of patches and of queries, which skip global layers, pass its linear maps as one matrix.
        """
        if queries is not None:
            state = self._update_queries(layer, state, image, queries)
        asking = queries is not None and layer.windowed
        x = image.flatten(0, 2)
        count, size, whole = x.shape[0], windows.size, tuple(image.shape[1:3])
        if asking:
            x = torch.cat([x, state.flatten(0, 1)])
        qkv = self.compiled(open_pass)(layer, x)  # [M, 3C]
        patches, asked = qkv.split([count, x.shape[0] - count]) if asking else (qkv, qkv[:0])
        tiles = partition(patches.unflatten(0, image.shape[:3]), size)  # [W, N, 3C]
        keys, values = (to_windows(t, windows.count) for t in text)
        shared = (windows.hiding, *positions, size)
        out, k, v = self.compiled(image_pass)(layer, tiles, keys, values, *shared)
        attended, kept = unpartition(out, whole, size).flatten(0, 2), {}
        if asking:
            asked = asked.clone()  # the answers' memory: a part would keep the whole of it
            attended = torch.cat([attended, self._attend_queries(layer, asked, k, v, queries)])
            kept = {"own": layer.split(asked[:, None])[1:]}  # [B*Q, heads, 1, d]
        elif queries is None:
            # the answer is the image's only one: the image is its own memory
            kept = {"own": tuple(gather_windows(t, whole, size) for t in (k, v))}
        x = self.compiled(close_pass)(layer, x, attended, windows.together)
        if asking:
            x, after = x.split([count, x.shape[0] - count])
            state = after.view_as(state)
        return x.view_as(image), state, kept

    def _update_queries(self, layer, state, image, queries: QueryStream) -> Tensor:
        """Add the start state and a bilinear sample of the image stream entering this layer."""
        if not self.quirks.updates_queries(not layer.windowed, self.training):
            return state
        return state + queries.start + queries.corners.sample(image)

    def _attend_queries(self, layer, qkv, image_k, image_v, queries: QueryStream) -> Tensor:
        """Queries, given by `qkv [B*Q, 3C]`, see the patches of their own window: `[B*Q, C]`."""
        sorted_ = queries.by_window(qkv).unflatten(0, (image_k.shape[0], -1))  # [W, S, 3C]
        attended = self.compiled(query_pass)(layer, sorted_, image_k, image_v)
        return queries.as_listed(attended.flatten(0, 1))

    # ---------------------------------------------------------------- answers

    def answer(self, context, ids, packed=None, cache=None) -> Tensor:
        start = cache.length if cache else 0
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.embedding(ids, positions)  # [R, T, C]
        number = None
        if packed is not None:
            x = x.flatten(0, 1).index_select(0, packed)  # [M, C]
            # consecutive numbers of the rows that occur: packed rows may have gaps
            row = packed // ids.shape[1]
            number = row.diff(prepend=row[:1]).ne(0).cumsum(0)  # no `unique`, which waits for the device
        # later chunks look nothing up that is in the cache
        seen = cache.before if start else next(m.own[0].shape[2] for m in context.memory if m and m.own)
        call = _AnswerCall(
            shape=(ids.shape[0], ids.shape[1]),
            packed=packed,
            number=number,
            mask=answer_mask(ids.shape[1], seen + start + ids.shape[1], product_type(x), ids.device),
            cache=cache,
            layers=sum(m is not None for m in context.memory),
        )
        mean: Any = 0.0  # a tensor from the first of `mean_layers` on
        for index, (layer, memory) in enumerate(zip(self._layers, context.memory, strict=True)):
            if memory is not None:
                own = memory.own if start == 0 else None  # later it is in the cache
                x = self.run_layer(index, self._answer_layer, index, layer, x, own, call)
            if index in self.mean_layers:
                mean = mean + x
        if cache:
            cache.length += ids.shape[1]
        return mean / len(self.mean_layers)

    def _answer_layer(
        self, index: int, layer: Layer, x: Tensor, own: KeysValues | None, call: _AnswerCall
    ) -> Tensor:
        """One layer of answer tokens; the linear maps run on packed tokens, attention on padded rows.

        Tokens attend to their row's memory and, causally, to the tokens of their own answer.
        """
        rows, length = call.shape
        qkv = self.compiled(open_pass)(layer, x)
        if call.packed is not None:
            qkv = qkv.new_zeros(rows * length, qkv.shape[-1]).index_copy(0, call.packed, qkv)
        q, k, v = layer.split(qkv.view(rows, length, qkv.shape[-1]))
        if call.cache:
            k, v = call.cache.extend(index, k, v, call.layers, own)
        elif own is not None:
            k, v = torch.cat([own[0], k], 2), torch.cat([own[1], v], 2)
        attended = attend(q, k, v, call.mask).transpose(1, 2).flatten(2)  # [R, T, C]
        if call.packed is not None:
            attended = attended.flatten(0, 1).index_select(0, call.packed)
        return self.compiled(close_pass)(layer, x, attended, call.number)

    def use_triton_attention(self, device: torch.device | None = None) -> None:
        # its operations are registered when it is imported, which takes 40 ms that few need
        from ufo.backbones.relative_fused import check_available, fused_image_attention

        check_available(device or self.device, self._layers[0].rel_pos_h.shape[1])
        for layer in self._layers:
            layer.image_attention = fused_image_attention

    @property
    def output_embedding(self) -> Tensor:
        return self.embedding.word.weight

    @property
    def config(self) -> dict:
        return dict(self._config)
