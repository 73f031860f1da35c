"""The published random splits, which torch drew, computed without torch."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

_WORDS = 624  # size of the state of the Mersenne Twister, in 32-bit words
_LARGEST = (2**32 - 1) // 20  # from this size on, torch draws 64 bits per swap


def torch_permutation(n: int, seed: int = 42) -> Int64[np.ndarray, " n"]:
    """The permutation `torch.randperm(n)` for a generator with seed `seed`.

    A forward shuffle: place i is swapped with place i + (32 random bits mod n - i), in order.

    Raises:
        ValueError: if `n` is negative, or so large that torch uses another algorithm.
    """
    if not 0 <= n < _LARGEST:
        raise ValueError(f"torch_permutation: n must be in 0..{_LARGEST - 1}; got {n}")
    draws = _mersenne_twister(seed, max(n - 1, 0))
    steps = draws % np.arange(n, n - len(draws), -1, dtype=np.uint64)
    order = list(range(n))  # swaps in a list are several times faster than in an array
    for place, step in enumerate(steps.tolist()):
        other = place + step
        order[place], order[other] = order[other], order[place]
    return np.array(order, np.int64)


def random_split(
    n: int, lengths: Sequence[int], seed: int = 42
) -> list[Int64[np.ndarray, " length"]]:
    """The parts of 0..n-1 that `torch.utils.data.random_split` draws.

    Raises:
        ValueError: if `lengths` do not add up to `n`.
    """
    if sum(lengths) != n or min(lengths, default=0) < 0:
        raise ValueError(f"random_split: lengths must add up to {n}; got {list(lengths)}")
    return np.split(torch_permutation(n, seed), np.cumsum(lengths)[:-1])


def _mersenne_twister(seed: int, count: int) -> UInt64[np.ndarray, " count"]:
    """The first `count` 32-bit outputs of MT19937.

    The seeding is `init_genrand`, which numpy's public constructor does not offer. Matsumoto and
    Nishimura, ACM TOMACS 8(1), 1998.
    """
    key = [seed & 0xFFFFFFFF]
    for index in range(1, _WORDS):
        key.append((1812433253 * (key[-1] ^ (key[-1] >> 30)) + index) & 0xFFFFFFFF)
    generator = np.random.MT19937()
    generator.state = {
        "bit_generator": "MT19937",
        "state": {"key": np.array(key, np.uint32), "pos": _WORDS},
    }
    return generator.random_raw(count)
