"""What departures of the published code change, and that nothing changes without them."""

from __future__ import annotations

import torch

from ufo.backbones.quirks import Quirks

LENGTHS = torch.tensor([3, 0, 5, 5])


def embed(ids: torch.Tensor) -> torch.Tensor:
    return ids[..., None].float() * torch.ones(4)


def test_without_flags_nothing_changes():
    quirks, hidden = Quirks(), torch.randn(2, 3, 4)
    assert quirks.learned_ends(LENGTHS).tolist() == [True, False, True, True]
    assert quirks.answer_features(torch.ones(2, 3, dtype=torch.int64), hidden, embed) is hidden
    assert quirks.first_position(torch.tensor([4, 6]), 7).tolist() == [4, 6]
    assert quirks.asked("ASSISTANT: ") == "ASSISTANT:" and quirks.asked("assistant\n") == "assistant\n"
    assert not any(quirks.flags().values())


def test_each_flag():
    quirks = Quirks(end_of_longest_only=True, embedding_of_first=True, padded_positions=True)
    assert quirks.learned_ends(LENGTHS).tolist() == [False, False, True, True]
    assert quirks.learned_ends(LENGTHS[:0]).tolist() == []
    ids, hidden = torch.tensor([[5, 1, 1], [7, 1, 1]]), torch.randn(2, 3, 4)
    found = quirks.answer_features(ids, hidden, embed)
    assert torch.equal(found[:, 0], embed(ids[:, 0])) and torch.equal(found[:, 1:], hidden[:, 1:])
    assert quirks.first_position(torch.tensor([4, 6]), 7).tolist() == [7, 7]
    for kept in (Quirks(blank_after_prompt=True), Quirks(padded_positions=True)):
        assert kept.asked("ASSISTANT: ") == "ASSISTANT: "
    assert Quirks(padded_positions=True, blank_after_prompt=False).asked("ASSISTANT: ") == "ASSISTANT:"


def test_queries_at_global_layers():
    for update, training, expected in (
        ("never", True, False),
        ("always", False, True),
        ("training", True, True),
        ("training", False, False),
    ):
        quirks = Quirks(query_update_at_global=update)
        assert quirks.updates_queries(True, training) == expected
        assert quirks.updates_queries(False, training)  # always at windowed layers
