"""Decoding of the language models: shared prefix and leaving rows, against lock-step and `generate`.

    python benchmarks/decode_mllm.py [--tiles 2] [--layers 12] [--threads 2] [--objects 16]

InternVL's real architecture with random weights and scripted answers (see common.py): of 100 queries per
tile one to three answer for each object with sixteen masks; the others say `background`. The default knows
the class names, as when predicting: a row that begins none of them ends there, with the same prediction.
(a) lock-step is the published layout: all queries in one row, a block mask [Q, N + Q*t], keys and values
concatenated at every step, until the slowest has ended. (b) transformers' `generate`, one query at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from common import PUSH, Clock, common_arguments, show, with_peak
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LogitsProcessor

from ufo.backbones.context import Context
from ufo.backbones.internvl import InternVL
from ufo.backbones.prefix_attention import NAME
from ufo.head.greedy import greedy
from ufo.head.guesses import MaskRun
from ufo.head.strategy import Strategy
from ufo.ops.grid import query_grid

PATCH, MASK, START, END, COMMA, BACKGROUND, FIRST_NAME = range(7)
MASKS, MAX_LENGTH = 16, 30


def make_backbone(layers: int, vocabulary: int) -> InternVL:
    """About 0.4 B parameters at 12 layers; InternVL's tiles, unshuffling and grouped key heads."""
    text = {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "eos_token_id": END,
    }
    vision = {
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "use_qk_norm": False,
        "norm_type": "layer_norm",
        "attention_bias": True,
        "use_absolute_position_embeddings": True,
    }
    config = {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": PATCH,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    backbone = InternVL(vocab_size=vocabulary, config=config).eval()
    backbone.patch_id = PATCH
    return backbone


def script(rows: int, objects: int, vocabulary: int) -> Tensor:
    """What each query says, token ids `[Q, 30]`; END after the end."""
    generator = torch.Generator().manual_seed(0)
    said = torch.full((rows, MAX_LENGTH), END)
    said[:, 0] = BACKGROUND
    repeats = int((1 + torch.randint(3, (objects,), generator=generator)).sum())
    for row in torch.randperm(rows, generator=generator)[:repeats].tolist():
        pieces = 1 + int(torch.randint(3, (1,), generator=generator))  # a class name has 1 to 3
        name = torch.randint(FIRST_NAME, vocabulary, (pieces,), generator=generator).tolist()
        answer = torch.tensor([*name, COMMA, *[MASK] * MASKS])
        said[row, : len(answer)] = answer
    return said


@dataclass
class ScriptedContext(Context):
    """A context that knows which line of the script each of its rows speaks."""

    lines: Tensor | None = None  # int64 [R']

    def select(self, rows: Tensor) -> ScriptedContext:
        return replace(super().select(rows), lines=self.lines[rows])


class Scripted:
    """A backbone whose likeliest tokens are those of `said [R, T]`; counts its calls."""

    def __init__(self, backbone: InternVL, said: Tensor):
        self.backbone, self.said, self.calls = backbone, said, 0
        self.output_embedding, self.device = backbone.output_embedding, backbone.device

    def context(self, context: Context) -> ScriptedContext:
        return ScriptedContext(**vars(context), lines=torch.arange(context.num_rows, device=self.device))

    def answer(self, context: ScriptedContext, ids: Tensor, packed=None, cache=None) -> Tensor:
        self.calls += 1
        at = torch.arange(ids.shape[1], device=ids.device) + cache.length
        hidden = self.backbone.answer(context, ids, packed, cache)
        return self.push(hidden, self.said[context.lines][:, at.clamp(max=self.said.shape[1] - 1)])

    def push(self, hidden: Tensor, told: Tensor) -> Tensor:
        return hidden + PUSH * self.output_embedding[told]


def default(scripted: Scripted, context: Context, leave_after: Tensor | None = None):
    """This project's decoder: ids and features `[Q, 30, ...]`."""
    masks = (MaskRun(MASK, MASKS),)
    strategy = Strategy(START, END, MAX_LENGTH, guesses=masks, leave_after=leave_after)
    found = greedy(scripted, scripted.context(context), strategy)
    return found.ids, found.features


def lock_step(scripted: Scripted, context: Context):
    """All queries in one row, masked from each other; every step has one token of each."""
    backbone, said = scripted.backbone, scripted.said
    decoder, queries = backbone.decoder, context.num_queries
    backbone.net.set_attn_implementation({"text_config": "eager"})
    cache = DynamicCache()
    for index, memory in enumerate(context.memory):
        cache.update(*memory.shared, index)
    prefix = context.memory[0].shared[0].shape[2]
    x, ended = context.first_token.embedding[None], torch.zeros(queries, dtype=torch.bool)
    ids, features = [], []
    for step in range(MAX_LENGTH):
        own = torch.eye(queries, dtype=torch.bool).repeat(1, step + 1)
        seen = torch.cat([torch.ones(queries, prefix, dtype=torch.bool), own], 1)
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        rope = decoder.rotary_emb(x, context.first_token.position[None] + step)
        for memory, layer in zip(context.memory, decoder.layers, strict=True):
            if step == 0 and memory.local is not None:
                x = x + memory.local[None]
            x = layer(x, attention_mask=mask, position_embeddings=rope, past_key_values=cache)
        hidden = scripted.push(decoder.norm(x)[0], said[:, step])
        token = F.linear(hidden, scripted.output_embedding).softmax(-1).argmax(-1).masked_fill(ended, END)
        ended |= token == END
        ids.append(token), features.append(hidden)
        if bool(ended.all()):
            break
        x = decoder.embed_tokens(token)[None]
    backbone.net.set_attn_implementation({"text_config": NAME})
    return torch.stack(ids, 1), torch.stack(features, 1)


class FollowScript(LogitsProcessor):
    """Makes `generate` say one line of the script."""

    def __init__(self, line: Tensor):
        self.line, self.step = line, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.line[self.step]] += 1e4
        self.step += 1
        return scores


def generate(backbone: InternVL, prefix: Tensor, start: Tensor, line: Tensor) -> Tensor:
    """One query with transformers' own loop: `prefix [1, N, C]` is read again for each."""
    backbone.net.set_attn_implementation({"text_config": "sdpa"})
    embeds = torch.cat([prefix, start[None, None]], 1)
    found = backbone.net.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        logits_processor=[FollowScript(line)],
        max_new_tokens=MAX_LENGTH,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=END,
    )
    backbone.net.set_attn_implementation({"text_config": NAME})
    return found[0]


def flops(function: Callable, *arguments) -> float:
    """Floating-point operations of matrix products, in 10^12."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() / 1e12


def assert_equal(found, expected) -> None:
    """Same tokens, and the same hidden states wherever a query had not ended."""
    length = expected[0].shape[1]
    assert torch.equal(found[0][:, :length], expected[0]), "the decoders give different answers"
    live = expected[0] != END
    torch.testing.assert_close(found[1][:, :length][live], expected[1][live], rtol=1e-4, atol=1e-3)


def per_query(backbone, context, prefix, said, clock, samples: int) -> tuple[float, float]:
    """Seconds and 10^12 operations of `generate` for all queries, extrapolated from some of both kinds."""
    seconds = operations = 0.0
    one_word = said[:, 1] == END
    for kind in (one_word, ~one_word):
        rows = kind.nonzero()[:, 0]
        for row in rows[:samples].tolist():
            arguments = (backbone, prefix, context.first_token.embedding[row], said[row])
            ids, time = clock(generate, *arguments)
            assert torch.equal(ids[:-1], said[row][: len(ids) - 1]) and ids[-1] == END
            share = len(rows) / len(rows[:samples])
            seconds += time * share
        operations += flops(generate, *arguments) * len(rows)
    return seconds, operations


@torch.no_grad()
def measure_dense(backbone, arguments, clock) -> list[list[str]]:
    """Instance segmentation: lock-step, generate, default."""
    side = 448 * arguments.tiles
    images = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    prompt = torch.randint(FIRST_NAME, arguments.vocabulary, (1, arguments.prompt))
    prompt[0, arguments.prompt // 2] = PATCH
    mask = torch.ones_like(prompt, dtype=torch.bool)
    queries = query_grid(arguments.tiles, arguments.tiles, 10)
    context, prefix_time = clock(backbone.encode, images, prompt, mask, queries)
    prefix_flops = flops(backbone.encode, images, prompt, mask, queries)
    said = script(context.num_queries, arguments.objects, arguments.vocabulary)
    scripted = Scripted(backbone, said)

    # as `UFO.predict_batch` asks: what begins no class name is not asked what it would say next
    leave_after = torch.zeros(arguments.vocabulary, dtype=torch.bool)
    leave_after[BACKGROUND] = True
    default(scripted, context, leave_after)  # warm up
    scripted.calls = 0
    fast, fast_time, fast_peak = with_peak(clock, default, scripted, context, leave_after)
    calls = scripted.calls
    whole, whole_time, whole_peak = with_peak(clock, default, scripted, context)
    slow, slow_time, slow_peak = with_peak(clock, lock_step, scripted, context)
    assert_equal(whole, slow)
    for ids in (fast[0], whole[0]):
        assert torch.equal(ids, said), "the script was not followed"
    words = (said != END) & (said[:, :1] != BACKGROUND)
    torch.testing.assert_close(fast[1][words], whole[1][words])
    embedded = torch.randn(1, context.memory[0].shared[0].shape[2], backbone.width)
    each_time, each_flops = per_query(backbone, context, embedded, said, clock, arguments.samples)

    def row(name, seconds, operations, tokens, peak):
        return [name, tokens, f"{seconds:.2f}", f"{seconds / fast_time:.1f}x", f"{operations:.3f}", peak]

    needed = int((said != END).sum()) + len(said)
    fewer = needed - int((said[:, 0] == BACKGROUND).sum())
    slow_flops, whole_flops = flops(lock_step, scripted, context), flops(default, scripted, context)
    fast_flops = flops(default, scripted, context, leave_after)
    return [
        row("prefix", prefix_time, prefix_flops, str(embedded.shape[1]), ""),
        row("(a) lock-step", slow_time, slow_flops, str(slow[0].numel()), f"{slow_peak:.1f}"),
        row("(b) generate, estimated", each_time, each_flops, str(needed), ""),
        row("default without class names", whole_time, whole_flops, str(needed), f"{whole_peak:.1f}"),
        row(f"default, {calls} calls", fast_time, fast_flops, str(fewer), f"{fast_peak:.1f}"),
    ]


@torch.no_grad()
def measure_single(backbone, arguments, clock) -> list[list[str]]:
    """Referring segmentation: `Sure, it is [SEG].` token by token and with verified chunks."""
    side = 448 * arguments.tiles
    images = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    prompt = torch.randint(FIRST_NAME, arguments.vocabulary, (1, arguments.prompt))
    prompt[0, arguments.prompt // 2] = PATCH
    context = backbone.encode(images, prompt, torch.ones_like(prompt, dtype=torch.bool))
    said = torch.full((1, MAX_LENGTH), END)
    said[0, : 3 + MASKS] = torch.tensor([FIRST_NAME, FIRST_NAME + 1, *[MASK] * MASKS, FIRST_NAME + 2])
    rows, answers = [], []
    for name, guesses in (("token by token", ()), ("verified chunk", (MaskRun(MASK, MASKS),))):
        scripted = Scripted(backbone, said)
        strategy = Strategy(START, END, MAX_LENGTH, guesses=guesses)
        inputs = (scripted, scripted.context(context), strategy)
        greedy(*inputs)
        scripted.calls = 0
        found, seconds = clock(greedy, *inputs)
        answers.append(found)
        rows.append([name, str(scripted.calls), f"{seconds:.2f}"])
    assert torch.equal(answers[0].ids, answers[1].ids)
    torch.testing.assert_close(answers[0].features, answers[1].features, rtol=1e-4, atol=1e-3)
    return rows


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--tiles", type=int, default=2, help="tiles per side; 2 = 896 px, 400 queries")
    made.add_argument("--layers", type=int, default=12)
    made.add_argument("--vocabulary", type=int, default=92554, help="tokens; default InternVL2.5-8B's")
    made.add_argument("--objects", type=int, default=16)
    made.add_argument("--prompt", type=int, default=240, help="tokens of the prompt (80 class names)")
    made.add_argument("--samples", type=int, default=2, help="queries of each kind for `generate`")
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone, clock = make_backbone(arguments.layers, arguments.vocabulary), Clock(arguments.clock)
    size = sum(p.numel() for p in backbone.parameters()) / 1e9
    unit = f"{size:.2f} B parameters, float32, {arguments.clock} s, {arguments.threads} threads"
    columns = ["instance segmentation", "tokens", "s", "of default", "10^12 FLOP", "peak GB"]
    rows = measure_dense(backbone, arguments, clock)
    show(f"Decoding of {100 * arguments.tiles**2} queries ({unit})", columns, rows)
    columns = ["referring segmentation", "calls after the prefix", "s"]
    show(f"One answer ({unit})", columns, measure_single(backbone, arguments, clock))


if __name__ == "__main__":
    main()
