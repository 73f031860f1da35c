"""LRU layers: minimal-LRU and jax_rtrl."""

from collections.abc import Mapping

import numpy as np

from lastax._errors import RunError
from lastax.interop._flax_networks import read_flax_network, write_flax_network
from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._parts import check_gates, check_layer, to_jax, to_numpy
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._lru import LRU
from lastax.nn._networks import Classifier, Retrieval

_CELL = "OnlineLRUCell_0.LRUCell_0."


def read_lru(scope: Scope, options: ImportOptions) -> LRU:
    """An LRU layer with real and imaginary parts in arrays of their own."""
    return _layer(scope, "", ("B_re", "B_im", "C_re", "C_im"), matrix=False)


def write_lru(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays of an LRU layer."""
    return _arrays(layer, "", ("B_re", "B_im", "C_re", "C_im"), matrix=False)


def _layer(scope: Scope, cell: str, parts: tuple[str, ...], *, matrix: bool) -> LRU:
    B = [scope.take(cell + name, "P", "H") for name in parts[:2]]
    C = [scope.take(name, "H", "P") for name in parts[2:]]
    return LRU(
        nu_log=to_jax(scope.take(cell + "nu_log", "P")),
        theta_log=to_jax(scope.take(cell + "theta_log", "P")),
        gamma_log=to_jax(scope.take(cell + "gamma_log", "P")),
        B=to_jax(np.stack(B, axis=-1)),
        C=to_jax(np.stack(C, axis=-1)),
        C_reverse=None,
        D=to_jax(scope.take("D", "H", "H") if matrix else scope.take("D", "H")),
    )


def _arrays(layer: object, cell: str, parts: tuple[str, ...], *, matrix: bool) -> Arrays:
    fields = check_layer(layer, LRU)
    B, C, D = (to_numpy(array) for array in (fields.B, fields.C, fields.D))
    if D.ndim == 2 and not matrix:
        raise NotRepresentableError("D is a dense matrix, the format has a vector")
    return {
        cell + "nu_log": to_numpy(fields.nu_log),
        cell + "theta_log": to_numpy(fields.theta_log),
        cell + "gamma_log": to_numpy(fields.gamma_log),
        cell + parts[0]: B[..., 0],
        cell + parts[1]: B[..., 1],
        parts[2]: C[..., 0],
        parts[3]: C[..., 1],
        "D": np.diag(D) if matrix and D.ndim == 1 else D,
    }


_RTRL_PARTS = ("B_real", "B_img", "C_real", "C_img")


def _read_rtrl(scope: Scope, options: ImportOptions) -> LRU:
    shape = scope.arrays[scope.child("D").path].shape
    if len(shape) == 2 and shape[0] != shape[1]:
        raise RunError(
            f"{scope.path or 'the layer'} maps {shape[1]} inputs to {shape[0]} outputs; lastax "
            "layers have as many outputs as inputs"
        )
    return _layer(scope, _CELL, _RTRL_PARTS, matrix=True)


def _write_network(model: object, like: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays of a network. The public code always has both maps of a gate."""
    if not like and isinstance(model, Classifier | Retrieval):
        check_gates(model, ("full_glu",))
    return write_flax_network(model, like, write_lru, "normalization")


LRU_LAYER = LayerFormat(
    names=("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D"),
    read=read_lru,
    write=write_lru,
)

MINIMAL_LRU = Format(
    name="minimal-lru",
    title="NicolasZucchet/minimal-LRU",
    layers=(LRU_LAYER,),
    options={
        "prenorm": True,
        "gelu": "tanh",
        "norm_epsilon": None,
        "norm_momentum": 0.99,
        "dropout": 0.0,
        "pooling": "mean",
        "mask_padding": False,
    },
    network=r"(|.*\.)encoder\.layers_\d+\.seq\.nu_log$",
    read_network=lambda scope, options: read_flax_network(scope, options, read_lru),
    write_network=_write_network,
    container="msgpack",
    flax=True,
)

JAX_RTRL = Format(
    name="jax-rtrl",
    title="FranzKnut/jax_rtrl, LRU layer without activation",
    layers=(
        LayerFormat(
            names=(
                *("C_real", "C_img", "D"),
                *(_CELL + name for name in ("nu_log", "theta_log", "gamma_log", "B_real", "B_img")),
            ),
            read=_read_rtrl,
            write=lambda layer, like: _arrays(layer, _CELL, _RTRL_PARTS, matrix=True),
        ),
    ),
    options={},
    container="msgpack",
    flax=True,
)
