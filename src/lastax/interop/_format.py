"""The description of a format: which arrays a layer and a network have, and what they become."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lastax.interop._options import ImportOptions
from lastax.interop._scope import Scope
from lastax.nn._layer import Layer
from lastax.nn._networks import Network

# Arrays by relative name.
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LayerFormat:
    """One kind of layer in a file.

    Attributes:
        names: relative names that all such layers have, and by which they are found.
        read: makes the layer from the arrays at its path.
        write: the arrays of a layer by relative name. Where one layer can be written in several
            ways, the second argument, the arrays of the original file, decides. Raises
            `NotRepresentableError`.
    """

    names: tuple[str, ...]
    read: Callable[[Scope, ImportOptions], Layer]
    write: Callable[[Any, Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(frozen=True)
class Format:
    """A way in which somebody else's code stores its models.

    Attributes:
        name: name of the format.
        title: what it is, for lists.
        layers: the kinds of layers.
        options: the options that it accepts, with their defaults.
        network: regular expression for one array of each layer of a network; its first group is
            the path of the network. None if only layers are read.
        read_network: makes the network. Raises `NotRepresentableError` if lastax has no such
            network.
        write_network: the arrays of a network by name.
        container: kind of file that the code reads.
        flax: whether arrays are in nested trees `params` and `batch_stats`, else in one dictionary
            by name.
        root: keys around this dictionary.
        data: settings of data sets (`DataConfig`) with which inputs are scaled as by the foreign
            code, by name of the data set, where the project has another default.
    """

    name: str
    title: str
    layers: tuple[LayerFormat, ...]
    options: Mapping[str, Any]
    network: str | None = None
    read_network: Callable[[Scope, ImportOptions], Network] | None = None
    write_network: Callable[[Any, Mapping[str, np.ndarray]], Arrays] | None = None
    container: str = "safetensors"
    flax: bool = False
    root: tuple[str, ...] = ()
    data: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
