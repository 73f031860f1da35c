"""The precision of the computations of a network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType

import equinox as eqx
import jax
from jaxtyping import Float

from lastax._typing import Array


class Precision(eqx.Module):
    """Precision of the products and the activations of a network.

    Recurrences, convolution kernels, statistics of norms, parameters and the optimizer have the
    dtype of the parameters, float32 by default.

    Attributes:
        products: precision of the matrix products of float32 arrays, a value of
            `jax.default_matmul_precision`.
        activations: dtype of the arrays between the layers; None for that of the parameters.
    """

    products: str = eqx.field(static=True, default="highest")
    activations: str | None = eqx.field(static=True, default=None)

    def active(self) -> AbstractContextManager[None]:
        """A context in which matrix products have this precision."""
        return jax.default_matmul_precision(self.products)

    def rounded(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Convert an array to the dtype of the activations."""
        return x if self.activations is None else x.astype(self.activations)


FULL_PRECISION = Precision()

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": FULL_PRECISION,
        "tf32": Precision("high"),
        # The device rounds float32 operands to bfloat16, and sums in float32. A CPU does not round
        # them.
        "bfloat16": Precision("BF16_BF16_F32", "bfloat16"),
    }
)


def precision_name(precision: Precision) -> str | None:
    """The name of a precision in `PRECISIONS`; None if it has none."""
    return next((name for name, one in PRECISIONS.items() if one == precision), None)
