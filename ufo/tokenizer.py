"""Text to tokens and back: what every tokenizer offers, and UFO-ViT's own, BERT WordPiece.

UFO appends `[DEC]`, `[ENC]` and `<MASK>` to BERT's vocabulary. An answer is `[CLS] text [SEP]`; a prompt is
encoded the same way and loses its last column. The small experiments store a vocabulary of a few hundred
words in the same format. Shapes: `B` prompts, `n` prompt tokens, `N` rows, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from ufo.hub import is_unreachable
from ufo.types import MASK_TOKEN, Segment

# How UFO-ViT's tokenizer changes a text and divides it into the words that it looks up.
NORMALIZER = normalizers.BertNormalizer(lowercase=True)
PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()


class Encoded(NamedTuple):
    """Tokens of one text and which of them are supervised."""

    ids: list[int]
    supervised: list[bool]


class Tokenizer(Protocol):
    """What the model, its head and its checkpoints ask of a tokenizer.

    `UFOTokenizer` and `ufo.hf_tokenizer.HFTokenizer` meet it. An answer is `start ... end`; whether prompts
    begin with the start token, and what padding is, the tokenizer knows.
    """

    start_id: int
    end_id: int
    pad_id: int
    mask_id: int  # of `<MASK>`; -1, which no token has, where the vocabulary lacks it
    has_mask: bool
    end: str  # the text of the end token
    added: tuple[str, ...]  # the tokens that this project appends where the vocabulary lacks them
    appended: int  # how many it did append: the last rows, which a pretrained embedding lacks
    max_prompt_length: int  # tokens of a prompt, without those of the image

    @property
    def vocab(self) -> tuple[str, ...]:
        """The words that a description stores."""

    def __hash__(self) -> int:
        """A tokenizer is known by itself: what is made of it is kept for the next time."""

    def __len__(self) -> int:
        """How many tokens there are, appended ones included."""

    def token_id(self, token: str) -> int:
        """The id of a token. Raises ValueError where the vocabulary lacks it."""

    def can_write(self, text: str) -> bool:
        """Whether a text has no unknown pieces."""

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text: `start ... end`, cut to `max_length` with the end kept."""

    def encode_segments(self, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
        """How a prompt begins and the tokens of each row's segments, cut into tokens as one text.

        A token belongs to the segment in which it begins.
        """

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompt ids `[B, n]`, padded on the right, and mask (True = visible); equal prompts give one row."""

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, n]` and mask of prompts that are tokens already.

        Raises ValueError for a prompt of more than `max_prompt_length` tokens.
        """

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Right-pad id lists to one int64 tensor `[N, T]`."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of id lists up to their end; `<MASK>` and the other words of an answer stay."""

    def describe(self) -> dict[str, Any]:
        """All that builds this tokenizer again, for a model's description."""

    def save(self, folder: Path) -> None:
        """Write the vocabulary's file."""

    def to_json(self) -> str:
        """The whole tokenizer as a `tokenizer.json` of the library tokenizers."""


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> Tensor:
    """Id lists, padded on the right to one int64 tensor `[N, T]`; T is `length` or that of the longest."""
    length = length or max((len(r) for r in rows), default=0)
    # a tensor of each row would take longer than a layer of a network
    padded = [[*row, *[pad_id] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), length)


def pad_prompts(rows: Sequence[Sequence[int]], pad_id: int, limit: int) -> tuple[Tensor, Tensor]:
    """Ids `[B, n]` and mask of prompts that are tokens already; ValueError where one is over the `limit`."""
    longest = max(len(row) for row in rows)
    if longest > limit:
        raise ValueError(
            f"a prompt has {longest} tokens and the model reads at most {limit}; "
            "shorten the question or the list of classes"
        )
    lengths = torch.tensor([len(row) for row in rows])
    return pad_rows(rows, pad_id), torch.arange(longest)[None] < lengths[:, None]


def join_segments(
    rows: Sequence[Sequence[Segment]], encoded: Sequence[Any], begin: Sequence[int]
) -> list[Encoded]:
    """Tokens of texts that consist of segments: `begin`, and each token with the flag of where it starts.

    `encoded` has `ids` and `offsets` (begin and end character of each token) of every row's whole text.
    """
    result = []
    for row, one in zip(rows, encoded, strict=True):
        flags = [supervised for text, supervised in row for _ in text]
        learned = [flags[min(start, len(flags) - 1)] for start, _ in one.offsets]
        result.append(Encoded([*begin, *one.ids], [False] * len(begin) + learned))
    return result


def distinct_rows(texts: Sequence[str]) -> tuple[list[str], Tensor | None]:
    """The different texts, and which of them each text is, `[B]`; None where all are the same."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) <= 1:
        return distinct, None
    row = {text: i for i, text in enumerate(distinct)}
    return distinct, torch.tensor([row[text] for text in texts])


class UFOTokenizer:
    """WordPiece over a BERT-style `vocab.txt`, with the three tokens that UFO appends.

    `mask_token=False` leaves `<MASK>` out of the model's vocabulary (the published single-task models for
    boxes and captions have 30524 rows).
    """

    def __init__(self, vocab: Sequence[str], max_prompt_length: int = 512, mask_token: bool = True):
        ids = {token: i for i, token in enumerate(vocab)}
        missing = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}; give a BERT-style vocab.txt")
        self._vocab = tuple(vocab)
        self.max_prompt_length = max_prompt_length
        backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = NORMALIZER, PRE_TOKENIZER
        # clean-up joins " ," to the word before it: the parser relies on it
        backend.decoder = decoders.WordPiece(cleanup=True)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + ["[MASK]"] * ("[MASK]" in ids)
        backend.add_special_tokens(special)
        backend.add_special_tokens(["[DEC]", "[ENC]"])
        # an ordinary added token: survives decoding in upper case and matches "<mask>" in a prompt too
        if mask_token:
            backend.add_tokens([AddedToken(MASK_TOKEN, normalized=True)])
        self._backend = backend
        self.pad_id, self.start_id, self.end_id = ids["[PAD]"], ids["[CLS]"], ids["[SEP]"]
        self.end, self.has_mask = "[SEP]", mask_token
        self.added = ("[DEC]", "[ENC]", *[MASK_TOKEN] * mask_token)
        self.appended = len(self) - len(ids)
        self.mask_id = self.token_id(MASK_TOKEN) if mask_token else -1  # -1 is not a token's id

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab(self) -> tuple[str, ...]:
        """The words of `vocab.txt`, without the appended tokens."""
        return self._vocab

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> UFOTokenizer:
        """Read `vocab.txt` from a file, a folder, or a repository of the Hugging Face hub."""
        path = Path(name_or_path)
        if path.is_dir():
            path = path / "vocab.txt"
        if not path.is_file():
            path = _vocab_from_hub(str(name_or_path))
        return cls(path.read_text(encoding="utf-8").split("\n")[:-1], **kwargs)

    def describe(self) -> dict[str, Any]:
        """All that builds this tokenizer again, for a model's description."""
        return {"vocab": list(self.vocab), "mask_token": self.has_mask}

    def save(self, folder: Path) -> None:
        """Write `vocab.txt` (without the appended tokens, as BERT's own file)."""
        (folder / "vocab.txt").write_text("\n".join(self.vocab) + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """The whole tokenizer as a `tokenizer.json`."""
        text: str = self._backend.to_str()
        return text

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text: `[CLS] ... [SEP]`, cut to `max_length` with the end kept."""
        room = None if max_length is None else max_length - 2
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[self.start_id, *e.ids[:room], self.end_id] for e in encoded]

    def encode_segments(self, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
        """`[CLS]` and the tokens of each row's segments, cut into tokens as one text."""
        texts = ["".join(text for text, _ in row) for row in rows]
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        return join_segments(rows, encoded, [self.start_id])

    def token_id(self, token: str) -> int:
        """The id of a token. Raises ValueError where the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the vocabulary has no token {token}; add it to the vocab.txt")
        return found

    def can_write(self, text: str) -> bool:
        """Whether a text has no unknown pieces."""
        return "[UNK]" not in self._backend.encode(text, add_special_tokens=False).tokens

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Right-pad id lists to one int64 tensor `[N, T]`."""
        return pad_rows(rows, self.pad_id, length)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompt ids `[B, n]` and mask (True = visible).

        The last column, which holds the longest prompt's `[SEP]`, is dropped; other `[SEP]` and padding
        are masked. Equal prompts are encoded once: the result then has one row.
        """
        distinct, index = distinct_rows(prompts)
        ids = self.pad(self.encode(distinct, self.max_prompt_length))[:, :-1]
        mask = (ids != self.pad_id) & (ids != self.end_id)
        return (ids, mask) if index is None else (ids[index], mask[index])

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, n]` and mask of prompts that are tokens already."""
        return pad_prompts(rows, self.pad_id, self.max_prompt_length)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of id lists; special tokens vanish, `<MASK>` stays."""
        texts = self._backend.decode_batch([list(r) for r in rows], skip_special_tokens=True)
        # the normaliser that lets "<mask>" in a prompt match also lower-cases the token's own text
        return [t.replace(MASK_TOKEN.lower(), MASK_TOKEN) for t in texts]


def _vocab_from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "vocab.txt", local_files_only=is_unreachable()))
    except Exception as error:
        raise FileNotFoundError(
            f"no vocabulary '{name}': it is neither a vocab.txt, a folder with one, nor reachable on the "
            f"hub ({type(error).__name__}); download bert-base-uncased/vocab.txt and give its path"
        ) from error


def build_vocab(words: Sequence[str], numbers: int) -> list[str]:
    """A small vocabulary: BERT's special tokens, characters as a fallback, words, numbers 0..`numbers`.

    A coordinate is then one token, and no text is out of vocabulary.
    """
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [f"##{c}" for c in characters if c.isalnum()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    bins = [str(i) for i in range(numbers + 1)]
    return list(dict.fromkeys([*special, *characters, *pieces, *bins, *sorted(words)]))
