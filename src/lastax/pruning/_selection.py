"""Which states stay: from scores and a number to a mask a layer. Exact counts, ties by position.

On the host: what a mask selects decides shapes.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float

Scores = Sequence[Float[np.ndarray, " _"]]

Masks = list[Bool[np.ndarray, " _"]]


def uniform_counts(sizes: Sequence[int], total: int) -> list[int]:
    """`total` shared out in proportion to `sizes`, at least one each, `total` exactly in the end.

    Each layer gets the whole part of its share; what is left over goes to the largest fractions,
    to earlier layers first where they are equal.
    """
    _check_total("uniform_counts", total, sizes, minimum=1)
    shares = [Fraction(size * total, sum(sizes)) for size in sizes]
    counts = [max(1, int(share)) for share in shares]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        # A layer that the floor of one lifted above its share is not lowered again.
        movable = [
            i for i in range(len(sizes)) if (counts[i] < sizes[i] if step > 0 else counts[i] > 1)
        ]
        chosen = max(movable, key=lambda i: (step * (shares[i] - counts[i]), -i))
        counts[chosen] += step
    return counts


def select_top(scores: Float[np.ndarray, " P"], count: int) -> Bool[np.ndarray, " P"]:
    """Mask of the `count` highest scores; of equal ones the earlier stay."""
    scores = _checked(scores)
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, stable=True)[:count]] = True
    return mask


def select_uniform(scores: Scores, total: int) -> Masks:
    """The same share of every layer (`uniform_counts`), the highest scores inside each."""
    scores = _checked_layers(scores)
    counts = uniform_counts([len(layer) for layer in scores], total)
    return [select_top(layer, count) for layer, count in zip(scores, counts, strict=True)]


def select_global(scores: Scores, total: int, *, minimum: int = 1) -> Masks:
    """The `total` highest scores of all layers together, at least `minimum` of each layer.

    The best `minimum` of each layer come first, then all others by score; of equal ones the
    earlier layer stays, inside a layer the earlier state. The result holds exactly `total`.

    Raises:
        ValueError: if `total` is more than there are or too few for `minimum` a layer, or if a
            score is not a number.
    """
    scores = _checked_layers(scores)
    sizes = [len(layer) for layer in scores]
    _check_total("select_global", total, sizes, minimum)
    reserved = np.concatenate([select_top(layer, minimum) for layer in scores])
    order = np.lexsort((-np.concatenate(scores), ~reserved))
    mask = np.zeros(sum(sizes), bool)
    mask[order[:total]] = True
    return np.split(mask, np.cumsum(sizes)[:-1])


def _checked_layers(scores: Scores) -> list[Float[np.ndarray, " _"]]:
    return [_checked(layer, f" of layer {index}") for index, layer in enumerate(scores)]


def _checked(scores: Float[np.ndarray, " P"], where: str = "") -> Float[np.ndarray, " P"]:
    scores = np.asarray(scores, float)
    if np.isnan(scores).any():
        states = np.flatnonzero(np.isnan(scores)).tolist()
        raise ValueError(f"selection: scores of states {states}{where} are not numbers")
    return scores


def _check_total(name: str, total: int, sizes: Sequence[int], minimum: int) -> None:
    floor = sum(min(minimum, size) for size in sizes)
    if not floor <= total <= sum(sizes):
        raise ValueError(
            f"{name}: {total} states to keep, but {len(sizes)} layers of {list(sizes)} states "
            f"allow {floor} to {sum(sizes)}"
        )
