"""One training step: a pure function of a state and a batch.

A batch is a mapping of arrays with a leading batch axis: `x`, `label`, and `length` (number of
steps that are not padding) if sequences are padded.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from lastax._typing import Array, Batch, PRNGKeyArray
from lastax.nn._networks import Network
from lastax.nn._normalization import split_trainable
from lastax.nn._precision import FULL_PRECISION
from lastax.nn._prediction import predict
from lastax.training._losses import cross_entropy, kl_divergence
from lastax.training._state_penalty import SystemPenalty, state_penalty


class TrainState(eqx.Module):
    """Everything that a training step changes.

    Attributes:
        model: the network, with its running statistics.
        optimizer_state: state of the optimizer.
        step: number of steps done.
    """

    model: Network
    optimizer_state: optax.OptState
    step: Int[Array, ""]

    @classmethod
    def initialize(cls, model: Network, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step."""
        parameters, _ = split_trainable(model)
        return cls(model, optimizer.init(parameters), jnp.zeros((), jnp.int32))


class StepMetrics(NamedTuple):
    """Mean loss and accuracy (from 0 to 1) of a batch during training."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    label_smoothing: float = 0.0,
    penalty: SystemPenalty | None = None,
    penalty_weight: optax.ScalarOrSchedule = 0.0,
    remat: bool = False,
    scan_layers: bool = False,
    teacher: Network | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One update on one batch.

    Args:
        state: the state before.
        batch: arrays with a leading batch axis.
        optimizer: the optimizer of `state`.
        key: random key of the run; the key of the step is derived from it.
        label_smoothing: share of the target that is spread over all classes.
        penalty: penalty of a system whose mean over all layers is added to the loss.
        penalty_weight: weight of this mean, or a function from the number of steps done to it.
        remat: compute the inside of each block again in the backward pass, to save memory.
        scan_layers: apply adjacent blocks of equal shapes in a `jax.lax.scan`, whose body is
            compiled once.
        teacher: a network whose outputs replace the labels: the loss is the KL divergence from
            them (distillation; Hinton et al., 2015).

    Returns:
        The state after, and the metrics of the batch.

    Raises:
        ValueError: if the batch has a `weight`, as evaluation batches have. Rows that only fill a
            batch would take part in the batch statistics.
    """
    if "weight" in batch:
        raise ValueError(
            "train_step: the batch has a weight, which only evaluation uses; leave it out, and the "
            "rows that only fill the batch"
        )
    parameters, rest = split_trainable(state.model)
    label = jnp.asarray(batch["label"])
    keys = jax.random.split(jax.random.fold_in(key, state.step), label.shape[0])

    def loss_of(parameters: Network) -> tuple[Array, tuple[Array, Network]]:
        model = eqx.combine(parameters, rest)
        logits, moved = eqx.filter_vmap(
            lambda x, length, key: model.forward(
                x, length, key=key, axis="batch", remat=remat, scan_layers=scan_layers
            ),
            in_axes=(0, eqx.if_array(0), 0),
            out_axes=(0, None),
            axis_name="batch",
        )(batch["x"], batch.get("length"), keys)
        if teacher is None:
            loss = jnp.mean(cross_entropy(logits, label, label_smoothing))
        else:
            loss = jnp.mean(kl_divergence(predict(teacher, batch), logits))
        if penalty is not None:
            weight = penalty_weight(state.step) if callable(penalty_weight) else penalty_weight
            loss = loss + weight * state_penalty(model, penalty)
        return loss, (logits, split_trainable(moved)[1])

    # The network chooses the precision of its own products.
    with FULL_PRECISION.active():
        (loss, (logits, rest)), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, parameters)
    parameters = optax.apply_updates(parameters, updates)
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == label)
    moved_state = TrainState(eqx.combine(parameters, rest), optimizer_state, state.step + 1)
    return moved_state, StepMetrics(loss, accuracy)
