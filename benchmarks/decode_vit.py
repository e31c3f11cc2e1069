"""Decoding and prefix of UFO-ViT at the official resolutions, against lock-step and a plain ViT.

    python benchmarks/decode_vit.py [--scale 0.4] [--tasks detection] [--objects 40] [--threads 2]

Lock-step is what the published code does: every query, one token at a time, a softmax over the whole
vocabulary, until the slowest has ended. Both decoders must give equal answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import Clock, Scripted, class_names, make_model, parser, script, show, with_peak
from torch import Tensor

from ufo.backbones.base import AnswerCache, Context
from ufo.backbones.ufo_vit import UFOViT, _partition, _unpartition
from ufo.head.decoding import Decoded, decode


@dataclass
class GrowingCache(AnswerCache):
    """Keys and values that are concatenated at every step."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            keys, values = self.layers[layer]
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        self.layers[layer] = (k, v)
        return k, v


def lock_step(backbone: Scripted, context: Context, tokenizer, task) -> Decoded:
    rows, cache = context.num_rows, GrowingCache(task.max_length)
    token = torch.full((rows,), tokenizer.start_id)
    ended = torch.zeros(rows, dtype=torch.bool)
    ids, scores, features = [], [], []
    for _ in range(task.max_length):
        hidden = backbone.answer(context, token[:, None], cache=cache)[:, -1]
        probability, token = F.linear(hidden, backbone.output_embedding).float().softmax(-1).max(-1)
        token = token.masked_fill(ended, tokenizer.end_id)
        ended |= token == tokenizer.end_id
        ids.append(token), scores.append(probability), features.append(hidden)
        if bool(ended.all()):
            break
    return Decoded(torch.stack(ids, 1), scores[0], torch.stack(features, 1))


def assert_equal(default: Decoded, reference: Decoded, end_id: int) -> None:
    """Same tokens, same scores; same hidden states wherever a row had not ended."""
    length = reference.ids.shape[1]
    assert torch.equal(default.ids[:, :length], reference.ids), "the decoders give different answers"
    assert (default.ids[:, length:] == end_id).all()
    torch.testing.assert_close(default.first_scores, reference.first_scores, rtol=1e-4, atol=1e-6)
    live = reference.ids != end_id
    found = default.features[:, :length][live]
    torch.testing.assert_close(found, reference.features[live], rtol=1e-4, atol=1e-3)


def plain_vit(backbone: UFOViT, images: Tensor) -> Tensor:
    """The same layers, windows and global attention without text, queries and relative positions."""
    x, mean = backbone.embed_image(images), 0.0
    image = tuple(x.shape[1:3])
    for index, layer in enumerate(backbone.layers):
        size = (backbone.window_size,) * 2 if layer.windowed else image
        tiles = _partition(x, size)
        out = layer.finish(tiles, F.scaled_dot_product_attention(*layer.heads_of(tiles)))
        x = _unpartition(out, image, size)
        if index in backbone.mean_layers:
            mean = mean + x
    return mean / len(backbone.mean_layers)


@torch.no_grad()
def measure(model, name: str, objects: int, clock: Clock) -> tuple[list[str], list[str]]:
    """One row of each table."""
    task = model.task(name)
    side = task.image_size
    images = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    grid = model.grid(task, side, side)
    prompts = [task.prompt(class_names(), "the man in red shirt on the left")]
    _, plain = clock(plain_vit, model.backbone, images)
    _, first, _ = with_peak(clock, model.encode, images, prompts, grid)
    context, again, peak = with_peak(clock, model.encode, images, prompts, grid)
    prefix = [name, str(side), f"{plain:.2f}", f"{first:.2f}", f"{again:.2f}", f"{again / plain:.2f}x"]
    prefix.append(f"{peak:.1f}")

    said = script(model, name, context.num_rows, objects)
    backbone = Scripted(model.backbone, said)
    arguments = (backbone, backbone.context(context), model.tokenizer, task)
    slow, slow_time, slow_peak = with_peak(clock, lock_step, *arguments)
    fast, fast_time, fast_peak = with_peak(clock, decode, *arguments)
    assert_equal(fast, slow, model.tokenizer.end_id)
    assert torch.equal(fast.ids, said), "the script was not followed"
    needed = int((said != model.tokenizer.end_id).sum()) + len(said)
    positive = int((said[:, 1] != model.tokenizer.end_id).sum())
    decoding = [name, str(len(said)), str(positive), str(slow.ids.numel()), str(needed)]
    decoding += [f"{slow_time:.2f}", f"{fast_time:.2f}", f"{slow_time / fast_time:.1f}x"]
    return prefix, [*decoding, f"{slow_peak:.1f}", f"{fast_peak:.1f}"]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    model, clock = make_model(arguments), Clock(arguments.clock)
    rows = [measure(model, name, arguments.objects, clock) for name in arguments.tasks]
    prefix, decoding = zip(*rows, strict=True)
    unit = f"{arguments.clock} s, {arguments.threads} threads"
    columns = ["prefix", "side", "plain ViT", "new prompt", "same prompt", "ratio", "peak GB"]
    show(f"Prefix, batch 1 ({unit})", columns, prefix)
    columns = ["decode", "rows", "objects' rows", "lock-step tokens", "needed", "lock-step", "default"]
    columns += ["faster", "peak GB", "default's"]
    show(f"Decoding, batch 1 ({unit})", columns, decoding)


if __name__ == "__main__":
    main()
