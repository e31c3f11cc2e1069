"""Tokenizer folders as they lie on the hub: ids against sentencepiece itself, added tokens by id,
contradictions.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sentencepiece as spm
from tokenizer_folders import BEHIND, TEXT, UNUSED, train_pieces, write_internvl, write_llava

from ufo.hf_tokenizer import HFTokenizer
from ufo.sentencepiece_backend import SentencePieceBackend
from ufo.tasks.wording import LLAVA
from ufo.tokenizer_files import pieces_file, read_added


@pytest.fixture(scope="session")
def model_bytes(tmp_path_factory):
    return {blank: train_pieces(tmp_path_factory.mktemp("spm"), blank) for blank in (False, True)}


def sentences(count: int) -> list[str]:
    draw = random.Random(1)
    words = [
        *TEXT.split(),
        "ünïcode",
        "猫",
        "\U0001f989",
        "tail-end",
        "[UNUSED_TOKEN_1]",
        "  ",
        "\n",
        "x" * 30,
    ]
    return [draw.choice(["", " "]).join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(count)]


# ---------------------------------------------------------------- InternVL


def test_ids_of_an_internvl_folder(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "hub", model_bytes[False])
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>", added=["<MASK>"])
    pieces = spm.SentencePieceProcessor(model_proto=model_bytes[False])
    assert len(words) == len(pieces) + len(BEHIND) + 1
    assert {text: words.token_id(text) for text in ids} == ids
    assert words.mask_id == len(pieces) + len(BEHIND) and words.appended == 1
    assert words.end_id == ids["<|im_end|>"] < len(pieces)
    # the text of a renamed piece still has its id, and the id is written by its new name
    [row] = words.encode([f"[UNUSED_TOKEN_{UNUSED - 2}]"])
    assert row[1:-1] == [ids["<|im_end|>"]]
    assert words.vocab[ids["<|im_start|>"]] == "<|im_start|>"


@pytest.mark.parametrize("blank", [False, True])
def test_every_text_between_added_tokens_is_cut_as_sentencepiece_cuts_it(blank, model_bytes, tmp_path):
    folder, _ = write_internvl(tmp_path / "hub", model_bytes[blank])
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>")
    pieces = spm.SentencePieceProcessor(model_proto=model_bytes[blank])
    texts = sentences(3000)
    ours = [row[1:-1] for row in words.encode(texts)]
    wrong = [t for t, row in zip(texts, ours, strict=True) if row != pieces.encode(t)]
    assert not wrong, wrong[:3]


def test_text_behind_an_added_token_gets_no_blank(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "hub", model_bytes[True])
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>")
    [first, inside] = words.encode(["12", "<box>12"])
    assert inside[1] == ids["<box>"] and words.vocab[first[1]].startswith("\u2581")
    assert words.vocab[inside[2]] == "1"


def test_a_finished_folder_has_its_mask_token(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "merged", model_bytes[False], mask=True)
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>")
    assert words.mask_id == ids["<MASK>"] and words.appended == 0


def test_a_stored_tokenizer_reads_the_same(model_bytes, tmp_path):
    folder, _ = write_internvl(tmp_path / "hub", model_bytes[True])
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>")
    again = HFTokenizer.from_content(words.content, **words.settings)
    assert again.vocab == words.vocab
    texts = ["<box>1,2,3,4</box>", *sentences(50)]
    assert again.encode(texts) == words.encode(texts)


def test_what_earlier_versions_stored_is_read(model_bytes):
    backend = SentencePieceBackend(model_bytes[False])
    backend.add_tokens(["<MASK>", "<box>"])
    head = backend.to_str().split("\n")[0]
    old = SentencePieceBackend.from_str(f"{head}\n<MASK>\n<box>")
    assert old.get_vocab() == backend.get_vocab()


# ---------------------------------------------------------------- contradictions


def change(folder: Path, name: str, edit) -> None:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


def test_two_texts_for_an_id(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "hub", model_bytes[False])
    change(folder, "added_tokens.json", lambda c: c.update({"<other>": ids["<img>"]}))
    with pytest.raises(
        ValueError, match=r"'<img>' in tokenizer_config\.json and '<other>' in added_tokens\.json"
    ):
        HFTokenizer.from_pretrained(folder, end="<|im_end|>")


def test_a_gap_behind_the_last_piece(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "hub", model_bytes[False])
    change(folder, "added_tokens.json", lambda c: c.pop("<img>"))
    change(folder, "tokenizer_config.json", lambda c: c["added_tokens_decoder"].pop(str(ids["<img>"])))
    with pytest.raises(ValueError, match=rf"no token has the id {ids['<img>']}"):
        HFTokenizer.from_pretrained(folder, end="<|im_end|>")


def test_added_tokens_alone_are_enough(model_bytes, tmp_path):
    folder, ids = write_internvl(tmp_path / "hub", model_bytes[False])
    (folder / "tokenizer_config.json").unlink()
    words = HFTokenizer.from_pretrained(folder, end="<|im_end|>")
    assert {text: words.token_id(text) for text in ids} == ids


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"added_tokens_decoder": {"x": "y"}}', '{"added_tokens_decoder": {"3": 4}}']
)
def test_damaged_files_are_named(content, model_bytes, tmp_path):
    folder, _ = write_internvl(tmp_path / "hub", model_bytes[False])
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"damaged|no number|no text"):
        HFTokenizer.from_pretrained(folder, end="<|im_end|>")


def test_a_cut_model_is_named(model_bytes, tmp_path):
    folder, _ = write_internvl(tmp_path / "hub", model_bytes[False])
    (folder / "tokenizer.model").write_bytes(model_bytes[False][:-20])
    with pytest.raises(ValueError, match=r"tokenizer\.model.*cut short"):
        HFTokenizer.from_pretrained(folder, end="<|im_end|>")


# ---------------------------------------------------------------- LLaVA


LLAVA_TOKENS = ["<MASK>", "<box>", "</box>", "<im_start>", "<im_end>"]


def test_llava_is_read_from_its_model(model_bytes, tmp_path, caplog):
    folder = write_llava(tmp_path / "llava", model_bytes[True])
    with caplog.at_level("INFO", logger="ufo"):
        assert pieces_file(folder).name == "tokenizer.model"
    assert "puts a blank after <box>" in caplog.text
    words = HFTokenizer.from_pretrained(folder, pad="<pad>", added=LLAVA_TOKENS)
    pieces = spm.SentencePieceProcessor(model_proto=model_bytes[True])
    assert words.token_id("<image>") == len(pieces) and words.mask_id == len(pieces) + 2
    texts = sentences(1000)
    assert [row[1:-1] for row in words.encode(texts)] == [pieces.encode(t) for t in texts]
    # <image> has no role: the text that it begins has a blank first; <pad> has one
    blank = pieces.piece_to_id("\u2581")
    assert words.encode(["<image> 1"])[0][1:3] == [blank, words.token_id("<image>")]
    assert words.encode(["<pad>1"])[0][1] == words.token_id("<pad>")


@pytest.mark.parametrize("legacy", [False, True])
def test_legacy_is_read_from_the_folder(legacy, model_bytes, tmp_path):
    folder = write_llava(tmp_path / "llava", model_bytes[True], legacy)
    assert read_added(folder).legacy == legacy
    words = HFTokenizer.from_pretrained(folder, pad="<pad>", added=LLAVA_TOKENS)
    [row] = words.encode(["<image>12"])
    pieces = [words.vocab[i] for i in row[1:-1]]
    assert pieces == (["<image>", "\u2581", "1", "2"] if legacy else ["\u2581", "<image>", "1", "2"])


@pytest.mark.parametrize("kind", ["model", "legacy model", "json alone"])
def test_every_box_of_three_digit_numbers_survives(kind, model_bytes, tmp_path):
    folder = write_llava(tmp_path / "llava", model_bytes[True], legacy=kind == "legacy model")
    if kind == "json alone":
        (folder / "tokenizer.model").unlink()
    words = HFTokenizer.from_pretrained(folder, pad="<pad>", added=LLAVA_TOKENS)
    draw = random.Random(2)
    boxes = [[draw.randint(100, 672) for _ in range(4)] for _ in range(500)]
    texts = [f"Where? ASSISTANT: {LLAVA.write_box(box)}" for box in boxes]
    rows = words.encode(texts)
    start = len(words.encode(["Where? ASSISTANT:"])[0]) - 1
    # what is learned: everything behind the question, thirty tokens at most
    answers = words.decode([row[start : start + 30] for row in rows])
    assert [LLAVA.read_box(answer) for answer in answers] == boxes
