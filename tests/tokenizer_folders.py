"""Tokenizer folders of InternVL and LLaVA as they lie on the hub, around small models of sentencepiece."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

UNUSED = 6  # pieces at the end of the model that the folder gives other names
RENAMED = ("<|action_end|>", "<|im_end|>", "<|im_start|>")
BEHIND = ("<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>")
TEXT = """
detect objects in the image that belong to the following categories , . person dog red traffic light 0 1 2 3
4 5 6 7 8 9 10 24 448 896 where can we locate it is the mask background user assistant system
"""


def train_pieces(folder: Path, blank: bool, text: str = TEXT, **changes: Any) -> bytes:
    """A small model as InternLM2's: byte fallback, unused pieces that are cut whole; with a first blank as
    LLaMA's. `text` has its words, `changes` go to its trainer.
    """
    words, lines = random.Random(0), folder / "lines.txt"
    lines.write_text("\n".join(" ".join(words.choices(text.split(), k=12)) for _ in range(800)))
    spm.SentencePieceTrainer.train(
        input=str(lines),
        model_prefix=str(folder / "m"),
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=blank,
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(UNUSED)],
        minloglevel=2,
        **changes,
    )
    return (folder / "m.model").read_bytes()


def flags(text: str) -> dict:
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write_internvl(folder: Path, model: bytes, mask: bool = False) -> tuple[Path, dict[str, int]]:
    """A folder in InternVL2's layout; returns it and the ids of the added tokens."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    pieces = spm.SentencePieceProcessor(model_proto=model)
    # the unused pieces need not be the model's last ones: ids count, not places
    renamed = [pieces.piece_to_id(f"[UNUSED_TOKEN_{UNUSED - 3 + i}]") for i in range(3)]
    ids = dict(zip(RENAMED, renamed, strict=True))
    ids |= {text: len(pieces) + i for i, text in enumerate([*BEHIND, *["<MASK>"] * mask])}
    decoder = {str(i): {**flags(text), "special": text != "<MASK>"} for text, i in ids.items()}
    decoder |= {str(i): {**flags(text), "special": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))}
    special = [*RENAMED, *BEHIND]
    config = {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": special,
        "tokenizer_class": "InternLM2Tokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    names = {"additional_special_tokens": special, "bos_token": flags("<s>"), "eos_token": "</s>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return folder, ids


def write_llava(folder: Path, model: bytes, legacy: bool = False, fast: bool = True) -> Path:
    """A folder in LLaVA's layout, with a `tokenizer.json` that puts a blank before every part."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    pieces = spm.SentencePieceProcessor(model_proto=model)
    ids = {"<image>": len(pieces), "<pad>": len(pieces) + 1}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "bos_token": "<s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if fast:
        vocab = {pieces.id_to_piece(i): i for i in range(len(pieces))}
        backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback()])
        backend.add_tokens([AddedToken(text, normalized=False, special=True) for text in ids])
        backend.save(str(folder / "tokenizer.json"))
    return folder
