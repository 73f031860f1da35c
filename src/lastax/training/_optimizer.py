"""The optimizer: which parameters learn how fast, and how the rate moves over a run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import optax

from lastax._typing import Array, Model
from lastax.training._schedules import Schedule

Group = Literal["ssm", "ssm_decay", "regular"]

# What moves the eigenvalues, of every kind of layer.
_EIGENVALUES = (
    *("Lambda_re", "Lambda_im", "log_decay", "log_step"),
    *("nu_log", "theta_log", "gamma_log"),
)

_DYNAMICS: Mapping[str, Group] = dict.fromkeys(_EIGENVALUES, "ssm")

# The four rules of the published experiments, by their published names. Groups: `ssm` has the
# layers' own rate and no decay, `ssm_decay` that rate with decay; what is not named here is
# `regular`: the global rate, with decay, norms and biases included.
GROUPINGS: Mapping[str, Mapping[str, Group]] = MappingProxyType(
    {
        "standard": {**_DYNAMICS, "B": "ssm"},
        "BandCdecay": {**_DYNAMICS, "B": "ssm_decay"},
        "BfastandCdecay": {**_DYNAMICS},
        "noBCdecay": {**_DYNAMICS, "B": "ssm", "C": "ssm", "C_reverse": "ssm", "D": "ssm"},
    }
)


def parameter_groups(
    parameters: Model, *, grouping: str = "standard", step_size_global: bool = False
) -> Model:
    """The group of every parameter, decided by its name alone, in a tree like `parameters`.

    Args:
        parameters: the trainable half of `split_trainable`.
        grouping: a name in `GROUPINGS`.
        step_size_global: move the step sizes to the regular group, as published for Text and
            Retrieval: weight decay then pulls their logarithms to 0.

    Raises:
        ValueError: if there is no such grouping.
    """
    if grouping not in GROUPINGS:
        raise ValueError(f"no parameter grouping {grouping!r}; there are {', '.join(GROUPINGS)}")
    groups = dict(GROUPINGS[grouping])
    if step_size_global:
        groups.pop("log_step")

    def group(path: tuple[Any, ...], leaf: Array) -> Group:
        del leaf
        return groups.get(getattr(path[-1], "name", ""), "regular")

    return jax.tree_util.tree_map_with_path(group, parameters)


def make_optimizer(
    learning_rate: Schedule | float,
    ssm_learning_rate: Schedule | float,
    *,
    weight_decay: float,
    grouping: str = "standard",
    step_size_global: bool = False,
) -> optax.GradientTransformation:
    """Adam without decay for the layers' dynamics, AdamW for everything else.

    Decay is decoupled: a step takes `rate * weight_decay * parameter` off. Adam's constants are
    optax's own (0.9, 0.999, 1e-8). Groups: `parameter_groups`.
    """
    transforms = {
        "ssm": optax.adam(ssm_learning_rate),
        "ssm_decay": optax.adamw(ssm_learning_rate, weight_decay=weight_decay),
        "regular": optax.adamw(learning_rate, weight_decay=weight_decay),
    }
    # A function, not its result: optax would call a tree of labels that is a callable module.
    return optax.multi_transform(
        transforms,
        lambda parameters: parameter_groups(
            parameters, grouping=grouping, step_size_global=step_size_global
        ),
    )
