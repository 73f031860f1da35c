"""Empirical controllability Gramians."""

import numpy as np
from jaxtyping import Float

from lastax.calibration._moments import Moments
from lastax.ssm._multi_siso import AnySystem, MultiSISO


def empirical_gramians(system: AnySystem, moments: Moments) -> list[Float[np.ndarray, "n n"]]:
    """Controllability Gramians of the states on calibration data.

    They are in the coordinates `sqrt(2) [Re x; Im x]`. `balanced_truncation` and `hankel_scores`
    take them as `gramians`. The two directions of a bidirectional system share their eigenvalues,
    so their Gramians are averaged.

    Args:
        system: the system of a layer.
        moments: moments of the same layer, from `calibrate(model, batches).moments`.

    Returns:
        One Gramian for a `System`, one per channel for a `MultiSISO`.
    """
    counts = system.counts if isinstance(system, MultiSISO) else (system.states,)
    s = 2.0 if system.conj_sym else 1.0
    gramians = []
    for features, count in zip(moments.features, counts, strict=True):
        size = count * moments.width
        # The columns of a state are s Re x and -s Im x, in each direction.
        products = features[:size, :size].reshape(count, moments.width, count, moments.width)
        both = np.zeros((2 * count, 2 * count))
        for start in range(0, moments.width, 2):
            re_re, re_im = products[:, start, :, start], -products[:, start, :, start + 1]
            im_im = products[:, start + 1, :, start + 1]
            both += np.block([[re_re, re_im], [re_im.T, im_im]])
        gramians.append(both * 2 / s**2 / (moments.width // 2))
    return gramians
