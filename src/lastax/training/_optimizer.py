"""The optimizer, and the group of each parameter."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import optax

from lastax._typing import Array, Model
from lastax.training._schedules import Schedule

Group = Literal["ssm", "ssm_decay", "regular"]

# Parameters that determine the eigenvalues, for every kind of layer.
_EIGENVALUES = (
    *("Lambda_re", "Lambda_im", "log_decay", "log_step"),
    *("nu_log", "theta_log", "gamma_log"),
)

_DYNAMICS: Mapping[str, Group] = dict.fromkeys(_EIGENVALUES, "ssm")

# The four rules of the published experiments, by their published names. The group `ssm` has the
# learning rate of the dynamics and no decay, `ssm_decay` the same rate with decay. All other
# parameters are `regular`: the global rate with decay, norms and biases included.
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
    """The group of every parameter, by its name, in a tree of the same structure.

    Args:
        parameters: the trainable half of `split_trainable`.
        grouping: a name in `GROUPINGS`.
        step_size_global: put the step sizes in the regular group, as published for Text and
            Retrieval. Weight decay then pulls their logarithms to 0.

    Raises:
        ValueError: if there is no such grouping.
    """
    if grouping not in GROUPINGS:
        raise ValueError(
            f"parameter_groups: no grouping {grouping!r}; choose one of {', '.join(GROUPINGS)}"
        )
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

    Decay is decoupled: a step subtracts `rate * weight_decay * parameter`. Adam has the default
    constants of optax (0.9, 0.999, 1e-8).

    Args:
        learning_rate: rate of the regular parameters, or a schedule.
        ssm_learning_rate: rate of the dynamics, or a schedule.
        weight_decay: decoupled weight decay.
        grouping: as for `parameter_groups`.
        step_size_global: as for `parameter_groups`.
    """
    transforms = {
        "ssm": optax.adam(ssm_learning_rate),
        "ssm_decay": optax.adamw(ssm_learning_rate, weight_decay=weight_decay),
        "regular": optax.adamw(learning_rate, weight_decay=weight_decay),
    }
    # optax would call a tree of labels that is a callable module, so it gets a function.
    return optax.multi_transform(
        transforms,
        lambda parameters: parameter_groups(
            parameters, grouping=grouping, step_size_global=step_size_global
        ),
    )
