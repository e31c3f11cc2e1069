"""The passes of a backbone as recordings know them: named tensors in, named tensors out.

Rows are padded to powers of two, prompts and prefixes to multiples of some tokens: few recordings serve all.
Shapes: `R` rows, `P >= R` rows of a recording, `T` new tokens, `B` images, `N` prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo.backbones.base import Backbone
from ufo.backbones.context import AnswerCache, Context, FirstToken, KeysValues, LayerMemory, Rows
from ufo.head.replay.recordings import Pass, Recorder, Recordings, Tensors, copied
from ufo.head.training_inputs import rounded_prompt
from ufo.ops.grid import Queries

PREFIX_STEP = 64  # prefixes are recorded in multiples of so many tokens


class Replay(nn.Module):
    """A backbone's passes, replayed where there are no gradients, a recorder works and shapes come again."""

    def __init__(self, backbone: Backbone, recorder: Recorder, most: int):
        super().__init__()
        self.recordings = Recordings(backbone, recorder, most)
        self._recorder = recorder
        self._read_prompt, self._encode_prompt = backbone.read_prompt, backbone.encode_prompt
        self._encode, self._answer = backbone.encode, backbone.answer
        # where answers count on from the end of the longest prompt, padding would move them
        self._pads_prompts = not backbone.quirks.padded_positions
        self._longest_prompt = backbone.max_positions or 10**9

    # ---------------------------------------------------------------- when recordings are dropped

    def train(self, mode: bool = True) -> Replay:
        """Weights are about to change; `eval` mode that is set once more changes none."""
        if mode:
            self.recordings.forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Replay:
        self.recordings.forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.recordings.forget()
        super()._load_from_state_dict(*arguments)

    def _may(self, device: torch.device) -> bool:
        if torch.is_grad_enabled() or self.training:
            self.recordings.forget()  # a step may follow
            return False
        return not torch.is_inference_mode_enabled() and self._recorder.works_on(device)

    # ---------------------------------------------------------------- prompt and prefix

    def encode_prompt(self, ids: Tensor, mask: Tensor) -> Sequence[KeysValues] | None:
        """`Backbone.encode_prompt`."""
        if not self._may(ids.device):
            return self._encode_prompt(ids, mask)

        def function(inputs: Tensors) -> tuple[Tensors, Any]:
            return _named(self._encode_prompt(inputs["ids"], inputs["mask"]) or ()), None

        def take(results: Tensors, told: Any) -> Sequence[KeysValues]:
            return _pairs(copied(results))

        found = self.recordings.run(Pass(("prompt",), {"ids": ids, "mask": mask}, function), ids.device, take)
        return self._encode_prompt(ids, mask) if found is None else found

    def encode(
        self,
        images: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        queries: Queries | None = None,
        causal: bool = False,
        prompt: Sequence[KeysValues] | None = None,
    ) -> Context:
        """`Backbone.encode`."""
        if prompt is not None or not self._may(images.device):
            return self._encode(images, prompt_ids, prompt_mask, queries, causal, prompt)
        self.recordings.follow_weights()
        ids, mask, more = self._rounded(prompt_ids, prompt_mask)
        prompt = self._read_prompt(ids, mask)  # it may look at the ids, for which it waits
        inputs = {"images": images, "ids": ids, "mask": mask, **_named(prompt or ())}
        grid = None
        if queries is not None:
            grid = queries.grid
            inputs |= {"references": queries.references, "windows": queries.windows}

        def function(inputs: Tensors) -> tuple[Tensors, Any]:
            asked = None if grid is None else Queries(inputs["references"], inputs["windows"], grid)
            images, ids, mask, given = inputs["images"], inputs["ids"], inputs["mask"], _pairs(inputs)
            context = self._encode(images, ids, mask, asked, causal, given or None)
            return {"features": context.image_features, **_tensors(context)}, _layers(context)

        def take(results: Tensors, told: Any) -> Context:
            return _context(copied({n: _without_end(n, x, more) for n, x in results.items()}), *told)

        found = self.recordings.run(Pass(("encode", causal, grid), inputs, function), images.device, take)
        if found is not None:
            return found
        if prompt is not None:  # its padding is masked
            return self._encode(images, ids, mask, queries, causal, prompt)
        return self._encode(images, prompt_ids, prompt_mask, queries, causal)

    def _rounded(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, int]:
        """Prompts of a multiple of tokens, the last ones invisible, and how many those are."""
        if not self._pads_prompts:
            return ids, mask, 0
        padded, visible = rounded_prompt(ids, mask, self._longest_prompt)
        return padded, visible, padded.shape[1] - ids.shape[1]

    # ---------------------------------------------------------------- answers

    def answer(
        self,
        context: Context,
        ids: Tensor,
        packed: Tensor | None = None,
        cache: AnswerCache | None = None,
    ) -> Tensor:
        """`Backbone.answer`; only calls with a cache are replayed."""
        if packed is not None or cache is None or not self._may(ids.device):
            return self._answer(context, ids, packed, cache)
        begin, (rows, length) = cache.length, ids.shape

        def take(results: Tensors, told: Any) -> Tensor:
            new = results["new"][:, :, :rows]  # [layers, 2, R, heads, T, d], at first behind the rows' memory
            if begin == 0:
                cache.before, slots = told
                cache.slots = dict(slots)
                room = cache.before + cache.max_length
                cache.buffer = new.new_empty(*new.shape[:4], room, new.shape[-1])
            assert cache.buffer is not None
            end = cache.before + begin + length
            cache.buffer[..., end - new.shape[-2] : end, :] = new
            cache.length += length
            return results["hidden"][:rows].clone()

        found = self.recordings.run(self._answer_pass(context, ids, cache), ids.device, take)
        return self._answer(context, ids, packed, cache) if found is None else found

    def _answer_pass(self, context: Context, ids: Tensor, cache: AnswerCache) -> Pass:
        begin, length = cache.length, ids.shape[1]
        before, slots = cache.before, tuple(cache.slots.items())
        inputs = {"ids": ids, **_tensors(context, first=begin == 0)}
        rows, images, places = _room(context, len(ids))
        inputs |= _shared_by_images(context, rows, images, places)
        shapes = {
            name: (rows, *x.shape[1:])
            for name, x in inputs.items()
            if name == "ids" or name.endswith((".own.k", ".own.v", ".local")) or name.startswith("first.")
        }
        shared = {name: x for name, x in inputs.items() if ".shared." in name}
        for name, x in shared.items():
            shapes[name] = (images, x.shape[1], x.shape[2] + -x.shape[2] % PREFIX_STEP, x.shape[3])
        if begin:
            buffer = cache.buffer
            assert buffer is not None
            shapes["cache"] = (*buffer.shape[:2], rows, *buffer.shape[3:])
            inputs["cache"] = buffer[..., : before + begin, :]
        layers = [m is not None for m in context.memory]

        def function(inputs: Tensors) -> tuple[Tensors, Any]:
            now = AnswerCache(begin + length, begin, before, inputs.get("cache"), dict(slots))
            hidden = self._answer(_context(inputs, layers, 1, places), inputs["ids"], cache=now)
            assert now.buffer is not None
            new = slice(now.before + begin if begin else 0, now.before + begin + length)
            return {"hidden": hidden, "new": now.buffer[..., new, :]}, (now.before, now.slots)

        kind = ("answer", tuple(layers), begin, before, slots, places)
        return Pass(kind, inputs, function, shapes, frozenset(shared))


# ---------------------------------------------------------------- names of tensors


def _named(pairs: Sequence[KeysValues]) -> Tensors:
    """Keys and values of a prompt in all layers."""
    return {f"{i}.prompt.{'kv'[j]}": x for i, pair in enumerate(pairs) for j, x in enumerate(pair)}


def _pairs(tensors: Tensors) -> list[KeysValues]:
    """The inverse of `_named`, also among other tensors."""
    count = sum(name.endswith(".prompt.k") for name in tensors)
    return [(tensors[f"{i}.prompt.k"], tensors[f"{i}.prompt.v"]) for i in range(count)]


def _layers(context: Context) -> tuple[list[bool], int]:
    return [m is not None for m in context.memory], context.num_queries


def _tensors(context: Context, first: bool = True) -> Tensors:
    """The tensors of a context that an answer call reads: its `first` one, or a later one."""
    found: Tensors = {}
    for index, memory in enumerate(context.memory):
        if memory is None:
            continue
        pairs = {"shared": memory.shared, "own": memory.own if first else None}
        for kind, pair in pairs.items():
            if pair is not None:
                found |= {f"{index}.{kind}.k": pair[0], f"{index}.{kind}.v": pair[1]}
        if first and memory.local is not None:
            found[f"{index}.local"] = memory.local
    if context.first_token is not None:
        found["first.position"] = context.first_token.position
        if first:
            found["first.embedding"] = context.first_token.embedding
    if context.visible is not None:
        found["visible"] = context.visible
    return found


def _context(tensors: Tensors, layers: Sequence[bool], queries: int, slots: int = 0) -> Context:
    """The context of named tensors, with the `layers` that have a memory."""

    def pair(name: str) -> KeysValues | None:
        return (tensors[f"{name}.k"], tensors[f"{name}.v"]) if f"{name}.k" in tensors else None

    memory = [
        LayerMemory(pair(f"{i}.shared"), pair(f"{i}.own"), tensors.get(f"{i}.local")) if kept else None
        for i, kept in enumerate(layers)
    ]
    position = tensors.get("first.position")
    first = None if position is None else FirstToken(tensors.get("first.embedding", position), position)
    rows = Rows(tensors["rows.image"], tensors["rows.slot"], slots) if slots else None
    features = tensors.get("features", torch.empty(0))  # answers read none
    return Context(features, memory, queries, first, tensors.get("visible"), rows)


def _without_end(name: str, x: Tensor, count: int) -> Tensor:
    """A result of the prefix without the last `count` tokens, which are padding."""
    if ".shared." in name:
        return x[:, :, : x.shape[2] - count]
    return x[:, : x.shape[1] - count] if name == "visible" else x


# ---------------------------------------------------------------- padding


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _room(context: Context, rows: int) -> tuple[int, int, int]:
    """Rows P, images and slots of a recording for so many rows; no slots where rows stand image by image."""
    whole = len(context.image_features) * context.num_queries
    bucket = _power_of_two(rows)
    bucket = whole if rows <= whole < bucket else bucket  # all queries of a grid are no power of two
    shared = next((m.shared for m in context.memory if m), None)
    if shared is None:
        return bucket, 0, 0
    images = len(shared[0])
    if context.num_queries == 1 and context.rows is None:  # images leave with their rows
        return bucket, bucket, 0
    if images == 1:
        return bucket, 1, 0
    if context.rows is None:
        return rows, images, 0
    slots = _power_of_two(context.rows.slots)
    return min(bucket, images * slots), images, slots


def _shared_by_images(context: Context, rows: int, images: int, slots: int) -> Tensors:
    """Which keys may be seen, `[images, N']`, and where rows belong, `[P]` each; answers that share keys."""
    shared = next((m.shared for m in context.memory if m), None)
    if shared is None:
        return {}
    batch, _, length, _ = shared[0].shape
    visible = context.visible
    if visible is None:
        visible = torch.ones(batch, length, dtype=torch.bool, device=shared[0].device)
    visible = F.pad(visible, (0, -length % PREFIX_STEP), value=False)
    # rows of padding see something: nothing at all would be no number
    found = {"visible": F.pad(visible, (0, 0, 0, images - batch), value=True)}
    if slots:
        assert context.rows is not None
        place = context.rows.image * slots + context.rows.slot
        taken = torch.zeros(images * slots, dtype=torch.int64, device=place.device).index_fill_(0, place, 1)
        place = torch.cat([place, taken.argsort(stable=True)[: rows - len(place)]])
        found |= {"rows.image": place // slots, "rows.slot": place % slots}
    return found
