"""Models of other people's code: reading their checkpoints, and writing pruned ones back.

`read` recognizes the file and the format, and returns a network or single layers of lastax. No
torch, Flax or discretax is needed, and nothing in a file is executed. `write` stores a model under
the names of the foreign code.
"""

from lastax._errors import MissingPackageError as _MissingPackageError

try:
    import msgpack as _msgpack  # noqa: F401
except ModuleNotFoundError as _error:
    raise _MissingPackageError("lastax.interop", _error) from _error

from lastax.interop._adopt import AdoptedLRU as AdoptedLRU
from lastax.interop._adopt import AdoptedS4D as AdoptedS4D
from lastax.interop._adopt import AdoptedS5 as AdoptedS5
from lastax.interop._adopt import adopt as adopt
from lastax.interop._configuration import configuration_of as configuration_of
from lastax.interop._contents import Contents as Contents
from lastax.interop._format import Format as Format
from lastax.interop._format import LayerFormat as LayerFormat
from lastax.interop._formats import FORMATS as FORMATS
from lastax.interop._import_run import ImportedRun as ImportedRun
from lastax.interop._import_run import export_run as export_run
from lastax.interop._import_run import foreign_data_config as foreign_data_config
from lastax.interop._import_run import import_run as import_run
from lastax.interop._open import open_contents as open_contents
from lastax.interop._options import ImportOptions as ImportOptions
from lastax.interop._read import Imported as Imported
from lastax.interop._read import read as read
from lastax.interop._write import Pad as Pad
from lastax.interop._write import write as write

__all__ = [
    "FORMATS",
    "AdoptedLRU",
    "AdoptedS4D",
    "AdoptedS5",
    "Contents",
    "Format",
    "ImportOptions",
    "Imported",
    "ImportedRun",
    "LayerFormat",
    "Pad",
    "adopt",
    "configuration_of",
    "export_run",
    "foreign_data_config",
    "import_run",
    "open_contents",
    "read",
    "write",
]
