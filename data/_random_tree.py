"""Random numbers as a pure function of a tree of keys with numbered children.

A random number depends only on the path from the root. Therefore any process can generate any
part of a large data set, in any order and in groups of any size.
"""

import numpy as np
from jaxtyping import Float64, Int, Int64, UInt64

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_MIX = ((np.uint64(30), 0xBF58476D1CE4E5B9), (np.uint64(27), 0x94D049BB133111EB))


def root_key(*words: int) -> UInt64[np.ndarray, " 1"]:
    """The root key for non-negative integers."""
    return np.random.SeedSequence(words).generate_state(1, np.uint64)


def children(
    keys: UInt64[np.ndarray, "..."], number: int | Int[np.ndarray, "..."]
) -> UInt64[np.ndarray, "..."]:
    """Child `number` of each key: output `number` of SplitMix64 with the key as its state.

    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    bits = keys + (np.asarray(number, np.uint64) + np.ones(1, np.uint64)) * _STEP
    for shift, factor in _MIX:
        bits ^= bits >> shift
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(
    keys: UInt64[np.ndarray, "..."], number: int | Int[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """Child `number` of each key as a float in [0, 1) with 53 random bits."""
    return (children(keys, number) >> np.uint64(11)) * 2.0**-53


def below(
    limit: int | Int[np.ndarray, "..."],
    keys: UInt64[np.ndarray, "..."],
    number: int | Int[np.ndarray, "..."],
) -> Int64[np.ndarray, "..."]:
    """Child `number` of each key as an integer in 0..limit-1."""
    return (uniform(keys, number) * limit).astype(np.int64)
