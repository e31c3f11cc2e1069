"""The text side: BERT WordPiece plus `[DEC]`, `[ENC]` and `<MASK>` (docs/published_system.md#vit-text).

An answer is `[CLS] text [SEP]`; a prompt is encoded the same way and loses its last column. The small
experiments store an own vocabulary of a few hundred words in the same format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

MASK_TOKEN = "<MASK>"


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> Tensor:
    """Id lists, padded on the right to one int64 tensor `[N, T]`; T is `length` or that of the longest."""
    length = length or max((len(r) for r in rows), default=0)
    out = torch.full((len(rows), length), pad_id)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


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
        self.vocab = tuple(vocab)
        self.max_prompt_length = max_prompt_length
        backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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
        self.has_mask = mask_token
        self.mask_id = backend.token_to_id(MASK_TOKEN) if mask_token else -1  # -1 is no token's id

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs) -> UFOTokenizer:
        """Read `vocab.txt` from a file, a folder, or a repository of the Hugging Face hub."""
        path = Path(name_or_path)
        if path.is_dir():
            path = path / "vocab.txt"
        if not path.is_file():
            path = _vocab_from_hub(str(name_or_path))
        return cls(path.read_text(encoding="utf-8").split("\n")[:-1], **kwargs)

    def describe(self) -> dict:
        """All that builds this tokenizer again, for a model's description."""
        return {"vocab": list(self.vocab), "mask_token": self.has_mask}

    def save(self, folder: Path) -> None:
        """Write `vocab.txt` (without the appended tokens, as BERT's own file)."""
        (folder / "vocab.txt").write_text("\n".join(self.vocab) + "\n", encoding="utf-8")

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text: `[CLS] ... [SEP]`, cut to `max_length` with the end kept."""
        room = None if max_length is None else max_length - 2
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[self.start_id, *e.ids[:room], self.end_id] for e in encoded]

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
        distinct = list(dict.fromkeys(prompts))
        ids = self.pad(self.encode(distinct, self.max_prompt_length))[:, :-1]
        mask = (ids != self.pad_id) & (ids != self.end_id)
        if len(distinct) > 1:
            row = {p: i for i, p in enumerate(distinct)}
            index = torch.tensor([row[p] for p in prompts])
            ids, mask = ids[index], mask[index]
        return ids, mask

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of id lists; special tokens vanish, `<MASK>` stays."""
        texts = self._backend.decode_batch([list(r) for r in rows], skip_special_tokens=True)
        # the normaliser that lets "<mask>" in a prompt match also lower-cases the token's own text
        return [t.replace(MASK_TOKEN.lower(), MASK_TOKEN) for t in texts]


def _vocab_from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "vocab.txt"))
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
