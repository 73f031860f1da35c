"""S5 layers of lindermanlab/S5 and of the code that follows it."""

from collections.abc import Mapping

import numpy as np

from lastax._errors import RunError
from lastax.interop._flax_networks import read_flax_network, write_flax_network
from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._parts import check_layer, to_jax, to_numpy
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._configuration import DISCRETIZATIONS
from lastax.nn._s5 import S5


def read_s5(scope: Scope, options: ImportOptions) -> S5:
    """An S5 layer with `C`, `C1` and `C2`, or one `C` for both directions."""
    if "B_bias" in scope or "D_bias" in scope:
        raise RunError(
            f"{scope.path or 'the layer'} has B_bias or D_bias: a batch norm was folded into the "
            "layer, which lastax cannot express; import the checkpoint before it was folded"
        )
    imaginary = scope.take("Lambda_im", "P")
    size = len(imaginary)
    reverse = None
    if "C1" in scope:
        C, reverse = scope.take("C1", "H", "P", 2), scope.take("C2", "H", "P", 2)
    else:
        both = scope.take("C", "H", "columns", 2)
        if both.shape[1] == 2 * size:
            C, reverse = both[:, :size], both[:, size:]
        else:
            C = scope.take("C", "H", "P", 2)
    step = scope.take("log_step", "P", 1) if _columns(scope) == 2 else scope.take("log_step", "P")
    matrix = scope.arrays[scope.child("D").path].ndim == 2 if "D" in scope else False
    return S5(
        Lambda_re=to_jax(scope.take("Lambda_re", "P")),
        Lambda_im=to_jax(imaginary),
        B=to_jax(scope.take("B", "P", "H", 2)),
        C=to_jax(C),
        C_reverse=None if reverse is None else to_jax(reverse),
        D=to_jax(scope.take("D", "H", "H") if matrix else scope.take("D", "H")),
        log_step=to_jax(step.reshape(-1) + np.float32(np.log(options.step_rescale))),
        conj_sym=options.conj_sym is not False,
        discretize=DISCRETIZATIONS[options.discretization],
        clip_eigenvalues=options.clip_eigenvalues,
    )


def write_s5(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays of an S5 layer, for both directions as `C1` and `C2` if the original has none."""
    fields = check_layer(layer, S5, bidirectional=True)
    C = to_numpy(fields.C)
    arrays = {
        "Lambda_re": to_numpy(fields.Lambda_re),
        "Lambda_im": to_numpy(fields.Lambda_im),
        "B": to_numpy(fields.B),
        "D": to_numpy(fields.D),
        "log_step": to_numpy(fields.log_step)[:, None],
    }
    if fields.D.ndim == 2 and ("D" not in like or like["D"].ndim != 2):
        raise NotRepresentableError("D is a dense matrix, the format has a vector")
    if fields.C_reverse is None:
        return arrays | {"C": C}
    reverse = to_numpy(fields.C_reverse)
    if "C" in like:
        return arrays | {"C": np.concatenate([C, reverse], axis=1)}
    return arrays | {"C1": C, "C2": reverse}


def _columns(scope: Scope) -> int:
    return scope.arrays[scope.child("log_step").path].ndim if "log_step" in scope else 2


S5_LAYER = LayerFormat(
    names=("Lambda_re", "Lambda_im", "B", "D", "log_step"), read=read_s5, write=write_s5
)

S5_FLAX = Format(
    name="s5",
    title="lindermanlab/S5 and its forks",
    layers=(S5_LAYER,),
    options={
        "prenorm": True,
        "activation": None,
        "gelu": "tanh",
        "norm_epsilon": None,
        "norm_momentum": 0.95,
        "dropout": 0.0,
        "pooling": "mean",
        "mask_padding": False,
        "conj_sym": None,
        "discretization": "zoh",
        "clip_eigenvalues": False,
        "step_rescale": 1.0,
    },
    network=r"(|.*\.)encoder\.layers_\d+\.(?:seq|mixer)\.Lambda_re$",
    read_network=lambda scope, options: read_flax_network(scope, options, read_s5),
    write_network=lambda model, like: write_flax_network(model, like, write_s5, "norm"),
    container="msgpack",
    flax=True,
)
