"""Selection: from scores and a number of states to one mask per layer.

Counts are exact, and ties are broken by position. Masks are numpy arrays, because they determine
shapes.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float

Scores = Sequence[Float[np.ndarray, " _"]]

Masks = list[Bool[np.ndarray, " _"]]


def uniform_counts(sizes: Sequence[int], total: int) -> list[int]:
    """Distribute `total` in proportion to `sizes`, with at least one per layer.

    Each layer gets the integer part of its share. The remaining states go to the largest
    fractions; of equal fractions, to the earlier layer.

    Raises:
        ValueError: if `total` is too small or too large.
    """
    _check_total("uniform_counts", total, sizes, minimum=1)
    shares = [Fraction(size * total, sum(sizes)) for size in sizes]
    counts = [max(1, int(share)) for share in shares]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        # A layer that was raised to the minimum of one is not lowered again.
        movable = [
            i for i in range(len(sizes)) if (counts[i] < sizes[i] if step > 0 else counts[i] > 1)
        ]
        chosen = max(movable, key=lambda i: (step * (shares[i] - counts[i]), -i))
        counts[chosen] += step
    return counts


def select_top(scores: Float[np.ndarray, " P"], count: int) -> Bool[np.ndarray, " P"]:
    """Mask of the `count` highest scores; of equal scores the earlier state is kept.

    Raises:
        ValueError: if there are fewer than `count` scores, or if a score is NaN.
    """
    scores = _checked("select_top", scores)
    if not 0 <= count <= len(scores):
        raise ValueError(f"select_top: count must be 0 to {len(scores)}, got {count}")
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, stable=True)[:count]] = True
    return mask


def select_uniform(scores: Scores, total: int) -> Masks:
    """The highest scores of each layer, with the same share per layer (`uniform_counts`)."""
    scores = _checked_layers("select_uniform", scores)
    counts = uniform_counts([len(layer) for layer in scores], total)
    return [select_top(layer, count) for layer, count in zip(scores, counts, strict=True)]


def select_global(scores: Scores, total: int, *, minimum: int = 1) -> Masks:
    """The `total` highest scores of all layers together, with at least `minimum` per layer.

    The best `minimum` states of each layer are kept first, then all others by score. Of equal
    scores, the earlier layer and within a layer the earlier state is kept.

    Args:
        scores: one array per layer, one number per state.
        total: number of states to keep; the masks keep exactly as many.
        minimum: smallest number of states per layer.

    Raises:
        ValueError: if `total` is impossible, or if a score is NaN.
    """
    scores = _checked_layers("select_global", scores)
    sizes = [len(layer) for layer in scores]
    _check_total("select_global", total, sizes, minimum)
    reserved = np.concatenate([select_top(layer, min(minimum, len(layer))) for layer in scores])
    order = np.lexsort((-np.concatenate(scores), ~reserved))
    mask = np.zeros(sum(sizes), bool)
    mask[order[:total]] = True
    return np.split(mask, np.cumsum(sizes)[:-1])


def _checked_layers(function: str, scores: Scores) -> list[Float[np.ndarray, " _"]]:
    return [_checked(function, layer, f" of layer {index}") for index, layer in enumerate(scores)]


def _checked(
    function: str, scores: Float[np.ndarray, " P"], where: str = ""
) -> Float[np.ndarray, " P"]:
    scores = np.asarray(scores, float)
    if np.isnan(scores).any():
        states = np.flatnonzero(np.isnan(scores)).tolist()
        raise ValueError(f"{function}: scores of states {states}{where} are NaN")
    return scores


def _check_total(name: str, total: int, sizes: Sequence[int], minimum: int) -> None:
    floor = sum(min(minimum, size) for size in sizes)
    if not floor <= total <= sum(sizes):
        raise ValueError(
            f"{name}: {total} states to keep, but {len(sizes)} layers of {list(sizes)} states "
            f"allow {floor} to {sum(sizes)}"
        )
