"""Saving and loading a model, or any other PyTree, in one line."""

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from lastax._errors import RunError
from lastax.serialization._arrays import named_arrays, with_named_arrays
from lastax.serialization._files import write_atomically
from lastax.serialization._structure import build, describe

MODEL_FILE = "model.safetensors"
STRUCTURE_FILE = "structure.json"

_DTYPES = "dtypes"
_COMPLEX = {"complex64": np.float32, "complex128": np.float64}


def save(folder: str | Path, model: Any) -> None:
    """Write a model, or any other PyTree of arrays, to a folder.

    `model.safetensors` holds the arrays by their paths in the tree. If the tree is made of
    lastax's own modules, `structure.json` holds everything else, and `load(folder)` needs no
    template. Other trees, for example a model of your own or `(model, optimizer_state)`, are
    loaded with `load(folder, like=...)`.

    Args:
        folder: created if it does not exist; an earlier model in it is replaced.
        model: any PyTree.

    Raises:
        RunError: if the folder cannot be written.
        ValueError: if the tree contains no array.
    """
    folder = Path(folder)
    arrays = {name: _to_host(value) for name, value in named_arrays(model).items()}
    if not arrays:
        raise ValueError(f"save: this {type(model).__name__} contains no array")
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    content = safetensors.numpy.save(
        {name: _encoded(array) for name, array in arrays.items()}, {_DTYPES: json.dumps(dtypes)}
    )
    try:
        structure: bytes | None = json.dumps(describe(model), indent=1).encode()
    except TypeError:
        structure = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Removed first: a structure never stands beside arrays of another model.
        (folder / STRUCTURE_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"save: cannot write {folder}: {error.strerror}") from error
    write_atomically(folder / MODEL_FILE, content)
    if structure is not None:
        write_atomically(folder / STRUCTURE_FILE, structure)


def load(folder: str | Path, like: Any = None) -> Any:
    """Read what `save` wrote, or the model of a run.

    Args:
        folder: a folder that `save` wrote, or a run of `lastax train` or `lastax prune`.
        like: a tree of the same structure whose arrays are replaced; shapes
            (`jax.ShapeDtypeStruct`, `eqx.filter_eval_shape`) are enough. Not needed for networks
            of lastax.

    Returns:
        The tree with the stored arrays, as JAX arrays. Without `jax_enable_x64`, JAX rounds 64-bit
        numbers to 32 bits.

    Raises:
        RunError: if the folder holds no model, needs `like`, or is damaged or of another model.
    """
    folder = Path(folder)
    path, structure = folder / MODEL_FILE, folder / STRUCTURE_FILE
    if not path.is_file():
        raise RunError(f"load: no model in {folder}: there is no {MODEL_FILE}")
    if like is None:
        if not structure.is_file():
            raise RunError(
                f"load: {folder} holds arrays without a structure; pass like=, a tree of the same "
                "structure (for a run of an older version use lastax.training.load_run)"
            )
        try:
            like = build(json.loads(structure.read_text()))
        except (ValueError, TypeError, OSError) as error:
            raise RunError(f"load: {structure} is damaged: {error}") from error
    try:
        return with_named_arrays(like, load_arrays(path))
    except (ValueError, OSError, safetensors.SafetensorError) as error:
        raise RunError(f"load: {path} does not fit or is damaged: {error}") from error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `model.safetensors`, by name.

    Raises:
        OSError: if the file cannot be read.
        safetensors.SafetensorError: if it is damaged.
    """
    with safetensors.safe_open(path, "np") as file:
        dtypes = json.loads((file.metadata() or {}).get(_DTYPES, "{}"))
    stored = safetensors.numpy.load_file(path)
    return {name: _decoded(array, dtypes.get(name)) for name, array in stored.items()}


def _to_host(array: Any) -> np.ndarray:
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError("save: the tree contains a random key; store jax.random.key_data(key)")
    return np.asarray(array)


def _encoded(array: np.ndarray) -> np.ndarray:
    """As a type that safetensors has: complex numbers as pairs, bfloat16 as its bits."""
    if array.dtype.name in _COMPLEX:
        return np.stack([array.real, array.imag], axis=-1)
    if array.dtype == ml_dtypes.bfloat16:
        return array.view(np.uint16)
    # `ascontiguousarray` gives scalars an axis.
    return np.ascontiguousarray(array).reshape(array.shape)


def _decoded(array: np.ndarray, dtype: str | None) -> np.ndarray:
    if dtype in _COMPLEX:
        return np.ascontiguousarray(array).view(dtype)[..., 0]
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return array.view(ml_dtypes.bfloat16)
    return array
