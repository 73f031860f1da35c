"""Settings of a foreign network that its file does not contain."""

import dataclasses
from typing import Literal

from lastax._settings import setting
from lastax.nn._blocks import Activation, Gelu
from lastax.nn._encoder import Pooling


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Settings of a foreign network that its file does not contain.

    Every format accepts some of them, with defaults of its own: see `FORMATS`. None stands for
    what the names and values in the file suggest.
    """

    prenorm: bool | None = setting(None, "Normalization before the layer instead of after the sum.")
    activation: Activation | None = setting(None, "Nonlinearity after each layer.")
    gelu: Gelu = setting("tanh", "Form of GELU.")
    norm_epsilon: float | None = setting(None, "Number added to variances.")
    norm_momentum: float = setting(
        0.95, "Weight of old running statistics per training step.", below=1.0
    )
    dropout: float | None = setting(None, "Dropout rate.", below=1.0)
    pooling: Pooling = setting("mean", "Pooling over time.")
    mask_padding: bool = setting(False, "Exclusion of padding from statistics and recurrences.")
    conj_sym: bool | None = setting(None, "One stored state per conjugate pair.")
    discretization: Literal["zoh", "bilinear"] = setting("zoh", "Discretization rule.")
    clip_eigenvalues: bool = setting(False, "Clipping of eigenvalues to negative real parts.")
    step_rescale: float = setting(1.0, "Factor on all step sizes.")
    oscillator: Literal["imex", "im"] = setting("imex", "Integration of the oscillators.")


# Options of single layers; the others are of networks.
LAYER_OPTIONS = frozenset(
    {"conj_sym", "discretization", "clip_eigenvalues", "step_rescale", "oscillator"}
)
