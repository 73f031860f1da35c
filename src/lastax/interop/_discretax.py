"""Layers and networks of discretax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lastax.interop._format import Arrays, Format, LayerFormat
from lastax.interop._lru import LRU_LAYER, read_lru
from lastax.interop._options import ImportOptions
from lastax.interop._parts import (
    batch_norm,
    check_classifier,
    linear,
    linear_arrays,
    to_jax,
    to_numpy,
)
from lastax.interop._s4 import s4d_arrays, s4d_layer
from lastax.interop._s5 import S5_LAYER, read_s5, write_s5
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._blocks import Block, Gate, Linear
from lastax.nn._encoder import Encoder
from lastax.nn._layer import Layer
from lastax.nn._lru import LRU
from lastax.nn._networks import Classifier, Network
from lastax.nn._normalization import BatchNorm
from lastax.nn._s4d import S4D
from lastax.nn._s5 import S5


def _read_s4d(scope: Scope, options: ImportOptions) -> S4D:
    return s4d_layer(scope, "kernel.log_a_real", feedthrough=False)


def _write_s4d(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    fields: Any = layer
    arrays = s4d_arrays(fields, "kernel.log_a_real")
    if np.any(arrays.pop("D")):
        raise NotRepresentableError("the layer has a feedthrough D, the format has none")
    arrays["kernel.C"] = arrays["kernel.C"].astype(np.complex64)
    if "state_dim" in like:
        arrays["state_dim"] = np.asarray(2 * arrays["kernel.C"].shape[1])
    return arrays


def _write_s5(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    arrays = write_s5(layer, like)
    if "C1" in arrays:
        raise NotRepresentableError("the layer is bidirectional, the format is not")
    if "P" in like:
        arrays["P"] = np.asarray(len(arrays["Lambda_re"]))
    return arrays


_S4D_LAYER = LayerFormat(
    names=("kernel.C", "kernel.log_dt", "kernel.log_a_real", "kernel.A_imag"),
    read=_read_s4d,
    write=_write_s4d,
)


def _read_mixer(scope: Scope, options: ImportOptions) -> Layer:
    if "nu_log" in scope:
        return read_lru(scope, options)
    if "kernel.log_a_real" in scope:
        return _read_s4d(scope, options)
    return read_s5(scope, options)


def _write_mixer(layer: object, like: Mapping[str, np.ndarray]) -> Arrays:
    for kind, write in ((S5, _write_s5), (LRU, LRU_LAYER.write), (S4D, _write_s4d)):
        if isinstance(layer, kind):
            return write(layer, like)
    raise NotRepresentableError(f"the layer is a {type(layer).__name__}")


def _read_network(scope: Scope, options: ImportOptions) -> Network:
    if "layers.0.embedding.weight" in scope:
        weight = scope.take("layers.0.embedding.weight", "d", "H")
        embed = Linear(to_jax(weight), to_jax(np.zeros(weight.shape[1])))
    elif "layers.0.linear.weight" in scope:
        embed = linear(scope.child("layers.0.linear"), "d", "H", torch=True)
    else:
        raise NotRepresentableError("its encoder is neither a linear map nor an embedding")
    if "layers.2.linear.weight" not in scope or not _flag(scope, "layers.2.reduce", True):
        raise NotRepresentableError("it has no classification head")
    scope.sizes["H"] = embed.weight.shape[1]
    numbers = scope.numbered(r"layers\.1\.blocks\.(\d+)\.")
    statistics = _statistics(scope, len(numbers))
    blocks = []
    for number in numbers:
        block = Scope(statistics, scope.child(f"layers.1.blocks.{number}").path, scope.sizes)
        given = options.prenorm
        prenorm = _flag(block, "prenorm", True) if given is None else given
        dropout = options.dropout
        if dropout is None:
            dropout = float(block.take("drop.p")) if "drop.p" in block else 0.0
        blocks.append(
            Block(
                batch_norm(
                    block.child("norm"),
                    ("weight", "bias", "mean", "var"),
                    momentum=options.norm_momentum,
                    epsilon=options.norm_epsilon,
                ),
                _read_mixer(block.child("sequence_mixer"), options),
                _gate(block.child("channel_mixer"), options),
                prenorm=prenorm,
                dropout=dropout,
            )
        )
    encoder = Encoder(embed, tuple(blocks), mask_padding=options.mask_padding)
    return Classifier(encoder, linear(scope.child("layers.2.linear"), "H", "classes", torch=True))


def _gate(scope: Scope, options: ImportOptions) -> Gate:
    size = scope.sizes["H"]
    weights = {name: scope.arrays[scope.child(name).path].shape for name in scope.names()}
    square = {"w1.weight", "w2.weight"}
    if not weights:
        return Gate(None, None, "gelu", options.gelu)
    if set(weights) - {"w1.bias", "w2.bias"} != square or any(
        weights[name] != (size, size) for name in square
    ):
        raise NotRepresentableError("its channel mixer is neither GLU nor the identity")
    value, gate = (linear(scope.child(name), "H", "H", torch=True) for name in ("w1", "w2"))
    return Gate(value, gate, "full_glu", options.gelu)


def _flag(scope: Scope, name: str, default: bool) -> bool:
    return bool(scope.take(name)) if name in scope else default


def _statistics(scope: Scope, blocks: int) -> dict[str, np.ndarray]:
    """All arrays, with running statistics under the names of their norms.

    In a saved pair of model and state they are the vectors of the state, mean before variance.
    """
    start = scope.child("layers.1.blocks").path
    if f"{start}.0.norm.mean" in scope.arrays:
        return dict(scope.arrays)
    parts = scope.path.split(".")
    state = ".".join([*parts[:-1], "1"]) + "." if parts[-1] == "0" else None
    vectors = [
        array
        for name, array in scope.arrays.items()
        if state is not None and name.startswith(state) and array.ndim == 1
    ]
    if len(vectors) != 2 * blocks:
        raise NotRepresentableError(
            "it was saved without its state, which has the running statistics of the norms"
        )
    found = dict(scope.arrays)
    for number in range(blocks):
        found[f"{start}.{number}.norm.mean"] = vectors[2 * number]
        found[f"{start}.{number}.norm.var"] = vectors[2 * number + 1]
    return found


def _write_network(model: object, like: Mapping[str, np.ndarray]) -> Arrays:
    network = check_classifier(model, ("full_glu", "gelu"))
    encoder = network.encoder
    if "layers.0.embedding.weight" in like:
        if np.any(to_numpy(encoder.embed.bias)):
            raise NotRepresentableError("the embedding has a bias, the format has none")
        arrays = {"layers.0.embedding.weight": to_numpy(encoder.embed.weight)}
    else:
        arrays = linear_arrays(encoder.embed, "layers.0.linear", like, torch=True)
    for number, block in enumerate(encoder.blocks):
        start = f"layers.1.blocks.{number}."
        path = start + "sequence_mixer."
        original = {key.removeprefix(path): like[key] for key in like if key.startswith(path)}
        written = _write_mixer(block.layer, original)
        arrays |= {path + name: array for name, array in written.items()}
        for name, part in (("w1", block.gate.value), ("w2", block.gate.gate)):
            if part is not None:
                arrays |= linear_arrays(part, f"{start}channel_mixer.{name}", like, torch=True)
        norm = block.norm
        if not isinstance(norm, BatchNorm) or np.any(norm.scale != 1) or np.any(norm.bias != 0):
            raise NotRepresentableError("its norms are not batch norms without scale and bias")
        arrays[f"{start}norm.mean"] = to_numpy(norm.running.mean)
        arrays[f"{start}norm.var"] = to_numpy(norm.running.variance)
    return arrays | linear_arrays(network.head, "layers.2.linear", like, torch=True)


DISCRETAX = Format(
    name="discretax",
    title="camail-official/discretax",
    layers=(dataclasses.replace(S5_LAYER, write=_write_s5), LRU_LAYER, _S4D_LAYER),
    options={
        "prenorm": None,
        "gelu": "tanh",
        "norm_epsilon": None,
        "norm_momentum": 0.99,
        "dropout": None,
        "mask_padding": False,
        "conj_sym": None,
        "discretization": "zoh",
        "clip_eigenvalues": True,
        "step_rescale": 1.0,
    },
    network=r"(|.*\.)layers\.1\.blocks\.\d+\.sequence_mixer\.(?:Lambda_re|nu_log|kernel\.A_imag)$",
    read_network=_read_network,
    write_network=_write_network,
    container="safetensors",
)
