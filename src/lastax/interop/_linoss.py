"""LinOSS layers: oscillators, each as two states of an S5 layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lastax._errors import RunError
from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._parts import to_jax
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._s5 import S5


def _read_layer(scope: Scope, options: ImportOptions) -> S5:
    A = np.maximum(scope.take("A_diag", "P").astype(float), 0)
    step = 1 / (1 + np.exp(-scope.take("steps", "P").astype(float)))
    damping = np.zeros_like(A)
    if "G_diag" in scope and options.oscillator != "imex":
        raise RunError(
            f"{scope.path or 'the layer'} has G_diag: damped oscillators exist only for "
            "oscillator='imex'"
        )
    if "G_diag" in scope:
        damping = scope.take("G_diag", "P").astype(float)
        # The range in which the damped recurrence is stable.
        middle, radius = 2 + step * damping, 2 * np.sqrt(np.maximum(1 + step * damping, 0))
        A = np.clip(A, (middle - radius) / step**2, (middle + radius) / step**2)
    M, drive = _oscillators(A, damping, step, options.oscillator)
    lam, V = np.linalg.eig(M)
    repeated = abs(lam[:, 0] - lam[:, 1]) < 1e-6
    if np.any(repeated):
        raise RunError(
            f"{scope.path or 'the layer'}: oscillators {np.flatnonzero(repeated).tolist()} "
            "have a double eigenvalue, as where A_diag is not positive; a diagonal system cannot "
            "express them"
        )
    B, C = _complex(scope.take("B", "P", "H", 2)), _complex(scope.take("C", "H", "P", 2))
    weights = np.linalg.solve(V, drive[..., None])[..., 0]
    discrete_B = (weights[:, :, None] * B[:, None, :]).reshape(-1, B.shape[1])
    outputs = (C[:, :, None] * V[None, :, 1, :]).reshape(C.shape[0], -1)
    return _with_system(lam.reshape(-1), discrete_B, outputs, scope.take("D", "H"))


def _oscillators(
    A: np.ndarray, G: np.ndarray, h: np.ndarray, oscillator: str
) -> tuple[np.ndarray, np.ndarray]:
    """The recurrence of each oscillator, `(P, 2, 2)`, and its input, `(P, 2)`."""
    if oscillator == "im":
        q = 1 / (1 + h**2 * A)
        M = np.stack([1 - h**2 * A * q, -h * A * q, h * q, q], axis=-1).reshape(-1, 2, 2)
        return M.astype(complex), h[:, None] * M[:, :, 0]
    S = 1 + h * G
    M = np.stack([1 / S, -h * A / S, h / S, 1 - h**2 * A / S], axis=-1).reshape(-1, 2, 2)
    return M.astype(complex), np.stack([h / S, h**2 / S], axis=-1)


def _with_system(lam: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray) -> S5:
    """The S5 layer of step size 1 that applies a discrete system."""
    Lambda = np.log(lam)
    continuous_B = B * (Lambda / np.expm1(Lambda))[:, None]

    def to_pair(z: np.ndarray) -> Any:
        return to_jax(np.stack([z.real, z.imag], axis=-1).astype(D.dtype))

    return S5(
        Lambda_re=to_jax(Lambda.real.astype(D.dtype)),
        Lambda_im=to_jax(Lambda.imag.astype(D.dtype)),
        B=to_pair(continuous_B),
        C=to_pair(C),
        C_reverse=None,
        D=to_jax(D),
        log_step=to_jax(np.zeros(len(lam), D.dtype)),
        conj_sym=False,
    )


def _complex(pair: np.ndarray) -> np.ndarray:
    return (pair[..., 0] + 1j * pair[..., 1]).astype(complex)


def _refuse(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    raise NotRepresentableError("pruned states are no oscillators any more; write another format")


LINOSS = Format(
    name="linoss",
    title="tk-rusch/linoss, layers only",
    layers=(
        LayerFormat(names=("A_diag", "B", "C", "D", "steps"), read=_read_layer, write=_refuse),
    ),
    options={"oscillator": "imex"},
)
