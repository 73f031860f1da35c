"""The published splits: held to figures and hashes that torch itself gave."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastax.data._splits import random_split, torch_permutation

FIRST = {
    50_000: [37542, 44491, 216, 43688, 41558],
    60_000: [37542, 43087, 2992, 25810, 39634],
    200_000: [37542, 143173, 127710, 58234, 152906],
}
SHA256 = {
    50_000: "55ecb6cd4e1eb48274001018b26a797b833f72ae79a02b388e4874497445b43d",
    60_000: "7cd1a1e010482b25004c00bf2e3caae398061dfa812ba311e56e8b6b9b4cdc7a",
    200_000: "ee4e53fa9a9cb4316c55a0d184c7aa8fd2f92e97453e62e49195c42034a31789",
}


@pytest.mark.parametrize("n", FIRST)
def test_permutations_are_those_of_torch(n):
    order = torch_permutation(n)
    assert order[:5].tolist() == FIRST[n]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == SHA256[n]


def test_a_split_is_the_permutation_cut_in_order():
    train, validation = random_split(50_000, [45_000, 5_000])
    assert train[:5].tolist() == FIRST[50_000]
    assert validation[:5].tolist() == [17408, 40845, 3378, 22188, 44921]
    assert (len(train), len(validation)) == (45_000, 5_000)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_parts_hold_every_row_once(lengths, seed):
    parts = random_split(sum(lengths), lengths, seed)
    assert [len(part) for part in parts] == lengths
    assert sorted(np.concatenate(parts).tolist()) == list(range(sum(lengths)))


def test_seeds_differ():
    assert torch_permutation(100, 1).tolist() != torch_permutation(100, 2).tolist()


@pytest.mark.parametrize("lengths", [[3, 3], [12, -2], []])
def test_lengths_that_do_not_add_up_are_refused(lengths):
    with pytest.raises(ValueError, match="must add up to 10"):
        random_split(10, lengths)


@pytest.mark.parametrize("n", [-1, 2**28])
def test_sizes_that_torch_shuffles_differently_are_rejected(n):
    with pytest.raises(ValueError, match=f"n must be in .*; got {n}"):
        torch_permutation(n)
