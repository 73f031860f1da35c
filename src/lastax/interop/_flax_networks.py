"""The networks of lindermanlab/S5 and minimal-LRU, which have the same names."""

from collections.abc import Callable, Mapping

import numpy as np

from lastax._errors import RunError
from lastax.interop._format import Arrays
from lastax.interop._options import ImportOptions
from lastax.interop._parts import (
    Norm,
    batch_norm,
    layer_norm,
    linear,
    linear_arrays,
    to_jax,
    to_numpy,
)
from lastax.interop._scope import NotRepresentableError, Scope
from lastax.nn._blocks import Activation, Block, Gate, Linear
from lastax.nn._encoder import Encoder
from lastax.nn._layer import Layer
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._normalization import BatchNorm


def read_flax_network(
    scope: Scope, options: ImportOptions, read_layer: Callable[[Scope, ImportOptions], Layer]
) -> Network:
    """The network at a path. Running statistics have the names of the norm they belong to."""
    embedding = scope.child("encoder.encoder")
    if "embedding" in embedding:
        weight = embedding.take("embedding", "d", "H")
        embed = Linear(to_jax(weight), to_jax(np.zeros(weight.shape[1])))
    elif "kernel" in embedding:
        embed = linear(embedding, "d", "H", torch=False)
    else:
        raise NotRepresentableError("its encoder is neither a linear map nor an embedding")
    scope.sizes["H"] = embed.weight.shape[1]
    blocks = []
    for number in scope.numbered(r"encoder\.layers_(\d+)\."):
        part = scope.child(f"encoder.layers_{number}")
        gate = _gate(part, options)
        name = "mixer" if any(name.startswith("mixer.") for name in part.names()) else "seq"
        blocks.append(
            Block(
                _norm(part, options),
                read_layer(part.child(name), options),
                gate,
                prenorm=options.prenorm is not False,
                dropout=options.dropout or 0.0,
            )
        )
    encoder = Encoder(
        embed, tuple(blocks), pooling=options.pooling, mask_padding=options.mask_padding
    )
    decoder = scope.child("decoder")
    if "layer1.kernel" in decoder:
        hidden = decoder.child("layer1")
        weight = hidden.take("kernel", 4 * scope.sizes["H"], "H")
        return Retrieval(
            encoder,
            Linear(to_jax(weight), to_jax(hidden.take("bias", "H"))),
            linear(decoder.child("layer2"), "H", "classes", torch=False),
            gelu=options.gelu,
        )
    if "kernel" not in decoder:
        raise NotRepresentableError("it has no linear decoder")
    return Classifier(encoder, linear(decoder, "H", "classes", torch=False))


def write_flax_network(
    model: object,
    like: Mapping[str, np.ndarray],
    write_layer: Callable[[object, Mapping[str, np.ndarray]], Arrays],
    norm_name: str,
) -> Arrays:
    """The arrays of a network by the names that `read_flax_network` reads."""
    if not isinstance(model, Classifier | Retrieval):
        raise NotRepresentableError(f"the model is a {type(model).__name__}, not a network")
    embedding = "encoder.encoder.embedding"
    if embedding in like:
        if np.any(to_numpy(model.encoder.embed.bias)):
            raise NotRepresentableError("the embedding has a bias, the format has none")
        arrays = {embedding: to_numpy(model.encoder.embed.weight)}
    else:
        arrays = linear_arrays(model.encoder.embed, "encoder.encoder", like, torch=False)
    for number, block in enumerate(model.encoder.blocks):
        path = f"encoder.layers_{number}"
        name = "mixer" if any(key.startswith(f"{path}.mixer.") for key in like) else "seq"
        start = f"{path}.{name}."
        original = {key.removeprefix(start): like[key] for key in like if key.startswith(start)}
        written = write_layer(block.layer, original)
        arrays |= {start + key: array for key, array in written.items()}
        for gate_name, part in (("out1", block.gate.value), ("out2", block.gate.gate)):
            if part is not None:
                arrays |= linear_arrays(part, f"{path}.{gate_name}", like, torch=False)
        norm, start = block.norm, f"{path}.{norm_name}"
        arrays |= {f"{start}.scale": to_numpy(norm.scale), f"{start}.bias": to_numpy(norm.bias)}
        if isinstance(norm, BatchNorm):
            arrays[f"{start}.mean"] = to_numpy(norm.running.mean)
            arrays[f"{start}.var"] = to_numpy(norm.running.variance)
    if isinstance(model, Classifier):
        return arrays | linear_arrays(model.head, "decoder", like, torch=False)
    arrays |= linear_arrays(model.hidden, "decoder.layer1", like, torch=False)
    return arrays | linear_arrays(model.head, "decoder.layer2", like, torch=False)


def _gate(scope: Scope, options: ImportOptions) -> Gate:
    maps = tuple(f"{name}.kernel" in scope for name in ("out1", "out2"))
    fitting: dict[tuple[bool, ...], tuple[Activation, ...]] = {
        (True, True): ("full_glu",),
        (False, True): ("half_glu1", "half_glu2"),
        (False, False): ("gelu",),
    }
    if maps not in fitting:
        raise RunError(f"{scope.path}.out2.kernel is missing, although out1 is there")
    activation = options.activation or fitting[maps][0]
    if activation not in fitting[maps]:
        raise RunError(
            f"{scope.path} has the maps of {' or '.join(fitting[maps])}, not of {activation}"
        )
    value, gate = (
        linear(scope.child(name), "H", "H", torch=False) if there else None
        for name, there in zip(("out1", "out2"), maps, strict=True)
    )
    return Gate(value, gate, activation, options.gelu)


def _norm(scope: Scope, options: ImportOptions) -> Norm:
    names = {name.split(".")[0] for name in scope.names()}
    if not names & {"norm", "normalization"}:
        raise NotRepresentableError("its blocks have no norm")
    scope = scope.child("normalization" if "normalization" in names else "norm")
    if "mean" in scope:
        return batch_norm(
            scope,
            ("scale", "bias", "mean", "var"),
            momentum=options.norm_momentum,
            epsilon=options.norm_epsilon,
        )
    return layer_norm(scope, "scale", "bias", epsilon=options.norm_epsilon)
