"""Decoding and prefix of UFO-ViT at the official resolutions, against lock-step and a plain ViT.

    python benchmarks/decode_vit.py [--scale 0.4] [--tasks detection] [--objects 40] [--threads 2]

Lock-step is what the published code does: every query, one token at a time, a softmax over the whole
vocabulary, until the slowest has ended. "same ids" is the default decoder; "as predicting" knows the class
names as well, as `UFO.predict_batch` does: a row whose first word begins none of them ends there. Both must
give the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from common import Clock, Scripted, class_names, make_model, parser, script, show, with_peak
from torch import Tensor

from ufo.backbones.context import AnswerCache, Context
from ufo.backbones.ufo_vit import UFOViT
from ufo.backbones.vit_grids import partition, unpartition
from ufo.head.decoding import Decoded, decode


@dataclass
class GrowingCache(AnswerCache):
    """Keys and values that are concatenated at every step."""

    grown: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extend(self, layer, k, v, layers=1, memory=None):
        before = self.grown.get(layer, memory)
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        self.grown[layer] = (k, v)
        return k, v


def lock_step(backbone: Scripted, context: Context, tokenizer, task) -> Decoded:
    rows, cache = context.num_rows, GrowingCache(task.max_length)
    token = torch.full((rows,), tokenizer.start_id, device=backbone.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=backbone.device)
    ids, scores, features = [], [], []
    for _ in range(task.max_length):
        hidden = backbone.answer(context, token[:, None], cache=cache)[:, -1]
        probability, token = F.linear(hidden, backbone.output_embedding).float().softmax(-1).max(-1)
        token = token.masked_fill(ended, tokenizer.end_id)
        ended |= token == tokenizer.end_id
        ids.append(token), scores.append(probability), features.append(hidden)
        if bool(ended.all()):
            break
    return Decoded(torch.stack(ids, 1), scores[0][:, None], torch.stack(features, 1))


def assert_equal(default: Decoded, reference: Decoded, end_id: int) -> None:
    """Same tokens, same scores; same hidden states wherever a row had not ended."""
    length = reference.ids.shape[1]
    assert torch.equal(default.ids[:, :length], reference.ids), "the decoders give different answers"
    assert (default.ids[:, length:] == end_id).all()
    torch.testing.assert_close(default.first_scores, reference.first_scores, rtol=1e-4, atol=1e-6)
    live = reference.ids != end_id
    found = default.features[:, :length][live]
    torch.testing.assert_close(found, reference.features[live], rtol=1e-4, atol=1e-3)


def tokens_fed(backbone: Scripted) -> int:
    """Tokens that ran through the network since the last call."""
    fed, backbone.fed = backbone.fed, 0
    return fed


def plain_vit(backbone: UFOViT, images: Tensor) -> Tensor:
    """The same layers, windows and global attention without text, queries and relative positions."""
    x, mean = backbone.embed_image(images), 0.0
    image = tuple(x.shape[1:3])
    for index, layer in enumerate(backbone.layers):
        size = (backbone.window_size,) * 2 if layer.windowed else image
        tiles = partition(x, size)
        out = layer.finish(tiles, F.scaled_dot_product_attention(*layer.heads_of(tiles)))
        x = unpartition(out, image, size)
        if index in backbone.mean_layers:
            mean = mean + x
    return mean / len(backbone.mean_layers)


@torch.no_grad()
def measure(model, name: str, objects: int, clock: Clock, plain_too: bool) -> tuple[list[str], list[str]]:
    """One row of each table; the first is empty without the plain ViT."""
    task = model.task(name)
    side = task.image_size
    images = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    grid = model.grid(task, side, side)
    prompts = [task.prompt(class_names(), "the man in red shirt on the left")]
    context, first, peak = with_peak(clock, model.encode, images, prompts, grid)
    prefix = []
    if plain_too:
        _, plain = clock(plain_vit, model.backbone, images)
        context, again, peak = with_peak(clock, model.encode, images, prompts, grid)
        prefix = [name, str(side), *(f"{t:.2f}" for t in (plain, first, again)), f"{again / plain:.2f}x"]
        prefix.append(f"{peak:.1f}")

    said = script(model, name, context.num_rows, objects)
    backbone = Scripted(model.backbone, said)
    arguments = (backbone, backbone.context(context), model.tokenizer, task)
    decode(*arguments, class_names())  # first calls load libraries and look up tokens
    tokens_fed(backbone)
    end, words, times, peaks, fed = model.tokenizer.end_id, class_names(), [], [], []
    for run, extra in ((lock_step, ()), (decode, ()), (decode, (words,))):
        found, seconds, peak = with_peak(clock, run, *arguments, *extra)
        times.append(seconds), peaks.append(peak), fed.append(tokens_fed(backbone))
        if run is lock_step:
            slow = found
            continue
        assert_equal(found, slow, end)
        assert torch.equal(found.ids, said), "the script was not followed"
    positive = int((said[:, 1] != end).sum())
    decoding = [name, str(len(said)), str(positive), "/".join(map(str, fed)), *(f"{t:.2f}" for t in times)]
    decoding += [f"{times[0] / times[1]:.1f}x", f"{times[0] / times[2]:.1f}x"]
    return prefix, [*decoding, "/".join(f"{p:.1f}" for p in peaks)]


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--decode-only", action="store_true", help="leave the plain ViT out")
    arguments = made.parse_args()
    model, clock = make_model(arguments), Clock(arguments.clock)
    torch.manual_seed(0)
    measured = (arguments.objects, clock, not arguments.decode_only)
    rows = [measure(model, name, *measured) for name in arguments.tasks]
    prefix, decoding = zip(*rows, strict=True)
    unit = f"{arguments.clock} s, {arguments.threads} threads"
    if not arguments.decode_only:
        columns = ["prefix", "side", "plain ViT", "new prompt", "same prompt", "ratio", "peak GB"]
        show(f"Prefix, batch 1 ({unit})", columns, prefix)
    columns = ["decode", "rows", "objects' rows", "tokens", "lock-step", "same ids", "as predicting"]
    columns += ["faster", "faster", "peak GB"]
    show(f"Decoding, batch 1 ({unit})", columns, decoding)


if __name__ == "__main__":
    main()
