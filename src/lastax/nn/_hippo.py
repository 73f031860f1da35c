"""HiPPO-LegS and the eigendecomposition of its normal part. numpy, float64."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from lastax.nn._checks import check_sizes


class NormalPart(NamedTuple):
    """Eigendecomposition `A + p p^T = V diag(Lambda) V^H` of the normal part of HiPPO-LegS.

    Eigenvalues are sorted by ascending imaginary part. The phase of each column of `V` is
    arbitrary, and with it the phase of each entry of `p` and `B`.

    Attributes:
        Lambda: eigenvalues, shape `(n,)`.
        V: orthonormal eigenvectors as columns, shape `(n, n)`.
        p: low-rank vector in the eigenbasis, `V^H p`, shape `(n,)`.
        B: input vector in the eigenbasis, `V^H B`, shape `(n,)`.
    """

    Lambda: Complex[np.ndarray, " n"]
    V: Complex[np.ndarray, "n n"]
    p: Complex[np.ndarray, " n"]
    B: Complex[np.ndarray, " n"]


class BlockBasis(NamedTuple):
    """Eigenbasis of a block-diagonal HiPPO matrix.

    `n` is the number of real states and `P` the number of stored states: `n / 2` if only one state
    of each conjugate pair is stored, else `n`.

    Attributes:
        Lambda: eigenvalues, shape `(P,)`.
        V: map from the eigenbasis to real states, shape `(n, P)`.
        V_inverse: map from real states to the eigenbasis, shape `(P, n)`.
    """

    Lambda: Complex[np.ndarray, " P"]
    V: Complex[np.ndarray, "n P"]
    V_inverse: Complex[np.ndarray, "P n"]


def hippo_legs(size: int) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, " n"]]:
    """State matrix `A` and input vector `B` of HiPPO-LegS.

    `A_ij = -sqrt((2i + 1) (2j + 1))` below the diagonal, `-(i + 1)` on it and 0 above it;
    `B_i = sqrt(2i + 1)`. Gu et al., HiPPO, NeurIPS 2020, theorem 2.

    Args:
        size: number of states `n`.

    Returns:
        `A`, shape `(n, n)`, and `B`, shape `(n,)`.

    Raises:
        ValueError: if `size` is less than 1.
    """
    check_sizes("hippo_legs", size=size)
    root = np.sqrt(2.0 * np.arange(size) + 1.0)
    A = -np.tril(np.outer(root, root), k=-1) - np.diag(np.arange(size) + 1.0)
    return A, root


def hippo_low_rank(size: int) -> Float[np.ndarray, " n"]:
    """Vector `p`, `p_i = sqrt(i + 1/2)`, such that `A + p p^T` is normal.

    Raises:
        ValueError: if `size` is less than 1.
    """
    check_sizes("hippo_low_rank", size=size)
    return np.sqrt(np.arange(size) + 0.5)


def hippo_normal_part(size: int) -> NormalPart:
    """Diagonalize `A + p p^T`, a skew-symmetric matrix minus half the identity.

    Every eigenvalue has real part -1/2. Gupta et al., DSS, NeurIPS 2022; Smith et al., S5,
    ICLR 2023, appendix B.1.1.

    Args:
        size: number of states `n`.

    Returns:
        The eigendecomposition, and `p` and `B` in the eigenbasis. All calls with the same size
        share these arrays, so they cannot be written to.

    Raises:
        ValueError: if `size` is less than 1.
    """
    check_sizes("hippo_normal_part", size=size)
    return _normal_part(size)


@functools.lru_cache(maxsize=8)  # the layers of a network have the same size
def _normal_part(size: int) -> NormalPart:
    A, B = hippo_legs(size)
    p = hippo_low_rank(size)
    S = A + np.outer(p, p)
    imaginary, V = np.linalg.eigh(-1j * (S - np.diag(np.diag(S))))
    Lambda = np.mean(np.diag(S)) + 1j * imaginary
    part = NormalPart(Lambda, V, V.conj().T @ p, V.conj().T @ B)
    for array in part:
        array.setflags(write=False)
    return part


def hippo_block_basis(states: int, *, blocks: int = 1, conj_sym: bool = True) -> BlockBasis:
    """Eigenbasis of a block-diagonal matrix of equal HiPPO-LegS normal parts.

    Smith et al., S5, section 4.3.

    Args:
        states: number of stored states `P`, over all blocks.
        blocks: number of diagonal blocks.
        conj_sym: store only the eigenvalues with negative imaginary part, one of each conjugate
            pair. `P` stored states then represent `2 P` real states.

    Returns:
        Eigenvalues and the maps between eigenbasis and real states.

    Raises:
        ValueError: unless `states` is a positive multiple of `blocks`.
    """
    check_sizes("hippo_block_basis", states=states)
    if blocks < 1 or states % blocks:
        raise ValueError(
            f"hippo_block_basis: states must be a multiple of blocks, got {states} states and "
            f"{blocks} blocks"
        )
    kept = states // blocks
    size = 2 * kept if conj_sym else kept
    block = hippo_normal_part(size)
    V = np.kron(np.eye(blocks), block.V[:, :kept])
    return BlockBasis(np.tile(block.Lambda[:kept], blocks), V, V.conj().T)
