"""A sentencepiece `.model` behind the interface of `tokenizers.Tokenizer`, cut as the published models were.

Added tokens split the text; only its very beginning gets the space that some models put before a first word.
Needs the `sentencepiece` package; a model with a `tokenizer.json` does not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

PREFIX = "sentencepiece:"


class Pieces(NamedTuple):
    """Token ids and the characters `(begin, end)` of the text that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class SentencePieceBackend:
    """Reads the bytes of a `.model` file; tokens added later get the next free ids."""

    def __init__(self, content: bytes):
        try:
            from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
        except ImportError as error:
            raise ImportError("reading a sentencepiece model needs `pip install sentencepiece`") from error
        model = sentencepiece_model_pb2.ModelProto.FromString(content)
        # the model may put a space before the first word; what follows an added token gets none
        self._first = SentencePieceProcessor(model_proto=content)
        model.normalizer_spec.add_dummy_prefix = False
        self._model = SentencePieceProcessor(model_proto=model.SerializeToString())
        self._content, self._added = content, {}
        controls = [p.piece for p in model.pieces if p.type == p.CONTROL]
        self._cut = None
        self._controls = {t: self._model.piece_to_id(t) for t in controls}

    def add_tokens(self, tokens: Sequence) -> None:
        """Append tokens (`AddedToken` or text) that are never split."""
        for token in tokens:
            text = getattr(token, "content", token)
            if self.token_to_id(text) is None:
                self._added[text] = len(self._model) + len(self._added)
        self._cut = None

    def token_to_id(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        found = self._model.piece_to_id(token)
        return None if found == self._model.unk_id() and token != "<unk>" else found

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len(self._model) + len(self._added) * with_added_tokens

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        pieces = {self._model.id_to_piece(i): i for i in range(len(self._model))}
        return {**pieces, **self._added} if with_added_tokens else pieces

    def encode(self, text: str, add_special_tokens: bool = False) -> Pieces:
        """Ids and offsets; `add_special_tokens` exists for the interface and must be False."""
        whole = {**self._controls, **self._added}
        if self._cut is None:
            names = sorted(whole, key=len, reverse=True)
            self._cut = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begin = 0
        for part in self._cut.split(text):
            if part in whole:
                ids.append(whole[part])
                offsets.append((begin, begin + len(part)))
            elif part:
                model = self._model if begin else self._first
                for piece in model.encode(part, return_type="proto").pieces:
                    ids.append(piece.id)
                    offsets.append(tuple(begin + _characters(part, n) for n in (piece.begin, piece.end)))
            begin += len(part)
        return Pieces(ids, offsets)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Pieces]:
        return [self.encode(text) for text in texts]

    def decode_batch(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        names = {i: text for text, i in self._added.items()}
        texts = []
        for row in rows:
            text, run = "", []
            for token in [*row, None]:
                if token is not None and token not in names:
                    run.append(token)
                    continue
                text += self._model.decode(run) if run else ""
                text, run = text + names.get(token, ""), []
            texts.append(text.strip())
        return texts

    def to_str(self) -> str:
        """The model as text: what `from_str` reads."""
        added = "\n".join(self._added)
        return PREFIX + base64.b64encode(self._content).decode("ascii") + "\n" + added

    @classmethod
    def from_str(cls, text: str) -> SentencePieceBackend:
        """The inverse of `to_str`."""
        content, *added = text.removeprefix(PREFIX).split("\n")
        backend = cls(base64.b64decode(content))
        backend.add_tokens([t for t in added if t])
        return backend


def _characters(text: str, count: int) -> int:
    """How many characters the first bytes of a text are."""
    return len(text.encode()[:count].decode(errors="ignore"))
