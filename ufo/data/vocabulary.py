"""Vocabularies of the small model: the general one, and what own classes and texts need beside it.

A word that is one token is learned as one thing; a word that is spelled letter by letter costs a prompt a
token per letter. `conf/vocab/general.txt` has a few thousand common English words, the words of well-known
class lists, the numbers of coordinates and pieces of words; `conf/vocab/README.md` says where they are from
and with which command it was made.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from ufo.files import write_text
from ufo.tokenizer import NORMALIZER, PRE_TOKENIZER, UFOTokenizer, build_vocab

NUMBERS = 448
PIECES = 800
"""Tokens of the general vocabulary's letters and pieces of words."""
_SUFFIXES = ("s", "ly", "ing", "ed", "er")
"""A word that is another one and such an ending is written as these two pieces."""


def common_words(lists: Iterable[str]) -> list[str]:
    """The lower-case words of word lists, without regular forms of others in them, sorted."""
    words = {word for text in lists for word in text.split() if re.fullmatch("[a-z]+", word)}
    regular = {w for w in words for end in _SUFFIXES if w.endswith(end) and w.removesuffix(end) in words}
    return sorted(words - regular)


def pieces_of(words: Sequence[str], count: int = PIECES) -> list[str]:
    """The most useful pieces inside words (`##ing`): of `count` tokens that WordPiece learns from a list."""
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(words, trainers.WordPieceTrainer(vocab_size=count, show_progress=False))
    return sorted(piece for piece in learner.get_vocab() if piece.startswith("##"))


def general(lists: Sequence[str], names: Iterable[str]) -> list[str]:
    """The general vocabulary: the common ones of word lists, and all words of `names` (classes, tasks).

    A coordinate up to `NUMBERS` is one token; see `ufo.tokenizer.build_vocab`.
    """
    named = {word for name in names for word in words_of(name) if word.isalpha()}
    every = sorted({word for text in lists for word in text.split() if re.fullmatch("[a-z]+", word)})
    endings = [f"##{end}" for end in _SUFFIXES]
    return build_vocab([*common_words(lists), *named, *endings, *pieces_of(every)], NUMBERS)


def words_of(text: str) -> list[str]:
    """The words that `UFOTokenizer` looks up for a text.

    They are in lower case and without accents, and a Chinese character is a word of its own: an entry that
    is spelled otherwise would never be found.
    """
    return [word for word, _ in PRE_TOKENIZER.pre_tokenize_str(NORMALIZER.normalize_str(text))]


def missing_words(
    vocab: Sequence[str],
    classes: Iterable[str],
    texts: Iterable[str] = (),
    at_least: int = 2,
    most: int = 2000,
) -> list[str]:
    """Words that a vocabulary spells in pieces: all of class names, and those of texts that are frequent.

    Args:
        vocab: the tokens that there are.
        classes: names; each of their words becomes a token.
        texts: captions, expressions, answers; words that occur `at_least` so often, the most frequent first.
        most: at most so many words of texts.
    """
    known = set(vocab)
    named = list(dict.fromkeys(w for name in classes for w in words_of(name) if w not in known))
    counts = Counter(w for text in texts for w in words_of(text) if w not in known and w not in named)
    frequent = [word for word, n in counts.most_common(most) if n >= at_least]
    return [*named, *frequent]


def tokens_per_name(tokenizer: UFOTokenizer, names: Sequence[str]) -> list[int | None]:
    """How many tokens each name takes; None where the vocabulary has no pieces for a part of it."""
    unknown = tokenizer.token_id("[UNK]")
    # without [CLS] and [SEP]
    return [None if unknown in ids else len(ids) - 2 for ids in tokenizer.encode(names)]


def spelled(tokenizer: UFOTokenizer, words: Iterable[str]) -> list[str]:
    """The words among `words`, each once, that are not one token."""
    distinct = list(dict.fromkeys(words))
    return [word for word, n in zip(distinct, tokens_per_name(tokenizer, distinct), strict=True) if n != 1]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the general vocabulary."""
    parser = argparse.ArgumentParser(prog="python -m ufo.data.vocabulary", description=main.__doc__)
    parser.add_argument(
        "lists", nargs="+", type=Path, help="lists of words, the common ones of which are taken"
    )
    parser.add_argument(
        "--names", nargs="*", type=Path, default=[], help="lists of which every word is taken"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    lists = [path.read_text(encoding="latin-1") for path in args.lists]
    names = [name for path in args.names for name in path.read_text(encoding="utf-8").splitlines()]
    write_text(args.out, "\n".join(general(lists, names)) + "\n")


if __name__ == "__main__":
    main()
