"""The standalone S4D of state-spaces/s4: `models/s4/s4d.py` and the network of `example.py`."""

from collections.abc import Mapping

import numpy as np

from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._options import ImportOptions
from lastax.interop._parts import (
    Norm,
    batch_norm,
    check_classifier,
    check_layer,
    layer_norm,
    linear,
    linear_arrays,
    to_jax,
    to_numpy,
)
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._blocks import Block, Gate, Linear
from lastax.nn._encoder import Encoder
from lastax.nn._networks import Classifier, Network
from lastax.nn._normalization import BatchNorm
from lastax.nn._s4d import S4D
from lastax.ssm._discretization import discretize_zoh


def s4d_layer(scope: Scope, log_decay: str, *, feedthrough: bool) -> S4D:
    """An S4D layer whose kernel is stored as rectangular arrays.

    Args:
        scope: where the layer is.
        log_decay: name of `log(-Re(Lambda))`.
        feedthrough: whether the layer has `D`; otherwise it is 0.
    """
    imaginary = scope.take("kernel.A_imag", "H", "N")
    shape = imaginary.shape
    # Some forks share decay rates or step sizes between channels or states.
    decay = _broadcast(scope, log_decay, shape)
    step = _broadcast(scope, "kernel.log_dt", (shape[0],))
    C = scope.complex("kernel.C", "H", "N")
    D = scope.take("D", "H") if feedthrough else np.zeros(shape[0], np.float32)
    return S4D(
        log_decay=to_jax(decay.ravel()),
        Lambda_im=to_jax(imaginary.ravel()),
        B=None,
        C=to_jax(C.reshape(-1, 2)),
        C_reverse=None,
        D=to_jax(D),
        log_step=to_jax(step),
        counts=(shape[1],) * shape[0],
    )


def s4d_arrays(layer: S4D, log_decay: str) -> Arrays:
    """The arrays of a layer, with the states of every channel in one row.

    Channels with fewer states than others are filled with states of `C = 0`.

    Raises:
        NotRepresentableError: if the foreign code has no such layer.
    """
    layer = check_layer(layer, S4D)
    if layer.discretize is not discretize_zoh:
        raise NotRepresentableError("the layer is not discretized by zero-order hold")
    if not layer.conj_sym:
        raise NotRepresentableError("its states do not stand for conjugate pairs")
    C = _complex(layer.C)
    if layer.B is not None:
        C = C * _complex(layer.B)
    counts = np.asarray(layer.counts)
    inside = np.arange(max(counts.max(), 1))[None, :] < counts[:, None]

    def rows(values: np.ndarray) -> np.ndarray:
        filled = np.zeros(inside.shape, values.dtype)
        filled[inside] = values
        return filled

    return {
        "D": to_numpy(layer.D),
        "kernel.C": rows(C),
        "kernel.log_dt": to_numpy(layer.log_step),
        log_decay: rows(to_numpy(layer.log_decay)),
        "kernel.A_imag": rows(to_numpy(layer.Lambda_im)),
    }


def _read_layer(scope: Scope, options: ImportOptions) -> S4D:
    return s4d_layer(scope, "kernel.log_A_real", feedthrough=True)


def _write_layer(layer: S4D, like: Mapping[str, np.ndarray]) -> Arrays:
    arrays = s4d_arrays(layer, "kernel.log_A_real")
    C = arrays["kernel.C"]
    return arrays | {"kernel.C": np.stack([C.real, C.imag], axis=-1)}


def _read_network(scope: Scope, options: ImportOptions) -> Network:
    if "encoder.weight" not in scope or "decoder.weight" not in scope:
        raise NotRepresentableError("its encoder or decoder is not a linear map")
    embed = linear(scope.child("encoder"), "d", "H", torch=True)
    scope.sizes["H"] = embed.weight.shape[1]
    blocks = tuple(
        Block(
            _norm(scope.child(f"norms.{number}"), options),
            _read_layer(scope.child(f"s4_layers.{number}"), options),
            _gate(scope.child(f"s4_layers.{number}"), options),
            prenorm=bool(options.prenorm),
            dropout=options.dropout or 0.0,
        )
        for number in scope.numbered(r"s4_layers\.(\d+)\.")
    )
    encoder = Encoder(embed, blocks, pooling=options.pooling, mask_padding=options.mask_padding)
    return Classifier(encoder, linear(scope.child("decoder"), "H", "classes", torch=True))


def _norm(scope: Scope, options: ImportOptions) -> Norm:
    if "running_mean" in scope:
        names = ("weight", "bias", "running_mean", "running_var")
        return batch_norm(
            scope, names, momentum=options.norm_momentum, epsilon=options.norm_epsilon
        )
    scope.take("weight", "H")
    return layer_norm(scope, "weight", "bias", epsilon=options.norm_epsilon)


def _gate(scope: Scope, options: ImportOptions) -> Gate:
    if not any(name.startswith("output_linear") for name in scope.names()):
        return Gate(None, None, "gelu", options.gelu)
    size = scope.sizes["H"]
    path = "output_linear.0" if "output_linear.0.weight" in scope else "output_linear"
    if f"{path}.weight" not in scope:
        raise NotRepresentableError(f"{scope.path}.output_linear is not a linear map with a gate")
    rows = scope.arrays[f"{scope.path}.{path}.weight"].shape[:1]
    if rows == (size,):
        raise NotRepresentableError(f"{scope.path}.{path} is a linear map without a gate")
    if not rows:
        raise NotRepresentableError(f"{scope.path}.{path} is not a linear map with a gate")
    weight = scope.take(f"{path}.weight", 2 * size, "H", 1)[..., 0]
    bias = scope.optional(f"{path}.bias", 2 * size)
    bias = np.zeros(2 * size, np.float32) if bias is None else bias
    value, gate = (
        Linear(to_jax(weight[rows].T), to_jax(bias[rows]))
        for rows in (slice(None, size), slice(size, None))
    )
    return Gate(value, gate, "full_glu", options.gelu)


def _write_network(model: object, like: Mapping[str, np.ndarray]) -> Arrays:
    network = check_classifier(model, ("full_glu", "gelu"))
    encoder = network.encoder
    arrays = linear_arrays(encoder.embed, "encoder", like, torch=True)
    for number, block in enumerate(encoder.blocks):
        layer: object = block.layer
        written = _write_layer(check_layer(layer, S4D), like)
        arrays |= {f"s4_layers.{number}.{name}": array for name, array in written.items()}
        gate = block.gate
        if gate.value is not None and gate.gate is not None:
            path = f"s4_layers.{number}.output_linear.0"
            weight = np.concatenate([to_numpy(gate.value.weight).T, to_numpy(gate.gate.weight).T])
            arrays[f"{path}.weight"] = weight[..., None]
            biases = [to_numpy(gate.value.bias), to_numpy(gate.gate.bias)]
            arrays[f"{path}.bias"] = np.concatenate(biases)
        norm, path = block.norm, f"norms.{number}"
        arrays |= {f"{path}.weight": to_numpy(norm.scale), f"{path}.bias": to_numpy(norm.bias)}
        if isinstance(norm, BatchNorm):
            arrays[f"{path}.running_mean"] = to_numpy(norm.running.mean)
            arrays[f"{path}.running_var"] = to_numpy(norm.running.variance)
    return arrays | linear_arrays(network.head, "decoder", like, torch=True)


def _broadcast(scope: Scope, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in scope:
        return scope.take(name, *shape)
    axes = scope.arrays[f"{scope.path}.{name}" if scope.path else name].shape
    if len(axes) == len(shape) and all(n in (1, m) for n, m in zip(axes, shape, strict=True)):
        return np.broadcast_to(scope.take(name, *axes), shape)
    return scope.take(name, *shape)


def _complex(pair: object) -> np.ndarray:
    array = np.asarray(pair)
    return array[..., 0] + 1j * array[..., 1]


S4 = Format(
    name="s4",
    title="state-spaces/s4, standalone S4D",
    layers=(
        LayerFormat(
            names=("D", "kernel.C", "kernel.log_dt", "kernel.log_A_real", "kernel.A_imag"),
            read=_read_layer,
            write=_write_layer,
        ),
    ),
    options={
        "prenorm": False,
        "gelu": "exact",
        "norm_epsilon": 1e-5,
        "norm_momentum": 0.9,
        "dropout": 0.0,
        "pooling": "mean",
        "mask_padding": False,
    },
    data={"scifar": {"normalization": "per-image"}},
    network=r"(|.*\.)s4_layers\.\d+\.kernel\.log_A_real$",
    read_network=_read_network,
    write_network=_write_network,
    container="pth",
    root=("model",),
)
