"""Released language models: a partial file over its base, and the way back to the released names."""

from __future__ import annotations

import pytest
import torch
from released_files import only_trained, released_model
from tiny_mllm import FAMILIES

from ufo.checkpoints.mllm_base import complete, is_partial
from ufo.checkpoints.mllm_weights import read_released_mllm, to_released

HEADS = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 2}}
KV_HEADS = {"internvl": 2, "llava": 4}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def test_released_names_and_back(family):
    released, native = released_model(family, prefix="")
    back = to_released(native, family, (4, KV_HEADS[family]))
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], value) for name, value in released.items())


def test_weights_of_another_model_have_no_way_back(family):
    native = released_model(family)[1]
    native.pop("lm_head.weight")
    with pytest.raises(ValueError, match=r"1 missing \(lm_head\.weight\)"):
        to_released(native, family, (4, KV_HEADS[family]))


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_a_partial_file_and_its_base_are_the_whole_file(family, prefix):
    whole, _ = released_model(family, lora=True, prefix=prefix)
    partial = only_trained(whole)
    base, native = released_model(family, prefix="")
    assert is_partial(partial) and not is_partial(whole) and not is_partial(base)
    # a base as it was released has no rows for UFO's tokens
    short = {n: v[:-1] if "tok_embeddings" in n or "embed_tokens" in n else v for n, v in base.items()}
    for under in (base, short, to_released(native, family, (4, KV_HEADS[family]))):
        completed = complete(partial, under)
        assert completed.from_base > completed.replaced > 0
        weights, lora, described = read_released_mllm(completed.state, HEADS)
        expected = read_released_mllm(whole, HEADS)
        assert described == expected[2]
        for got, want in ((weights, expected[0]), (lora, expected[1])):
            assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in got)


def test_a_lora_over_another_base_is_refused(family):
    whole, _ = released_model(family, lora=True)
    base, _ = released_model(family, prefix="")
    wide = (".feed_forward.w1", ".gate_proj")
    other = {n: torch.cat([v, v]) if any(part in n for part in wide) else v for n, v in base.items()}
    with pytest.raises(ValueError, match="do not fit"):
        read_released_mllm(complete(only_trained(whole), other).state, HEADS)
    with pytest.raises(ValueError, match="LoRA factors itself"):
        complete(only_trained(whole), whole)


def test_a_factor_without_its_partner_is_refused(family):
    whole, _ = released_model(family, lora=True)
    name = next(n for n in whole if ".lora_B" in n)
    partial = only_trained(whole)
    partial.pop(name)
    with pytest.raises(ValueError, match="lora_B"):
        read_released_mllm(complete(partial, released_model(family, prefix="")[0]).state, HEADS)
