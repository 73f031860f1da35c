"""Settings of a network that the files of a format do not contain."""

from typing import Any

from lastax.interop._format import Format
from lastax.nn._configuration import DISCRETIZATIONS
from lastax.nn._networks import Classifier, Retrieval
from lastax.surgery._layers import find_layers

# What a gate without a given activation is read as.
_ACTIVATIONS = {"half_glu2": "half_glu1"}


def unstored_settings(model: Any, chosen: Format) -> dict[str, Any]:
    """The settings that differ from those with which a file of the format is read by default.

    The outputs depend on them. Whoever loads the file must set them.

    Args:
        model: a network, one layer, or layers by path.
        chosen: the format.
    """
    return {
        name: value
        for name, value, default in _with_defaults(model, chosen)
        if name in chosen.options and value != default
    }


def _with_defaults(model: Any, chosen: Format) -> list[tuple[str, Any, Any]]:
    """Names, values and defaults of the settings of layers, and of the network if it is one."""
    options = chosen.options
    rules = {function: name for name, function in DISCRETIZATIONS.items()}
    settings: list[tuple[str, Any, Any]] = []
    for layer in find_layers(model):
        fields: Any = layer
        if hasattr(fields, "discretize"):
            rule = rules.get(fields.discretize, "another rule")
            settings.append(("discretization", rule, options.get("discretization")))
        if hasattr(fields, "conj_sym"):
            settings.append(("conj_sym", fields.conj_sym, options.get("conj_sym") is not False))
        if hasattr(fields, "clip_eigenvalues"):
            clips = options.get("clip_eigenvalues")
            settings.append(("clip_eigenvalues", fields.clip_eigenvalues, clips))
    if not isinstance(model, Classifier | Retrieval):
        return settings
    encoder = model.encoder
    settings.append(("pooling", encoder.pooling, options.get("pooling")))
    settings.append(("mask_padding", encoder.mask_padding, options.get("mask_padding")))
    for block in encoder.blocks:
        gate, norm = block.gate, block.norm
        epsilon = options.get("norm_epsilon")
        if epsilon is None:
            epsilon = type(norm).epsilon
        activation = _ACTIVATIONS.get(gate.activation, gate.activation)
        settings.append(("prenorm", block.prenorm, options.get("prenorm") is not False))
        settings.append(("activation", gate.activation, options.get("activation") or activation))
        settings.append(("gelu", gate.gelu, options.get("gelu")))
        settings.append(("norm_epsilon", norm.epsilon, epsilon))
    return settings
