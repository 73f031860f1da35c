"""What a file contains: arrays by name, and plain values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lastax._errors import RunError

# Deeper trees are not models; a pickle can even contain itself.
_DEEPEST = 60


class Position(int):
    """A place in a list. Other integers in a path are keys of dictionaries."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a file or folder.

    Attributes:
        container: kind of the file: `torch`, `safetensors`, `npz`, `msgpack`, `pickle`, `orbax` or
            `equinox`.
        arrays: arrays by name. Parts of a name are separated by dots, as in
            `params.encoder.layers_0.seq.B`. Large arrays of torch and safetensors files are mapped
            and read from the disk only when they are used.
        values: everything that is no array, by name.
        paths: the keys that lead to each array or value in the nested tree of the file. Places in
            lists are of the type `Position`.
    """

    container: str
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    paths: dict[str, tuple[str | int, ...]]


def contents_of(container: str, tree: Any) -> Contents:
    """Flatten nested mappings and sequences into arrays and plain values by name.

    Raises:
        RunError: if two names are equal, or the tree is nested too deeply.
    """
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    paths: dict[str, tuple[str | int, ...]] = {}

    def visit(node: Any, path: tuple[str | int, ...]) -> None:
        if len(path) > _DEEPEST:
            raise RunError(f"the tree is nested more than {_DEEPEST} levels deep")
        if isinstance(node, Mapping) and node:
            for key, child in node.items():
                visit(child, (*path, key if isinstance(key, str | int) else str(key)))
            return
        if isinstance(node, Sequence) and node and not isinstance(node, str | bytes):
            for position, child in enumerate(node):
                visit(child, (*path, Position(position)))
            return
        name = ".".join(map(str, path)).replace("/", ".")
        if name in paths:
            raise RunError(f"two entries are called {name!r}")
        paths[name] = path
        if isinstance(node, np.ndarray):
            arrays[name] = node
        else:
            values[name] = node

    visit(tree, ())
    return Contents(container, arrays, values, paths)


def nested(entries: Mapping[tuple[str | int, ...], Any]) -> Any:
    """Nested dictionaries and lists from the keys that lead to each entry."""
    tree: dict[str | int, Any] = {}
    for path, value in entries.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return _with_lists(tree)


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    children = {key: _with_lists(child) for key, child in node.items()}
    if children and all(isinstance(key, Position) for key in children):
        return [children[position] for position in sorted(children)]
    return children
