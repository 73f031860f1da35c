"""Settings of a model that the files of a format do not contain."""

from typing import Any

from lastax.interop._format import Format
from lastax.interop._read import most_on_one_side
from lastax.interop._scope import NotRepresentableError
from lastax.nn._configuration import DISCRETIZATIONS
from lastax.nn._networks import Classifier, Retrieval
from lastax.nn._s5 import S5
from lastax.surgery._layers import find_layers

# What a gate is read as, if its activation is not given.
_READ_AS = {"half_glu2": "half_glu1"}


def unstored_settings(model: Any, chosen: Format, like: Any = None) -> dict[str, Any]:
    """The settings that whoever loads the file must set, because the outputs depend on them.

    Args:
        model: a network, one layer, or layers by path.
        chosen: the format.
        like: the model that the original file was read as. If it is given, the settings that
            differ from its settings; otherwise those that differ from the defaults of `read`.

    Raises:
        NotRepresentableError: if the discretization of a layer has no name.
    """
    own = _settings(model, chosen)
    if like is None:
        return {name: value for name, (value, default) in own.items() if value != default}
    known = _settings(like, chosen)
    return {
        name: value for name, (value, _) in own.items() if name in known and value != known[name][0]
    }


def _settings(model: Any, chosen: Format) -> dict[str, tuple[Any, Any]]:
    """The settings that are options of the format, and what `read` assumes by default.

    Where layers or blocks differ, one that differs from the default stands for all.
    """
    settings: dict[str, tuple[Any, Any]] = {}

    def add(name: str, value: Any, default: Any = None) -> None:
        if name not in chosen.options:
            return
        if chosen.options[name] is not None:
            default = chosen.options[name]
        if name not in settings or value != default:
            settings[name] = value, default

    layers = [layer for layer in find_layers(model) if isinstance(layer, S5)]
    one_side = most_on_one_side(layer.Lambda_im for layer in layers)
    for layer in layers:
        rules = [name for name, rule in DISCRETIZATIONS.items() if rule is layer.discretize]
        if not rules:
            raise NotRepresentableError("a layer has a discretization rule of your own")
        add("discretization", rules[0])
        add("conj_sym", layer.conj_sym, one_side)
        add("clip_eigenvalues", layer.clip_eigenvalues)
    if isinstance(model, Classifier | Retrieval):
        add("pooling", model.encoder.pooling)
        add("mask_padding", model.encoder.mask_padding)
        for block in model.encoder.blocks:
            gate, norm = block.gate, block.norm
            add("prenorm", block.prenorm, True)
            add("activation", gate.activation, _READ_AS.get(gate.activation, gate.activation))
            add("gelu", gate.gelu)
            add("norm_epsilon", norm.epsilon, type(norm).epsilon)
    if isinstance(model, Retrieval):
        add("gelu", model.gelu)
    return settings
