"""Accuracy of a network, and how close the outputs of two networks are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lastax._typing import Array, Batch, Scalar
from lastax.nn._prediction import Predictor, predict
from lastax.ssm._precision import exact_products
from lastax.training._losses import cross_entropy, kl_divergence
from lastax.training._overlap import one_late, read_ahead
from lastax.training._placement import Placement

Result = TypeVar("Result")


class Fidelity(NamedTuple):
    """How close the outputs of a network are to those of the original.

    Attributes:
        kl_divergence: mean of `KL(original || other)`, in nats.
        agreement: share of examples with the same predicted class, from 0 to 1.
        examples: number of examples.
        original_accuracy: accuracy of the original, from 0 to 1; NaN without labels.
        other_accuracy: accuracy of the other network; NaN without labels.
    """

    kl_divergence: float
    agreement: float
    examples: int
    original_accuracy: float
    other_accuracy: float


class Evaluation(NamedTuple):
    """Means over examples.

    Attributes:
        accuracy: from 0 to 1.
        loss: cross-entropy in nats.
        examples: number of examples.
    """

    accuracy: float
    loss: float
    examples: int


class _Sums(NamedTuple):
    correct: Array
    loss: Array
    examples: Array


@eqx.filter_jit
def _logits(model: Predictor, batch: Batch, step_rescale: Scalar) -> Float[Array, "batch classes"]:
    # Separate, so that accuracy and fidelity share one compiled program of the network.
    return predict(model, batch, step_rescale=step_rescale)


@jax.jit
@exact_products
def _evaluation_sums(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"], weight: Array
) -> _Sums:
    correct = jnp.argmax(logits, axis=1) == label
    return _Sums(weight @ correct, weight @ cross_entropy(logits, label), weight.sum())


def _inputs(batch: Batch) -> Batch:
    """The arrays that a network reads. Other arrays of a batch cause no new compilation."""
    return {name: batch[name] for name in ("x", "length") if name in batch}


def _read(batch: Batch) -> Batch:
    """What an evaluation reads of a batch."""
    weight = batch.get("weight", np.ones(len(batch["x"]), np.float32))
    label = {"label": batch["label"]} if "label" in batch else {}
    return {**_inputs(batch), **label, "weight": weight}


def _placed(batch: Batch, placement: Placement | None) -> Batch:
    """What an evaluation reads of a batch, on the devices."""
    read = _read(batch)
    if placement is None:
        return {name: jnp.asarray(rows) for name, rows in read.items()}
    return placement.filled_batch(read)


def _computed(
    compute: Callable[[Batch], Result], batches: Iterable[Batch], placement: Placement | None = None
) -> Iterator[Result]:
    """The results of all batches, on the host. The device computes while the host reads."""
    prepare = functools.partial(_placed, placement=placement)
    with contextlib.closing(read_ahead(iter(batches), prepare)) as placed:
        yield from map(jax.device_get, one_late(map(compute, placed)))


def evaluate(
    model: Predictor,
    batches: Iterable[Batch],
    *,
    step_rescale: float = 1.0,
    placement: Placement | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Accuracy and mean cross-entropy over all examples of `batches`.

    Args:
        model: the network, or its streaming cell.
        batches: one pass over a split.
        step_rescale: 2 at half the sampling rate that the model was trained at.
        placement: devices that share each batch; the default device if None. With several
            processes, `batches` has the rows of this process.
        on_batch: called after each batch, for progress displays.

    Raises:
        ValueError: if there is no example.
    """

    def sums_of(batch: Batch) -> _Sums:
        logits = _logits(model, _inputs(batch), step_rescale)
        return _evaluation_sums(logits, batch["label"], batch["weight"])

    total = np.zeros(3)
    for sums in _computed(sums_of, batches, placement):
        total += sums
        on_batch()
    correct, loss, examples = total
    if examples == 0:
        raise ValueError("evaluate: no examples to evaluate on")
    return Evaluation(float(correct / examples), float(loss / examples), int(examples))


def correct_predictions(
    model: Predictor, batches: Iterable[Batch], *, placement: Placement | None = None
) -> Bool[np.ndarray, " examples"]:
    """Whether the prediction of each example of `batches` is correct, in their order.

    Args:
        model: the network, or its streaming cell.
        batches: one pass over a split.
        placement: devices of this process that share each batch; the default device if None.
    """

    def correct_of(batch: Batch) -> tuple[Array, Array]:
        logits = _logits(model, _inputs(batch), 1.0)
        return jnp.argmax(logits, axis=1) == batch["label"], jnp.asarray(batch["weight"]) > 0

    results = _computed(correct_of, batches, placement)
    found = [correct[counted] for correct, counted in results]
    return np.concatenate([np.zeros(0, bool), *found])


@jax.jit
@exact_products
def _fidelity_sums(
    original: Float[Array, "batch classes"], other: Float[Array, "batch classes"], weight: Array
) -> _Sums:
    same = jnp.argmax(original, axis=1) == jnp.argmax(other, axis=1)
    return _Sums(weight @ same, weight @ kl_divergence(original, other), weight.sum())


def compare(
    original: Predictor,
    other: Predictor,
    batches: Iterable[Batch],
    *,
    placement: Placement | None = None,
) -> Fidelity:
    """How close the outputs of `other` are to those of `original` on all examples of `batches`.

    Args:
        original: the unpruned network.
        other: the network to compare with it.
        batches: one pass over a split. Labels are only used for the accuracies.
        placement: as for `evaluate`.

    Raises:
        ValueError: if there is no example.
    """

    def sums_of(batch: Batch) -> tuple[_Sums, list[Array]]:
        logits = [_logits(model, _inputs(batch), 1.0) for model in (original, other)]
        same = _fidelity_sums(*logits, batch["weight"])
        if "label" not in batch:
            return same, [jnp.full((), jnp.nan)] * 2
        sums = [_evaluation_sums(one, batch["label"], batch["weight"]) for one in logits]
        return same, [one.correct for one in sums]

    total, correct = np.zeros(3), np.zeros(2)
    for sums, right in _computed(sums_of, batches, placement):
        total += sums
        correct += right
    same, divergence, examples = total
    if examples == 0:
        raise ValueError("compare: no examples to compare on")
    return Fidelity(
        max(float(divergence / examples), 0.0),
        float(same / examples),
        int(examples),
        *(float(number / examples) for number in correct),
    )
