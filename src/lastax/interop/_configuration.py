"""The configuration that describes a given network."""

from typing import Any

import equinox as eqx
import jax

from lastax.interop._padding import state_size
from lastax.nn._configuration import DISCRETIZATIONS, ModelConfig, build_network
from lastax.nn._lru import LRU
from lastax.nn._networks import Classifier, Network, Retrieval
from lastax.nn._normalization import BatchNorm
from lastax.nn._precision import precision_name
from lastax.nn._s4d import S4D
from lastax.nn._s5 import S5

_LAYERS = ((S5, "s5"), (S4D, "s4d"), (LRU, "lru"))


def configuration_of(network: Network) -> ModelConfig:
    """The configuration from which `build_network` makes a network of the same structure.

    Settings of the initial values and of layers of another kind have their defaults.

    Args:
        network: a network that was not pruned.

    Returns:
        The configuration.

    Raises:
        ValueError: if no configuration describes it, for example because its blocks differ.
    """
    blocks = network.encoder.blocks
    first = blocks[0]
    layer: Any = first.layer
    kinds = [name for kind, name in _LAYERS if isinstance(layer, kind)]
    if not kinds:
        raise ValueError(f"configuration_of: unknown layer {type(layer).__name__}")
    settings: dict[str, Any] = {
        "layer": kinds[0],
        "layers": len(blocks),
        "channels": network.encoder.embed.weight.shape[1],
        "states": state_size(layer),
        "bidirectional": layer.C_reverse is not None,
        "activation": first.gate.activation,
        "gelu": first.gate.gelu,
        "norm": "batch" if isinstance(first.norm, BatchNorm) else "layer",
        "norm_epsilon": first.norm.epsilon,
        "prenorm": first.prenorm,
        "dropout": first.dropout,
        "pooling": network.encoder.pooling,
        "mask_padding": network.encoder.mask_padding,
        "head": "classifier" if isinstance(network, Classifier) else "retrieval",
    }
    precision = precision_name(network.encoder.precision)
    if precision is not None:
        settings["precision"] = precision
    if isinstance(first.norm, BatchNorm):
        settings["norm_momentum"] = first.norm.momentum
    if isinstance(layer, S5 | S4D):
        rules = {rule: name for name, rule in DISCRETIZATIONS.items()}
        settings["discretization"] = rules[layer.discretize]
    if isinstance(layer, S5):
        settings["clip_eigenvalues"] = layer.clip_eigenvalues
        settings["conj_sym"] = layer.conj_sym
    if isinstance(layer, S4D):
        settings["train_b"] = layer.B is not None
    config = ModelConfig(**settings)
    built = eqx.filter_eval_shape(
        build_network,
        config,
        input_size=network.encoder.embed.weight.shape[0],
        classes=network.head.weight.shape[1],
        key=jax.random.key(0),
    )
    if _shapes(built) != _shapes(network):
        raise ValueError(
            "configuration_of: no configuration describes this network; save it with lastax.save"
        )
    return config


def _shapes(network: Classifier | Retrieval) -> tuple[Any, list[Any]]:
    leaves, structure = jax.tree.flatten(network)
    return structure, [leaf.shape for leaf in leaves]
