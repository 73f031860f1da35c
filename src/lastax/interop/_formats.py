"""All formats, in the order in which they are tried."""

from collections.abc import Mapping
from types import MappingProxyType

from lastax.interop._discretax import DISCRETAX
from lastax.interop._format import Format
from lastax.interop._linoss import LINOSS
from lastax.interop._lru import JAX_RTRL, MINIMAL_LRU
from lastax.interop._s4 import S4
from lastax.interop._s5 import S5_FLAX
from lastax.interop._s5_pytorch import S5_PYTORCH

# A new format needs one entry here.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        entry.name: entry
        for entry in (S4, S5_FLAX, S5_PYTORCH, MINIMAL_LRU, DISCRETAX, JAX_RTRL, LINOSS)
    }
)
