"""Find the state-space layers of any PyTree and replace them with smaller ones."""

from lastax.surgery._check_layer import LayerCheck as LayerCheck
from lastax.surgery._check_layer import check_layer as check_layer
from lastax.surgery._counts import keep_count as keep_count
from lastax.surgery._layers import UnstableStatesWarning as UnstableStatesWarning
from lastax.surgery._layers import find_layers as find_layers
from lastax.surgery._layers import replace_layers as replace_layers
from lastax.surgery._layers import state_counts as state_counts
from lastax.surgery._layers import systems as systems
from lastax.surgery._optimizer import keep_states_with_optimizer as keep_states_with_optimizer
from lastax.surgery._states import expand_to_original as expand_to_original
from lastax.surgery._states import keep_states as keep_states
from lastax.surgery._states import with_dense_feedthrough as with_dense_feedthrough
from lastax.surgery._states import write_systems as write_systems

__all__ = [
    "LayerCheck",
    "UnstableStatesWarning",
    "check_layer",
    "expand_to_original",
    "find_layers",
    "keep_count",
    "keep_states",
    "keep_states_with_optimizer",
    "replace_layers",
    "state_counts",
    "systems",
    "with_dense_feedthrough",
    "write_systems",
]
