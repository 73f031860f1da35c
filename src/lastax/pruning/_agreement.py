"""How much methods agree on the order of the states."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float


def rank_agreement(
    scores: Mapping[str, Sequence[Float[np.ndarray, " _"]]],
) -> list[dict[str, dict[str, float | None]]]:
    """Spearman's rank correlation of the scores of every two methods, in each layer.

    Args:
        scores: for each method the scores of each layer (`score_states`).

    Returns:
        One table per layer, `table[method][other]`; None where a layer has one state, or a method
        gives all states of it the same score. Infinite scores rank highest.
    """
    layers = len(next(iter(scores.values())))
    return [
        {
            one: {other: _correlation(scores[one][index], scores[other][index]) for other in scores}
            for one in scores
        }
        for index in range(layers)
    ]


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    # SciPy's statistics take most of a second to import, and only this function needs them.
    import scipy.stats

    ranks = [scipy.stats.rankdata(scores) for scores in (one, other)]
    if len(one) < 2 or any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(scipy.stats.spearmanr(*ranks).statistic)
