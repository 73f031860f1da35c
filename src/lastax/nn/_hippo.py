"""HiPPO-LegS and the diagonal of its normal part, from which S5 starts. Host float64."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float


class NormalPart(NamedTuple):
    """Eigen-decomposition `A + p p^T = V diag(Lambda) V^H`, imaginary parts ascending.

    Columns of `V` are orthonormal and free up to phase; so are `p` and `B`, which are
    given in the eigenbasis.
    """

    Lambda: Complex[np.ndarray, " n"]
    V: Complex[np.ndarray, "n n"]
    p: Complex[np.ndarray, " n"]
    B: Complex[np.ndarray, " n"]


class BlockBasis(NamedTuple):
    """Eigenvalues of a block-diagonal HiPPO matrix and the maps into and out of its basis.

    `n` is the number of real states, `P` the number that is stored: half of them when only one
    of each conjugate pair is kept.
    """

    Lambda: Complex[np.ndarray, " P"]
    V: Complex[np.ndarray, "n P"]
    V_inverse: Complex[np.ndarray, "P n"]


def hippo_legs(size: int) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, " n"]]:
    """State matrix `A` and input vector `B` of HiPPO-LegS.

    `A_ij = -sqrt((2i+1)(2j+1))` below the diagonal, `-(i+1)` on it, 0 above; `B_i = sqrt(2i+1)`.
    Gu et al., HiPPO, NeurIPS 2020, theorem 2.
    """
    _require_positive("hippo_legs: size", size)
    root = np.sqrt(2.0 * np.arange(size) + 1.0)
    A = -np.tril(np.outer(root, root), k=-1) - np.diag(np.arange(size) + 1.0)
    return A, root


def hippo_low_rank(size: int) -> Float[np.ndarray, " n"]:
    """The vector `p`, `p_i = sqrt(i + 1/2)`, that makes `A + p p^T` normal."""
    _require_positive("hippo_low_rank: size", size)
    return np.sqrt(np.arange(size) + 0.5)


def hippo_normal_part(size: int) -> NormalPart:
    """Diagonalize `A + p p^T`, which is a skew-symmetric matrix minus one half of the identity.

    Every eigenvalue has the real part -1/2. Gupta et al., DSS, NeurIPS 2022; Smith et al., S5,
    ICLR 2023, appendix B.1.1.
    """
    A, B = hippo_legs(size)
    p = hippo_low_rank(size)
    S = A + np.outer(p, p)
    imaginary, V = np.linalg.eigh(-1j * (S - np.diag(np.diag(S))))
    Lambda = np.mean(np.diag(S)) + 1j * imaginary
    return NormalPart(Lambda, V, V.conj().T @ p, V.conj().T @ B)


def hippo_block_basis(states: int, *, blocks: int = 1, conj_sym: bool = True) -> BlockBasis:
    """`blocks` equal copies of the normal part, block-diagonal, `states` stored in all.

    With `conj_sym` each copy keeps the half of its eigenvalues that have negative imaginary
    parts, so that `states` stored ones stand for `2 states` real ones. Smith et al., S5,
    section 4.3.

    Raises:
        ValueError: if `states` is not a positive multiple of `blocks`.
    """
    _require_positive("hippo_block_basis: states", states)
    if blocks < 1 or states % blocks:
        raise ValueError(
            f"hippo_block_basis: states must be a multiple of blocks, got {states} states in "
            f"{blocks} blocks"
        )
    kept = states // blocks
    size = 2 * kept if conj_sym else kept
    block = hippo_normal_part(size)
    V = np.kron(np.eye(blocks), block.V[:, :kept])
    return BlockBasis(np.tile(block.Lambda[:kept], blocks), V, V.conj().T)


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
