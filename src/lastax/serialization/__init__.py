"""Saving and loading models and other PyTrees."""

from lastax._errors import RunError as RunError
from lastax.serialization._arrays import named_arrays as named_arrays
from lastax.serialization._arrays import with_named_arrays as with_named_arrays
from lastax.serialization._files import folder_written_at_once as folder_written_at_once
from lastax.serialization._files import write_atomically as write_atomically
from lastax.serialization._save import MODEL_FILE as MODEL_FILE
from lastax.serialization._save import STRUCTURE_FILE as STRUCTURE_FILE
from lastax.serialization._save import load as load
from lastax.serialization._save import load_arrays as load_arrays
from lastax.serialization._save import save as save

__all__ = [
    "MODEL_FILE",
    "STRUCTURE_FILE",
    "RunError",
    "folder_written_at_once",
    "load",
    "load_arrays",
    "named_arrays",
    "save",
    "with_named_arrays",
    "write_atomically",
]
