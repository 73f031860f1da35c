"""After pruning by any method: what is left of each block moves until it answers as before.

Block by block from the bottom, all parameters of a block at once, toward what leaves the same block
of the original network: least squares with far more equations than unknowns, so that a few dozen
unlabeled sequences are enough. No step of it goes through more than one block.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from lastax._typing import Array, Model, OnProgress, silent
from lastax.calibration._blockwise_pass import (
    all_features,
    block_output,
    enter_all,
    outputs_of,
    pass_through,
    values_per_step,
)
from lastax.calibration._closed_forms import refit_head
from lastax.calibration._records import Batch, calibration_chunks
from lastax.nn._blockwise import BlockwiseForward, HiddenStates, resolve_forward
from lastax.nn._normalization import split_trainable

# Of curvature: pairs of steps that the quasi-Newton method remembers, and random signs by which
# each parameter's scale is estimated.
_MEMORY = 30

_PROBES = 16

# Of the mean: least curvature that a parameter's scale is taken from.
_LEAST_CURVATURE = 1e-3

# Relative gain of a step at which single precision has no more to give.
_ENOUGH = 1e-7


def reconstruct(
    model: Model,
    small: Model,
    batches: Batch | Iterable[Batch],
    *,
    steps: int = 100,
    forward: BlockwiseForward | None = None,
    on_progress: OnProgress = silent,
) -> Model:
    """Move the parameters of a pruned network until its blocks answer as the original's did.

    Poles, `B`, `C`, `D`, gate and norm of each block minimize the mean squared difference to what
    leaves the block in `model`, on inputs from the blocks below that are polished already: by
    L-BFGS (Liu & Nocedal, 1989) with parameters in units of their Gauss-Newton curvature. The
    head, if there is one, is then refitted in closed form. A block that answers as before stays as
    it is; none comes out worse on `batches`.

    Args:
        small: the pruned network, refitted or not.
        model: the network that it was made from.
        batches: calibration data, as `refit` takes them. No label is looked at.
        steps: of L-BFGS, a block.
        forward: how data pass a model of another kind than `Classifier` and `Retrieval`.
        on_progress: called with a description of the block and step.

    Raises:
        ValueError: if the networks have other numbers of blocks, or as `refit` does for data.
    """
    forward = resolve_forward("polish", model, forward)
    pairs = list(zip(forward.blocks(model), forward.blocks(small), strict=False))
    if not len(pairs) == len(forward.blocks(model)) == len(forward.blocks(small)):
        raise ValueError(
            f"polish: the network has {len(forward.blocks(small))} blocks, that it was made from "
            f"{len(forward.blocks(model))}"
        )
    chunks = calibration_chunks(
        batches, values_per_step=values_per_step(list(forward.blocks(model)))
    )
    original = enter_all(forward, model, chunks)
    reduced = enter_all(forward, small, chunks)
    polished = []
    for index, (block, smaller) in enumerate(pairs):
        counted = _counted(on_progress, f"polishing block {index}, of {len(pairs)}")
        original = [pass_through(forward, block, stream) for stream in original]
        smaller = _polished(forward, smaller, _stacked(reduced), _stacked(original), steps, counted)
        reduced = [pass_through(forward, smaller, stream) for stream in reduced]
        polished.append(smaller)
    small = eqx.tree_at(lambda m: list(forward.blocks(m)), small, polished)
    head, start = forward.head(small), forward.head(model)
    if head is None or start is None:
        return small
    wanted = outputs_of(start, all_features(forward, model, original, chunks))
    features = all_features(forward, small, reduced, chunks).astype(float)
    head = head.replaced(*refit_head(features, wanted, np.asarray(start.weight, float)))
    return eqx.tree_at(forward.head, small, head)


def _stacked(streams: Sequence[HiddenStates]) -> list[HiddenStates]:
    """Streams of one shape as one, behind a new first axis."""
    groups = itertools.groupby(streams, key=lambda stream: stream.hidden.shape)
    return [jax.tree.map(lambda *parts: np.stack(parts), *group) for _, group in groups]


def _counted(on_progress: OnProgress, doing: str) -> Callable[[Any], None]:
    """What an optimizer calls after each step."""
    steps = itertools.count(1)
    on_progress(doing)
    return lambda _: on_progress(f"{doing}, step {next(steps)}")


def _polished(
    forward: BlockwiseForward,
    block: Any,
    inputs: list[HiddenStates],
    targets: list[HiddenStates],
    steps: int,
    after_step: Callable[[Any], None],
) -> Any:
    parameters, rest = split_trainable(block)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)
    pairs = list(zip(inputs, targets, strict=True))
    power = sum(float(np.sum(t.hidden[t.valid] ** 2, dtype=float)) for t in targets)
    diagonal = np.asarray(_curvature(forward, block, pairs), float)
    if not power > 0 or not diagonal.mean() > 0:
        return block
    start = np.asarray(flat, float)
    scale = (diagonal + _LEAST_CURVATURE * diagonal.mean()) ** -0.5

    def moved(change: np.ndarray) -> Any:
        return eqx.combine(unravel(jnp.asarray(start + scale * change, flat.dtype)), rest)

    def error_and_slope(change: np.ndarray) -> tuple[float, np.ndarray]:
        error, slope = _error_and_slope(forward, moved(change), pairs)
        return float(error) / power, np.asarray(slope, float) * scale / power

    nothing = np.zeros_like(start)
    before = error_and_slope(nothing)[0]
    found = scipy.optimize.minimize(
        error_and_slope,
        nothing,
        jac=True,
        method="L-BFGS-B",
        callback=after_step,
        options={"maxiter": steps, "maxfun": 2 * steps + 20, "maxcor": _MEMORY, "ftol": _ENOUGH},
    )
    return moved(found.x) if found.fun < before else block


def _left(
    forward: BlockwiseForward, block: Any, stream: HiddenStates, target: HiddenStates
) -> Array:
    moved = block_output(forward, block, stream)
    return jnp.where(target.valid[..., None], moved.hidden - target.hidden, 0)


def _over_chunks(function: Any, pairs: list[tuple[HiddenStates, HiddenStates]]) -> Any:
    """The sum over all chunks, one at a time."""
    parts = [jax.lax.map(lambda pair: function(*pair), pair) for pair in pairs]
    return jax.tree.map(lambda *parts: sum(jnp.sum(part, axis=0) for part in parts), *parts)


@eqx.filter_jit
def _error_and_slope(
    forward: BlockwiseForward, block: Any, pairs: list[tuple[HiddenStates, HiddenStates]]
) -> tuple[Array, Array]:
    """The squared distance to the targets, and its gradient in one vector."""
    parameters, rest = split_trainable(block)

    def error_and_gradient(stream: HiddenStates, target: HiddenStates) -> Any:
        def error(parameters: Any) -> Array:
            return jnp.sum(_left(forward, eqx.combine(parameters, rest), stream, target) ** 2)

        return jax.value_and_grad(error)(parameters)

    error, gradient = _over_chunks(error_and_gradient, pairs)
    return error, jax.flatten_util.ravel_pytree(gradient)[0]


@eqx.filter_jit
def _curvature(
    forward: BlockwiseForward, block: Any, pairs: list[tuple[HiddenStates, HiddenStates]]
) -> Array:
    """The diagonal of `J^T J`, `J` the Jacobian: with random signs `e`, the mean of `(J^T e)^2`."""
    parameters, rest = split_trainable(block)

    def squares(stream: HiddenStates, target: HiddenStates) -> Any:
        def left(parameters: Any) -> Array:
            return _left(forward, eqx.combine(parameters, rest), stream, target)

        value, pull = jax.vjp(left, parameters)

        def probe(key: Array) -> Array:
            signs = jax.random.rademacher(key, value.shape, value.dtype)
            return jax.flatten_util.ravel_pytree(pull(signs)[0])[0] ** 2

        # Any signs will do; these are the same each time.
        return jnp.mean(jax.lax.map(probe, jax.random.split(jax.random.key(0), _PROBES)), axis=0)

    return _over_chunks(squares, pairs)
