"""Folders of Orbax checkpoints."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from lastax._errors import RunError

# Names of the part with the arrays, within the folder of a step.
_PARTS = ("state", "default", "params", "ckpt", "model", "items")
_MARKS = ("_METADATA", "_sharding", "manifest.ocdbt")


def read_orbax(folder: Path) -> Any:
    """The tree of arrays of an Orbax checkpoint.

    Args:
        folder: the folder of the arrays, of a step, or of a `CheckpointManager`, whose last step is
            read.

    Raises:
        RunError: if Orbax is not installed, or the folder has no checkpoint.
    """
    try:
        # Imported here: it takes seconds, and only these folders need it.
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise RunError("Orbax folders need the package orbax-checkpoint; install it") from error
    folder = _array_folder(folder).resolve()
    checkpointer = orbax.PyTreeCheckpointer()
    metadata = checkpointer.metadata(folder)
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    arguments = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), tree)
    return checkpointer.restore(folder, restore_args=arguments)


def _array_folder(folder: Path) -> Path:
    if any((folder / mark).exists() for mark in _MARKS):
        return folder
    steps = [child for child in folder.iterdir() if child.is_dir() and child.name.isdigit()]
    if steps:
        return _array_folder(max(steps, key=lambda step: int(step.name)))
    for part in _PARTS:
        if (folder / part).is_dir():
            return _array_folder(folder / part)
    raise RunError(f"the folder has no Orbax checkpoint: none of {', '.join(_MARKS)} is in it")
