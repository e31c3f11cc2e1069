"""`ufo data vocab`: what class names and texts cost in tokens, and a vocabulary in which they cost less.

A prompt lists all classes, and the model reads a bounded number of tokens: a word that the vocabulary lacks
is spelled in pieces. New words go to the end of the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track

from ufo.check.texts import Limits
from ufo.cli import CommandError
from ufo.cli.data_check import UNUSABLE
from ufo.cli.data_find import Found, find, quiet, tasks_for
from ufo.cli.data_outline import outline
from ufo.data.vocabulary import missing_words, spelled, tokens_per_name, words_of
from ufo.errors import sentence
from ufo.files import write_text
from ufo.ops.nearest import few
from ufo.tables import table
from ufo.tokenizer import UFOTokenizer

LONGEST = 12  # names that are listed
NAMED = 5  # words that the last line names


def run(args: argparse.Namespace) -> int:
    """Print tokens per class and prompt lengths before and after; write the vocabulary with `--out`."""
    sources = [find(name, args.root, args.overrides) for name in args.names]
    with quiet():
        before = instantiate(sources[0].cfg.backbone.tokenizer)
        if not isinstance(before, UFOTokenizer):
            raise CommandError("a language model keeps its own tokenizer; choose a UFO-ViT with backbone=")
        read = [(found, _read(found)) for found in sources]
    classes = list(dict.fromkeys(name for _, data in read for name in data.classes))
    texts = [text for _, data in read for text in texts_of(data)]
    words = missing_words(before.vocab, classes, texts, args.at_least, args.most)
    after = UFOTokenizer([*before.vocab, *words], before.max_prompt_length, before.has_mask)
    print(_names(classes, before, after))
    print(_prompts(read, before, after))
    counted = f"{len(words):,} words are unknown or spelled in pieces, of {len(before):,} tokens"
    if not args.out:
        print(f"\n{counted}; --out FILE writes a vocabulary with them")
        return 0
    _check_out(args.out, before)
    write_text(args.out, "\n".join(after.vocab) + "\n")
    left = spelled(
        UFOTokenizer.from_pretrained(args.out),
        [*words, *(word for name in classes for word in words_of(name))],
    )
    print(f"\n{counted}; {_now(args.out, left)}. Train with: backbone.tokenizer.name_or_path={args.out}")
    return 0


def _now(out: Path, left: list[str]) -> str:
    """What became of the words, as the written file is read again."""
    if not left:
        return f"{out} has a token for each"
    shown = few(left, NAMED, quoted=True)
    return f"with {out} {len(left):,} still are: {shown}"


def _check_out(out: Path, vocabulary: UFOTokenizer) -> None:
    """CommandError for a file that is there and is no vocabulary: it may be the source itself."""
    if out.is_dir():
        raise CommandError(f"--out {out} is a folder; name a file in it, for example {out / 'vocab.txt'}")
    if out.is_file():
        with open(out, encoding="utf-8", errors="replace") as file:
            first = file.readline(200).strip()
        if first != vocabulary.vocab[0]:
            raise CommandError(f"--out {out} is there and is no vocabulary; give a file of another name")


def _read(found: Found) -> Any:
    if "train" not in found.splits:
        raise CommandError(f"{found.name} has no train data, only {', '.join(found.splits) or 'nothing'}")
    try:
        return found.build("train")
    except UNUSABLE as error:
        raise CommandError(f"{found.name}: {sentence(error)}") from error


def texts_of(data: Any) -> Iterator[str]:
    """What samples are asked with and answered: expressions, questions, captions."""
    if data.provides & {"expression", "conversation", "caption"}:
        for i in track(range(len(data)), "reading texts", transient=True, console=Console(stderr=True)):
            yield from data.said(i)


def _names(classes: list[str], before: UFOTokenizer, after: UFOTokenizer) -> str:
    """The names that cost most, with their tokens before and after."""
    if not classes:
        return "no classes"
    old, new = tokens_per_name(before, classes), tokens_per_name(after, classes)
    order = sorted(range(len(classes)), key=lambda i: _gain(old[i], new[i]))
    rows = [[classes[i], _cost([old[i]]), _cost([new[i]])] for i in order[:LONGEST]]
    if rest := order[LONGEST:]:
        rows.append([f"and {len(rest)} more", *(_cost([counts[i] for i in rest]) for counts in (old, new))])
    rows.append([f"all {len(classes)} classes", _cost(old), _cost(new)])
    return table(["class", "tokens", "with the new words"], rows)


def _gain(old: int | None, new: int | None) -> tuple[bool, bool, int, int]:
    """Sorts first what can't be written, then what could not, then what becomes shorter by most."""
    return new is not None, old is not None, (new or 0) - (old or 0), -(old or 0)


def _cost(counts: list[int | None]) -> str:
    """Tokens of names; names that the vocabulary can't write are no cheap ones, and are counted apart."""
    unknown = counts.count(None)
    if unknown == len(counts) == 1:
        return "unknown"
    total = f"{sum(n for n in counts if n is not None)}"
    return f"{total}, {unknown} unknown" if unknown else total


def _prompts(read: list[tuple[Found, Any]], before: UFOTokenizer, after: UFOTokenizer) -> str:
    """Tokens of the longest prompt of each source and task, and how many the model reads."""
    rows = []
    for found, data in read:
        for task in tasks_for(data.provides) if found.source is None else [found.source.task]:
            with quiet():
                models = [outline(found, [task], tokenizer) for tokenizer in (before, after)]
                lengths = [Limits(model, model.task(task), data.classes) for model in models]
            name = f"{found.name} {task}" if found.source is None else found.name
            rows.append([name, *(str(limits.prompt_length) for limits in lengths), str(lengths[0].room)])
    return "\n" + table(["longest prompt", "tokens", "with the new words", "the model reads"], rows)
