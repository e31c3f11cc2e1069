"""A language model's tokenizer as its folder holds it: the file with the pieces, and tokens laid over them
by id.

Folders on the hub have a sentencepiece `tokenizer.model`, a `tokenizer.json`, or both. Beside a `.model`,
the added tokens stand in `tokenizer_config.json` (`added_tokens_decoder`) or `added_tokens.json`; some of
them rename pieces of the model, the others lie behind its last piece. See
docs/published_system.md#tokenizers.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

JSON, MODEL = "tokenizer.json", "tokenizer.model"
CONFIG, ADDED, MAP = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
FILES = (JSON, MODEL, CONFIG, ADDED, MAP)
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LONGEST = 64 * 2**20  # bytes of a json file


@dataclass(frozen=True)
class AddedTokens:
    """Tokens that lie over the pieces of a sentencepiece model.

    Args:
        by_id: token id -> text; wins over the model's pieces in both directions.
        roles: texts of tokens that start, end, pad or are listed as special: no blank is put before one that
            begins a text.
        legacy: the text after an added token gets the blank that begins a text, as in the first releases of
            the library that published the models.
    """

    by_id: dict[int, str]
    roles: frozenset[str] | None = None
    legacy: bool = False

    def check(self, pieces: int) -> None:
        """Raises ValueError where ids behind the last of `pieces` leave a gap, or a text has two ids."""
        behind = sorted(i for i in self.by_id if i >= pieces)
        gap = next((pieces + k for k, i in enumerate(behind) if i != pieces + k), None)
        if gap is not None:
            raise ValueError(
                f"no token has the id {gap}, which lies between the model's {pieces} pieces and the added "
                f"token "
                f"'{self.by_id[behind[-1]]}' ({behind[-1]}); download all files of the tokenizer"
            )
        texts: dict[str, int] = {}
        for i, text in self.by_id.items():
            if texts.setdefault(text, i) != i:
                raise ValueError(f"the added token '{text}' has two ids, {texts[text]} and {i}")


def pieces_file(folder: Path) -> Path:
    """The file of a folder to read the tokens from.

    Of a `tokenizer.json` that puts a blank before every part of a text and a `tokenizer.model`, the latter:
    the published models were trained with its ids, which have no blank after an added token.

    Raises FileNotFoundError where neither is there.
    """
    both = [folder / name for name in (JSON, MODEL) if (folder / name).is_file()]
    if not both:
        raise FileNotFoundError(f"'{folder}' holds neither {JSON} nor {MODEL}")
    if len(both) == 2 and _prepends(both[0]):
        log.info(
            "%s: %s is read and not %s, which puts a blank after <box> and other added tokens",
            folder,
            MODEL,
            JSON,
        )
        return both[1]
    return both[0]


def read_added(folder: Path) -> AddedTokens:
    """What the files beside a `tokenizer.model` say about added tokens; none of them need be there.

    Raises ValueError where they contradict each other or are damaged.
    """
    config, named = _read(folder / CONFIG), _read(folder / ADDED)
    by_id: dict[int, str] = {}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        by_id[_number(number, folder)] = _content(token)
    for text, number in named.items():
        i = _number(number, folder)
        if by_id.setdefault(i, text) != text:
            raise ValueError(
                f"'{folder}': the token {i} is '{by_id[i]}' in {CONFIG} and '{text}' in {ADDED}; download "
                f"the "
                "tokenizer again"
            )
    special = {**_read(folder / MAP), **config}
    roles = {_content(special[key]) for key in _ROLES if special.get(key)}
    for listed in (config, _read(folder / MAP)):
        roles |= {_content(token) for token in listed.get("additional_special_tokens") or ()}
    legacy = config.get("legacy")
    # absent means the first behaviour, but only where the family has one: InternLM2's models put no blank
    # at all
    return AddedTokens(by_id, frozenset(roles), bool(legacy))


def has_token(folder: Path, text: str) -> bool:
    """Whether a folder's tokenizer has an added token of this text."""
    listed = _read(folder / JSON).get("added_tokens") or ()
    return text in read_added(folder).by_id.values() or any(
        isinstance(t, dict) and t.get("content") == text for t in listed
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError("it is too long")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' is damaged ({str(error)[:80]}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is damaged (no object); download it again")
    return content


def _content(token: Any) -> str:
    """The text of a token, which stands alone or with its flags."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise ValueError(f"an added token has no text: {str(token)[:80]}")
    return text


def _number(value: Any, folder: Path) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{folder}': an added token has the id {str(value)[:40]!r}, no number") from error
    if not 0 <= number < 2**31:
        raise ValueError(f"'{folder}': an added token has the id {number}, out of range")
    return number


def _prepends(path: Path) -> bool:
    return _prepending(_read(path).get("normalizer"))


def _prepending(node: Any) -> bool:
    """Whether a normaliser puts a blank before every part of a text."""
    if not isinstance(node, dict):
        return False
    return node.get("type") == "Prepend" or any(map(_prepending, node.get("normalizers") or ()))


def without_prepend(text: str, added: AddedTokens) -> str:
    """A `tokenizer.json` whose normaliser puts a blank before every part, as one that puts it first only.

    Without a `tokenizer.model` beside it that is how the published models were trained, unless its folder
    says `legacy`.
    """
    try:
        content = json.loads(text)
    except ValueError:
        return text  # another format, or damaged: its reader says so
    if not isinstance(content, dict) or not _prepending(content.get("normalizer")) or added.legacy:
        return text
    content["normalizer"] = None
    content["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "first",
        "split": False,
    }
    return json.dumps(content)
