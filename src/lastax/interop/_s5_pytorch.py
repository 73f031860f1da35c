"""S5 layers of i404788/s5-pytorch, which stores all eigenvalues as complex numbers."""

from collections.abc import Mapping

import numpy as np

from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._parts import check_layer, to_jax, to_numpy
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._s5 import S5
from lastax.ssm._discretization import discretize_zoh


def _read_layer(scope: Scope, options: ImportOptions) -> S5:
    Lambda = scope.complex("Lambda", "P")
    size = len(Lambda)
    C = scope.complex("C", "H", "columns")
    both = C.shape[1] == 2 * size
    if not both:
        C = scope.complex("C", "H", "P")
    step = scope.take("log_step", "P")
    return S5(
        Lambda_re=to_jax(Lambda[:, 0]),
        Lambda_im=to_jax(Lambda[:, 1]),
        B=to_jax(scope.take("B", "P", "H", 2)),
        C=to_jax(C[:, :size]),
        C_reverse=to_jax(C[:, size:]) if both else None,
        D=to_jax(scope.take("D", "H")),
        log_step=to_jax(step + np.float32(np.log(options.step_rescale))),
        conj_sym=False,
    )


def _write_layer(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    fields = check_layer(layer, S5, bidirectional=True)
    if fields.discretize is not discretize_zoh or fields.clip_eigenvalues:
        raise NotRepresentableError("the layer is bilinear or clips eigenvalues")
    if fields.D.ndim == 2:
        raise NotRepresentableError("D is a dense matrix, the format has a vector")
    C = [to_numpy(C) for C in (fields.C, fields.C_reverse) if C is not None]
    Lambda_re, Lambda_im = to_numpy(fields.Lambda_re), to_numpy(fields.Lambda_im)
    joined = np.concatenate(C, axis=1)
    # A stored conjugate pair contributes twice.
    factor = 2 if fields.conj_sym else 1
    return {
        "Lambda": (Lambda_re + 1j * Lambda_im).astype(np.complex64),
        "B": to_numpy(fields.B),
        "C": (factor * (joined[..., 0] + 1j * joined[..., 1])).astype(np.complex64),
        "D": to_numpy(fields.D),
        "log_step": to_numpy(fields.log_step),
    }


S5_PYTORCH = Format(
    name="s5-pytorch",
    title="i404788/s5-pytorch",
    layers=(
        LayerFormat(
            names=("Lambda", "B", "C", "D", "log_step"), read=_read_layer, write=_write_layer
        ),
    ),
    options={"step_rescale": 1.0},
    container="pth",
)
