"""One step of training, one of evaluation: pure functions of a model and a batch.

A batch is a mapping of arrays with a leading batch axis: `x`, `label`, and, where they apply,
`length` (steps that are not padding) and `weight` (0 for rows that only fill the batch up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from lastax._networks import Network
from lastax._normalize import split_trainable
from lastax._typing import Array, PRNGKeyArray, Scalar

Batch = Mapping[str, jax.Array | np.ndarray]


class TrainState(eqx.Module):
    """Everything that a training step changes."""

    model: Network
    optimizer_state: optax.OptState
    step: Int[Array, ""]

    @classmethod
    def initialize(cls, model: Network, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step."""
        parameters, _ = split_trainable(model)
        return cls(model, optimizer.init(parameters), jnp.zeros((), jnp.int32))


class StepMetrics(NamedTuple):
    """What a training step says of itself: mean loss, and share of the batch answered right."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


class Fidelity(NamedTuple):
    """How close one network's answers are to another's, over examples.

    `divergence` is the mean of `KL(original || other)` in nats, `agreement` the share of examples,
    from 0 to 1, to which both give the same class. No label is looked at.
    """

    divergence: float
    agreement: float
    examples: int


class Evaluation(NamedTuple):
    """Means over examples, not over batches. Accuracy from 0 to 1."""

    accuracy: float
    loss: float
    examples: int


def cross_entropy(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """`-log p(label)` of each example; `smoothing` of it is the mean over all classes instead."""
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=1)


def kl_divergence(
    original: Float[Array, "batch classes"], other: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """`KL(p || q)` in nats of each example, with `p` and `q` the softmax of the two logits."""
    log_p, log_q = jax.nn.log_softmax(original), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1)


def predict(
    model: Network, batch: Batch, *, step_rescale: Scalar = 1.0
) -> Float[Array, "batch classes"]:
    """Logits of a batch in evaluation mode."""
    return eqx.filter_vmap(
        lambda x, length: model(x, length, step_rescale=step_rescale),
        in_axes=(0, eqx.if_array(0)),
    )(batch["x"], batch.get("length"))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    label_smoothing: float = 0.0,
    remat: bool = False,
    teacher: Network | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One update on one batch.

    `key` is the run's: the step's own is folded from it. `remat` computes again on the way back
    what lies inside a block, instead of keeping it. With a `teacher` the loss is the divergence
    from its answers, in place of the labels' (distillation; Hinton et al., 2015).
    """
    parameters, rest = split_trainable(state.model)
    label = jnp.asarray(batch["label"])
    keys = jax.random.split(jax.random.fold_in(key, state.step), label.shape[0])

    def loss_of(parameters: Network) -> tuple[Array, tuple[Array, Network]]:
        model = eqx.combine(parameters, rest)
        logits, moved = eqx.filter_vmap(
            lambda x, length, key: model.forward(x, length, key=key, axis="batch", remat=remat),
            in_axes=(0, eqx.if_array(0), 0),
            out_axes=(0, None),
            axis_name="batch",
        )(batch["x"], batch.get("length"), keys)
        if teacher is None:
            loss = jnp.mean(cross_entropy(logits, label, label_smoothing))
        else:
            loss = jnp.mean(kl_divergence(predict(teacher, batch), logits))
        return loss, (logits, split_trainable(moved)[1])

    (loss, (logits, rest)), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, parameters)
    parameters = optax.apply_updates(parameters, updates)
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == label)
    moved_state = TrainState(eqx.combine(parameters, rest), optimizer_state, state.step + 1)
    return moved_state, StepMetrics(loss, accuracy)


class _Sums(NamedTuple):
    correct: Array
    loss: Array
    examples: Array


@eqx.filter_jit
def _logits(model: Network, batch: Batch, step_rescale: Scalar) -> Float[Array, "batch classes"]:
    # By itself, so that whatever is asked of a network's answers takes one compilation of it.
    return predict(model, batch, step_rescale=step_rescale)


@jax.jit
def _evaluation_sums(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], weight: Array
) -> _Sums:
    correct = jnp.argmax(logits, axis=1) == label
    return _Sums(weight @ correct, weight @ cross_entropy(logits, label), weight.sum())


def _inputs(batch: Batch) -> Batch:
    """What a network reads of a batch: whether there are labels compiles nothing anew."""
    return {name: batch[name] for name in ("x", "length") if name in batch}


def _weight(batch: Batch) -> Array:
    return jnp.asarray(batch.get("weight", np.ones(len(batch["x"]), np.float32)))


def evaluate(
    model: Network,
    batches: Iterable[Batch],
    *,
    step_rescale: float = 1.0,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Accuracy and mean cross-entropy over all examples of `batches`.

    Args:
        model: the network.
        batches: one pass over a split.
        step_rescale: 2 at half the sampling rate that the model was trained at.
        on_batch: called after each batch, for progress displays.

    Raises:
        ValueError: if there is no example.
    """
    total = np.zeros(3)
    for batch in batches:
        logits = _logits(model, _inputs(batch), step_rescale)
        sums = _evaluation_sums(logits, jnp.asarray(batch["label"]), _weight(batch))
        total += [float(value) for value in sums]
        on_batch()
    correct, loss, examples = total
    if examples == 0:
        raise ValueError("evaluate: no examples to evaluate on")
    return Evaluation(float(correct / examples), float(loss / examples), int(examples))


@jax.jit
def _fidelity_sums(
    original: Float[Array, "batch classes"], other: Float[Array, "batch classes"], weight: Array
) -> _Sums:
    same = jnp.argmax(original, axis=1) == jnp.argmax(other, axis=1)
    return _Sums(weight @ same, weight @ kl_divergence(original, other), weight.sum())


def compare(original: Network, other: Network, batches: Iterable[Batch]) -> Fidelity:
    """How close the answers of `other` are to those of `original` on all examples of `batches`.

    Raises:
        ValueError: if there is no example.
    """
    total = np.zeros(3)
    for batch in batches:
        answers = (_logits(model, _inputs(batch), 1.0) for model in (original, other))
        total += [float(value) for value in _fidelity_sums(*answers, _weight(batch))]
    same, moved, examples = total
    if examples == 0:
        raise ValueError("compare: no examples to compare on")
    return Fidelity(max(float(moved / examples), 0.0), float(same / examples), int(examples))
