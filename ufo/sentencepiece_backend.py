"""A sentencepiece `.model` behind the interface of `tokenizers.Tokenizer`, cut as the published models were.

Added tokens split the text and win over the model's pieces by id and by text; only the very beginning of a
text gets the blank that some models put before a first word. Needs the `sentencepiece` package; a
`tokenizer.json` does not.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ufo.tokenizer_files import AddedTokens

PREFIX = "sentencepiece:"
_BLANK = "\u2581"  # how sentencepiece writes a blank


class Pieces(NamedTuple):
    """Token ids and the characters `(begin, end)` of the text that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class SentencePieceBackend:
    """Reads the bytes of a `.model` file; `added` lie over its pieces, tokens added later get the next free
    ids.

    Raises ValueError where the added tokens leave a gap behind the model's last piece.
    """

    def __init__(self, content: bytes, added: AddedTokens | None = None):
        try:
            from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
        except ImportError as error:
            raise ImportError("reading a sentencepiece model needs `pip install sentencepiece`") from error
        try:
            messages: Any = sentencepiece_model_pb2  # made when it is imported
            model = messages.ModelProto.FromString(content)
        except Exception as error:
            raise ValueError(
                "it is not a sentencepiece model, or it is cut short; download it again"
            ) from error
        # the model may put a blank before the first word; what follows an added token gets none
        self._first = SentencePieceProcessor(model_proto=content)
        self._blank = model.normalizer_spec.add_dummy_prefix
        model.normalizer_spec.add_dummy_prefix = False
        self._model = SentencePieceProcessor(model_proto=model.SerializeToString())
        self._content, self._file = content, added or AddedTokens({})
        self._file.check(len(self._model))
        self._added = {text: i for i, text in self._file.by_id.items()}
        controls = [p.piece for p in model.pieces if p.type == p.CONTROL]
        self._controls = {t: self._model.piece_to_id(t) for t in controls}
        self._cut: re.Pattern[str] | None = None

    def add_tokens(self, tokens: Iterable[Any]) -> None:
        """Append tokens (`AddedToken` or text) that are never split."""
        for token in tokens:
            text = getattr(token, "content", token)
            if self.token_to_id(text) is None:
                self._added[text] = self.get_vocab_size()
        self._cut = None

    def token_to_id(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        found = self._model.piece_to_id(token)
        return None if found == self._model.unk_id() and token != "<unk>" else found

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Ids in use; added tokens that rename a piece do not count twice."""
        pieces = len(self._model)
        return max([pieces, *(i + 1 for i in self._added.values())]) if with_added_tokens else pieces

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Text -> id; of an id with two texts the added one comes last."""
        pieces = {self._model.id_to_piece(i): i for i in range(len(self._model))}
        return {**pieces, **self._added} if with_added_tokens else pieces

    def encode(self, text: str, add_special_tokens: bool = False) -> Pieces:
        """Ids and offsets; `add_special_tokens` exists for the interface and must be False."""
        whole = {**self._controls, **self._added}
        if self._cut is None:
            names = sorted(whole, key=len, reverse=True)
            self._cut = (
                re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else re.compile("(?!)")
            )
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begin = 0
        for part in self._cut.split(text):
            if part in whole:
                if not begin and self._blank_before(part):
                    ids.append(self._model.piece_to_id(_BLANK))
                    offsets.append((0, 0))
                ids.append(whole[part])
                offsets.append((begin, begin + len(part)))
            elif part:
                model = self._first if not begin or self._file.legacy else self._model
                for piece in model.encode(part, return_type="proto").pieces:
                    ids.append(piece.id)
                    offsets.append(
                        (begin + _characters(part, piece.begin), begin + _characters(part, piece.end))
                    )
            begin += len(part)
        return Pieces(ids, offsets)

    def _blank_before(self, token: str) -> bool:
        """Whether a text that begins with this token gets a blank before it: one of the files' without a
        role.
        """
        roles = self._file.roles
        listed = roles is not None and token not in roles and self._added.get(token) in self._file.by_id
        return listed and self._blank and not self._file.legacy and token not in self._controls

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Pieces]:
        return [self.encode(text) for text in texts]

    def decode_batch(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        names = {i: text for text, i in self._added.items()}
        texts = []
        for row in rows:
            text = ""
            run: list[int] = []
            for token in row:
                if token not in names:
                    run.append(token)
                    continue
                text += (self._model.decode(run) if run else "") + names[token]
                run = []
            texts.append((text + (self._model.decode(run) if run else "")).strip())
        return texts

    def to_str(self) -> str:
        """The model as text: what `from_str` reads."""
        described = {
            "by_id": {str(i): text for i, text in self._file.by_id.items()},
            "roles": None if self._file.roles is None else sorted(self._file.roles),
            "legacy": self._file.legacy,
            "appended": [text for text, i in self._added.items() if i not in self._file.by_id],
        }
        return PREFIX + base64.b64encode(self._content).decode("ascii") + "\n" + json.dumps(described)

    @classmethod
    def from_str(cls, text: str) -> SentencePieceBackend:
        """The inverse of `to_str`; also reads what earlier versions wrote, one appended token in a line."""
        content, _, rest = text.removeprefix(PREFIX).partition("\n")
        described: dict[str, Any] = {"appended": [t for t in rest.split("\n") if t]}
        if rest.startswith('{"by_id"'):
            described = json.loads(rest)
        roles = described.get("roles")
        file = AddedTokens(
            {int(i): t for i, t in described.get("by_id", {}).items()},
            None if roles is None else frozenset(roles),
            bool(described.get("legacy")),
        )
        backend = cls(base64.b64decode(content), file)
        backend.add_tokens(described["appended"])
        return backend


def _characters(text: str, count: int) -> int:
    """How many characters the first bytes of a text are."""
    return len(text.encode()[:count].decode(errors="ignore"))
