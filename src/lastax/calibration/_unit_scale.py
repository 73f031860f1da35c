"""Columns of unit norm, without those that are only rounding errors."""

import numpy as np
from jaxtyping import Bool, Float, Int

# Mean square of a column, relative to all columns of its state, below which it is rounding errors.
_LEAST_SHARE = 1e-10


def significant_columns(
    squares: Float[np.ndarray, "n M"], owners: Int[np.ndarray, " M"]
) -> Bool[np.ndarray, "n M"]:
    """Whether each column is more than zero or rounding errors.

    The imaginary part of a state with a real eigenvalue is rounding errors. With unit norm, its
    products with other columns would be noise of any size.

    Args:
        squares: mean square of each column.
        owners: the state or input that each column belongs to.
    """
    energy = squares @ (owners[:, None] == owners)
    return (squares > 0) & (squares > _LEAST_SHARE * energy)


def unit_scale(
    gram: Float[np.ndarray, "n M M"], owners: Int[np.ndarray, " M"]
) -> Float[np.ndarray, "n M"]:
    """Factors that give significant columns unit norm, and 0 for the others.

    Args:
        gram: mean products of the columns.
        owners: as in `significant_columns`.
    """
    squares = np.einsum("nii->ni", gram)
    used = significant_columns(squares, owners)
    return np.where(used, 1 / np.sqrt(np.where(used, squares, 1.0)), 0.0)
