from __future__ import annotations

import random
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from ufo.data.mixer import BLOCK, Entry, Key, MixtureSampler


def entries(batch: int = 2) -> list[Entry]:
    return [
        Entry("a/detection", 3.0, batch, [np.array([1, 4, 7]), np.array([0, 2, 3, 5, 6])]),
        Entry("b/caption", 1.0, 2 * batch, [np.arange(7)]),
    ]


def take(n: int, sampler: MixtureSampler) -> list[list[Key]]:
    return list(islice(sampler, n))


def world(size: int, batch: int, n: int) -> list[list[list[Key]]]:
    """Batches of all ranks: [rank][step]."""
    return [take(n, MixtureSampler(entries(batch), 5, rank, size)) for rank in range(size)]


@pytest.mark.heavy
def test_sources_come_by_weight_and_groups_by_size():
    n = 20_000
    keys = [batch[0] for batch in take(n, MixtureSampler(entries(), 0))]
    share = sum(key.source == 0 for key in keys) / n
    assert share == pytest.approx(0.75, abs=0.015)
    first = sum(key.source == 0 and key.index in (1, 4, 7) for key in keys) / (share * n)
    assert first == pytest.approx(3 / 8, abs=0.015)


def test_a_weight_of_zero_is_never_drawn():
    for weights in ([0, 1, 0], [0, 0, 1], [1, 0, 0]):
        mixture = [Entry(str(i), w, 1, [np.arange(3)]) for i, w in enumerate(weights)]
        drawn = {batch[0].source for batch in take(500, MixtureSampler(mixture, 0))}
        assert drawn == {weights.index(1)}


def test_batches_are_full_and_of_one_source_and_group():
    group = {(s, int(i)): (s, g) for s, e in enumerate(entries()) for g, x in enumerate(e.groups) for i in x}
    for batch in take(500, MixtureSampler(entries(), 1)):
        assert len({group[key.source, key.index] for key in batch}) == 1
        assert len(batch) == entries()[batch[0].source].batch_size
        assert len({key.batch_seed for key in batch}) == 1


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_agree_on_the_source_and_share_no_image_in_a_pass(size):
    ranks = world(size, 2, 300)
    seen: Counter[tuple[int, int]] = Counter()
    for step in zip(*ranks, strict=True):
        assert len({batch[0].source for batch in step}) == 1
        # in the order of the stream: element p of the step belongs to rank p % size
        keys = [key for row in zip(*step, strict=True) for key in row]
        for key in keys:
            seen[key.source, key.index] += 1
            members = [i for g in entries()[key.source].groups if key.index in g for i in g]
            counts = [seen[key.source, i] for i in members]
            assert max(counts) - min(counts) <= 1  # no image comes twice before all came once


def test_two_ranks_see_what_one_with_a_double_batch_sees():
    one = take(100, MixtureSampler(entries(4), 5))
    for whole, left, right in zip(one, *world(2, 2, 100), strict=True):
        parts = [key for pair in zip(left, right, strict=True) for key in pair]
        assert [key[:3] for key in parts] == [key[:3] for key in whole]
        assert left[0].batch_seed != right[0].batch_seed


def test_a_pass_holds_every_index_once_and_passes_differ():
    flat = [key.index for b in take(70, MixtureSampler([Entry("x", 1, 3, [np.arange(10)])], 0)) for key in b]
    passes = [tuple(flat[i : i + 10]) for i in range(0, 210, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len(set(passes)) > 15


def test_a_batch_larger_than_its_data_set():
    (batch,) = take(1, MixtureSampler([Entry("x", 1, 7, [np.arange(3)])], 0))
    assert sorted(Counter(key.index for key in batch).values()) == [2, 2, 3]


def test_augmentation_seeds_are_all_different():
    batches = take(500, MixtureSampler(entries(8), 0))
    seeds = [key.seed for batch in batches for key in batch] + [b[0].batch_seed for b in batches]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_make_different_mixtures():
    assert take(20, MixtureSampler(entries(), 0)) != take(20, MixtureSampler(entries(), 1))


def test_global_random_states_neither_change_nor_matter():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    first = take(50, MixtureSampler(entries(), 0))
    assert states() == before
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert take(50, MixtureSampler(entries(), 0)) == first


@pytest.mark.parametrize("stop", [0, 1, 37, BLOCK // 64 - 1, BLOCK // 64 + 1])
def test_resumes_with_the_next_batch(stop):
    straight = take(stop + 30, MixtureSampler(entries(), 3))
    resumed = MixtureSampler(entries(), 3)
    resumed.load_state_dict(MixtureSampler(entries(), 3).state_dict(stop))
    assert take(30, resumed) == straight[stop:]
    again = MixtureSampler(entries(), 3)
    again.load_state_dict(resumed.state_dict(stop + 10))
    assert take(20, again) == straight[stop + 10 :]


def test_resuming_late_is_quick_and_exact_across_blocks():
    sampler, start = MixtureSampler(entries(), 3), time.perf_counter()
    late = sampler.state_dict(1_000_000)
    assert time.perf_counter() - start < 2
    early = MixtureSampler(entries(), 3)
    early.load_state_dict(sampler.state_dict(BLOCK + 5))
    assert early.state_dict(1_000_000) == late


def test_cannot_go_back_before_its_origin():
    sampler = MixtureSampler(entries(), 3)
    sampler.load_state_dict(sampler.state_dict(10))
    with pytest.raises(ValueError, match="cannot go back to 9"):
        sampler.positions(9)


def test_a_changed_mixture_goes_on_with_the_images_not_yet_seen(caplog):
    state = MixtureSampler([Entry("x", 1, 2, [np.arange(100)])], 0).state_dict(20)
    old = take(20, MixtureSampler([Entry("x", 1, 2, [np.arange(100)])], 0))
    grown = MixtureSampler([Entry("new", 1, 1, [np.arange(9)]), Entry("x", 1, 4, [np.arange(100)])], 0)
    grown.load_state_dict(state)
    new = [key.index for batch in take(20, grown) for key in batch if key.source == 1][:60]
    assert not {key.index for batch in old for key in batch} & set(new)
    other = MixtureSampler(entries(), 1)
    other.load_state_dict(state)
    assert "data seed is 0" in caplog.text


def test_length_is_the_whole_run_and_iterations_end_there():
    sampler = MixtureSampler(entries(), 0, max_steps=12)
    assert len(sampler) == len(list(sampler)) == 12
    sampler.step = 7
    assert len(list(sampler)) == 5
    sampler.step = 12  # the trainer wants more than was announced
    assert len(list(sampler)) == 12
    with pytest.raises(TypeError):
        len(MixtureSampler(entries(), 0))


def test_describes_the_effective_shares():
    assert MixtureSampler(entries(), 0).describe() == [
        ("a/detection", 0.75, 8, 2),
        ("b/caption", 0.25, 7, 4),
    ]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([], "no sources"),
        ([Entry("x", 0, 1, [np.arange(3)])], "All weights of the mixture are zero"),
        ([Entry("x", -1, 1, [np.arange(3)])], "weight must be zero or positive"),
        ([Entry("x", 1, 1, [np.arange(3)])] * 2, "Two sources of the mixture are called 'x'"),
    ],
)
def test_refuses_senseless_mixtures(mixture, message):
    with pytest.raises(ValueError, match=message):
        MixtureSampler(mixture, 0)
