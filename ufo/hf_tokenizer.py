"""The text side of a language model: a `tokenizer.json` or sentencepiece model plus UFO's tokens.

See docs/published_system.md#mllm-variants.
An answer to a query is `<start> text <end>`; an answer to a prompt alone continues the prompt's text, and the
two are then cut into tokens as one. Which tokens start, end and pad is asked by name, never by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from ufo.hub import is_unreachable
from ufo.tokenizer import Encoded, distinct_rows, join_segments, pad_prompts, pad_rows
from ufo.tokenizer_bounds import check_speed, check_tokenizer, no_panic
from ufo.tokenizer_files import FILES, pieces_file, read_added, without_prepend
from ufo.types import MASK_TOKEN, Segment

if TYPE_CHECKING:
    from ufo.sentencepiece_backend import SentencePieceBackend

    Backend = tokenizers.Tokenizer | SentencePieceBackend


class HFTokenizer:
    """A fast tokenizer of the Hugging Face library; meets `ufo.tokenizer.Tokenizer`.

    Args:
        backend: a `tokenizers.Tokenizer` or something that behaves like one.
        start, end, pad: texts of the special tokens; `end` ends an answer.
        added: tokens to append to the vocabulary where it lacks them, in this order.
        max_prompt_length: tokens of a prompt, without those of the image.
        start_prompts: whether prompts begin with `start`; some families write none.

    Raises ValueError where the vocabulary lacks `start`, `end` or `pad`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        start: str = "<s>",
        end: str = "</s>",
        pad: str = "</s>",
        added: Sequence[str] = (MASK_TOKEN,),
        max_prompt_length: int = 8192,
        start_prompts: bool = True,
    ):
        self._backend = backend
        missing = [t for t in (start, end, pad) if backend.token_to_id(t) is None and t not in added]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}; name its own tokens with start=, end= and pad="
            )
        new = [t for t in added if backend.token_to_id(t) is None]
        # no special tokens: they survive where special ones are skipped
        backend.add_tokens([AddedToken(t, normalized=False, special=False) for t in new])
        self.appended = len(new)  # rows that a pretrained embedding lacks
        self.start, self.end, self.pad_token = start, end, pad
        self.added, self.max_prompt_length = tuple(added), max_prompt_length
        self.start_prompts = start_prompts
        self.start_id, self.end_id, self.pad_id = (self.token_id(t) for t in (start, end, pad))
        mask = backend.token_to_id(MASK_TOKEN)
        self.has_mask = mask is not None
        self.mask_id = -1 if mask is None else mask  # -1 is not a token's id

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def pieces(self) -> int:
        """How many tokens the tokenizer's model has itself, those that were added to it aside."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **settings: Any) -> HFTokenizer:
        """Read `tokenizer.json` or a sentencepiece `.model` from a file, a folder, or the hub.

        Raises FileNotFoundError that says what was looked for.
        """
        path = Path(name_or_path)
        if not path.exists():
            path = _from_hub(str(name_or_path))
        path = pieces_file(path) if path.is_dir() else path
        return cls(read_backend(path), **settings)

    @classmethod
    def from_content(cls, content: str, **settings: Any) -> HFTokenizer:
        """The tokenizer that `content` and `settings` of another one describe."""
        return cls(backend_from_text(content), **settings)

    # ---------------------------------------------------------------- stored with a model

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, besides the vocabulary, that build this tokenizer again."""
        return {
            "start": self.start,
            "end": self.end,
            "pad": self.pad_token,
            "added": list(self.added),
            "max_prompt_length": self.max_prompt_length,
            "start_prompts": self.start_prompts,
        }

    @property
    def vocab(self) -> tuple[str, ...]:
        """All tokens by id."""
        by_id = {i: token for token, i in self._backend.get_vocab(with_added_tokens=True).items()}
        return tuple(by_id.get(i, "") for i in range(len(self)))

    @property
    def content(self) -> str:
        """The file of this tokenizer as text."""
        return self._backend.to_str()

    def describe(self) -> dict[str, Any]:
        """All that builds this tokenizer again, for a model's description."""
        return {"tokenizer": {**self.settings, "content": self.content}}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, with the appended tokens."""
        (folder / "tokenizer.json").write_text(self.content, encoding="utf-8")

    def to_json(self) -> str:
        """The whole tokenizer; of a sentencepiece model our own text, which the library does not read."""
        return self.content

    # ---------------------------------------------------------------- text to tokens

    def token_id(self, token: str) -> int:
        """The id of a token. Raises ValueError where the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise ValueError(
                f"the tokenizer has no token {token}; take the tokenizer of this model, or add the token "
                f"(backbone.tokenizer.added=[..., '{token}'])"
            )
        return found

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text: `<start> ... <end>`, cut to `max_length` with the end kept."""
        room = None if max_length is None else max_length - 2
        with no_panic():
            encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self.start_id, *e.ids[:room], self.end_id] for e in encoded]

    def encode_segments(self, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
        """`<start>` (see `start_prompts`) and the tokens of each row's segments, cut into tokens as one text.

        A token belongs to the segment in which it begins.
        """
        texts = ["".join(text for text, _ in row) for row in rows]
        with no_panic():
            encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        return join_segments(rows, encoded, [self.start_id] * self.start_prompts)

    def can_write(self, text: str) -> bool:
        """Whether a text has no unknown pieces."""
        unknown = self._backend.token_to_id("<unk>")
        with no_panic():
            return unknown is None or unknown not in self._backend.encode(text, add_special_tokens=False).ids

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Right-pad id lists to one int64 tensor `[N, T]`."""
        return pad_rows(rows, self.pad_id, length)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompt ids `[B, n]`, right padded, and mask (True = a token); equal prompts give one row.

        Raises ValueError for a prompt of more than `max_prompt_length` tokens.
        """
        distinct, index = distinct_rows(prompts)
        rows = [e.ids for e in self.encode_segments([[(p, False)] for p in distinct])]
        ids, mask = self.pad_prompts(rows)
        return (ids, mask) if index is None else (ids[index], mask[index])

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, n]` and mask of prompts that are tokens already."""
        return pad_prompts(rows, self.pad_id, self.max_prompt_length)

    # ---------------------------------------------------------------- tokens to text

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of id lists up to their end; `<MASK>`, `<box>` and other words of an answer stay."""
        silent = {self.start_id, self.pad_id}
        kept = []
        for row in rows:
            ids = list(row)
            ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
            kept.append([i for i in ids if i not in silent])
        return self._backend.decode_batch(kept, skip_special_tokens=False)


def read_backend(path: Path) -> Backend:
    """The tokenizer in a `tokenizer.json`, or in a sentencepiece `.model` with what lies beside it.

    Raises ValueError that names a damaged file.
    """
    added = read_added(path.parent)
    try:
        if path.suffix == ".model":
            from ufo.sentencepiece_backend import SentencePieceBackend

            return SentencePieceBackend(path.read_bytes(), added)
        return backend_from_text(without_prepend(path.read_text(encoding="utf-8"), added))
    except ImportError:
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ValueError(f"'{path}': {str(error)[:200]}") from error


def backend_from_text(text: str) -> Backend:
    """The tokenizer that `HFTokenizer.content` is the text of.

    Raises ValueError for one whose patterns could hang (`ufo.tokenizer_bounds`).
    """
    from ufo.sentencepiece_backend import PREFIX, SentencePieceBackend

    if text.startswith(PREFIX):
        return SentencePieceBackend.from_str(text)
    backend = tokenizers.Tokenizer.from_str(check_tokenizer(text))
    check_speed(backend)
    return backend


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=is_unreachable()))
        pieces_file(folder)
        return folder
    except Exception as error:
        raise FileNotFoundError(
            f"no tokenizer '{name}': it is neither a file, a folder with tokenizer.json, nor reachable "
            f"on the hub ({type(error).__name__}); download the model's tokenizer and give its folder"
        ) from error


def build_tokenizer(vocab: Sequence[str], special: Sequence[str]) -> tokenizers.Tokenizer:
    """A small WordPiece tokenizer: `special` tokens first, then `vocab` (see `ufo.tokenizer.build_vocab`).

    `special` holds `<unk>`. White space separates words and is not written back exactly.
    """
    tokens = list(dict.fromkeys([*special, *vocab]))
    backend = tokenizers.Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    backend.add_tokens([AddedToken(t, normalized=False, special=t != MASK_TOKEN) for t in special])
    return backend
