"""Remove states of a model from the state of its optimizer too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PyTree

from lastax._typing import Array, Model
from lastax.nn._layer import Layer
from lastax.surgery._adoption import adopted
from lastax.surgery._layers import find_layers, layer_identity, layer_nodes
from lastax.surgery._states import keep_states

_NAME = "keep_states_with_optimizer"

_Path = tuple[Any, ...]


def keep_states_with_optimizer(
    model: Model, optimizer_state: PyTree, keep: Sequence[Bool[np.ndarray, " _"]]
) -> tuple[Model, PyTree]:
    """Remove states from a model and from the state of its optimizer, to continue training.

    Arrays of the optimizer state are found by the path of their parameter, as in
    `mu.encoder.blocks[0].layer.B`. They may have further leading axes (the memory of L-BFGS) or
    lack one axis (the factors of Adafactor). Everything else stays.

    Args:
        model: any PyTree that contains layers.
        optimizer_state: what `optimizer.init` or `optimizer.update` of Optax returned for the
            parameters of `model`. Every transformation that keeps trees of parameters is
            supported, also in `optax.chain`, `masked`, `multi_transform` and `MultiSteps`.
            Adafactor chooses the axes of its factors by their lengths; if the choice changes, it
            needs a new state.
        keep: one mask per layer, in the order of `find_layers`, for example `plan.keep` or
            `report.keep`.

    Returns:
        The smaller model, as from `keep_states`, and the optimizer state for it.

    Raises:
        ValueError: if the masks do not suit the model, if the optimizer state is not one for the
            parameters of `model`, or if an array of it belongs to a parameter that shrinks, but in
            a way that its shape does not tell.
    """
    if adopted(model) is not model:
        raise ValueError(
            "keep_states_with_optimizer: the model has layers of discretax, whose parameters are "
            "arranged otherwise; train lastax.interop.adopt(model) instead"
        )
    small = keep_states(model, keep)
    _check_optimizer_state(model, optimizer_state)
    masks = dict(zip(map(layer_identity, find_layers(model)), keep, strict=True))
    parameters: dict[_Path, _Parameter] = {}
    for place, layer in layer_nodes(model):
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer):
            mask = masks[layer_identity(layer)]
            parameters[(*place, *path)] = _Parameter(layer, mask, path, jnp.shape(leaf))

    def shrink(path: _Path, leaf: PyTree) -> PyTree:
        for start in range(len(path)):
            if (parameter := parameters.get(path[start:])) is not None:
                return _shrunk(jax.tree_util.keystr(path), leaf, parameter)
        inner = (path[i:j] for j in range(len(path)) for i in range(j))
        if any(one in parameters for one in inner) and jnp.size(leaf) > 1:
            raise _unclear(jax.tree_util.keystr(path), leaf)
        return leaf

    shrunk = jax.tree_util.tree_map_with_path(shrink, optimizer_state)
    return small, _with_static_fields_of(dict(layer_nodes(small)), shrunk)


def _check_optimizer_state(model: PyTree, optimizer_state: PyTree) -> None:
    """Refuse a state whose arrays belong to no parameter of the model; they would not follow it.

    A state without arrays of several values, as that of plain gradient descent, suits every model.
    """
    # Optax takes a tenth of a second to load, for all commands.
    if callable(getattr(optimizer_state, "update", None)):
        raise ValueError(f"{_NAME}: got an optimizer; pass its state, from optimizer.init(...)")
    own = {path for path, _ in jax.tree_util.tree_leaves_with_path(model)}
    arrays = [
        path
        for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer_state)
        if np.size(leaf) > 1
    ]
    if arrays and not any(path[i:] in own for path in arrays for i in range(len(path))):
        raise ValueError(
            f"{_NAME}: no array of the optimizer state has the path of a parameter of the model, "
            f"for example {jax.tree_util.keystr(arrays[0])}; start with a new state, "
            "optimizer.init(equinox.filter(model, equinox.is_inexact_array))"
        )


class _Parameter(NamedTuple):
    """An array of a layer, and the states that the layer keeps."""

    layer: Layer
    mask: Bool[np.ndarray, " _"]
    path: _Path
    shape: tuple[int, ...]

    def keep(self, value: Array) -> Array:
        """The part of `value` that remains when it stands in the place of the parameter."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(self.layer)
        holding = [value if path == self.path else leaf for path, leaf in leaves]
        small = jax.tree.unflatten(structure, holding).keep(self.mask)
        return dict(jax.tree_util.tree_leaves_with_path(small))[self.path]


def _shrunk(name: str, leaf: PyTree, parameter: _Parameter) -> PyTree:
    shape, own = jnp.shape(leaf), parameter.shape
    extra = len(shape) - len(own)
    if extra >= 0 and shape[extra:] == own:
        keep: Callable[[Array], Array] = parameter.keep
        for _ in range(extra):
            keep = jax.vmap(keep)
        return keep(leaf)
    # A factor of the second moment lacks one axis. With axes of equal length several may fit.
    fitting = [axis for axis in range(len(own)) if own[:axis] + own[axis + 1 :] == shape]
    if fitting:
        found = [
            parameter.keep(jnp.broadcast_to(jnp.expand_dims(leaf, axis), own)).take(0, axis)
            for axis in fitting
        ]
        if any(one.shape != found[0].shape for one in found):
            raise _unclear(name, leaf)
        return found[0]
    if jnp.size(leaf) > 1:
        raise _unclear(name, leaf)
    return leaf


def _with_static_fields_of(layers: Mapping[_Path, Layer], tree: PyTree) -> PyTree:
    """The tree, whose copies of layers have the static fields of the layers that they belong to."""
    copies = {}
    for path, node in layer_nodes(tree):
        places = (path[start:] for start in range(len(path) + 1))
        layer = next((layers[place] for place in places if place in layers), None)
        if layer is not None:
            copies[id(node)] = _joined(node, layer)
    return jax.tree.map(
        lambda node: copies.get(id(node), node), tree, is_leaf=lambda node: id(node) in copies
    )


def _joined(node: PyTree, layer: PyTree) -> PyTree:
    """The arrays of `node` in the structure of `layer`, where both have nodes of the same type."""
    if type(node) is not type(layer) or jax.tree_util.all_leaves([node, layer]):
        return node
    parts = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
    others, structure = jax.tree.flatten(layer, is_leaf=lambda part: part is not layer)
    return jax.tree.unflatten(structure, list(map(_joined, parts, others)))


def _unclear(name: str, leaf: PyTree) -> ValueError:
    return ValueError(
        f"{_NAME}: {name} of the optimizer state has shape {jnp.shape(leaf)}, which does not tell "
        "how it follows the states of its layer; start with a new state, optimizer.init(...)"
    )
