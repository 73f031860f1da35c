"""Block-wise reconstruction of a pruned model.

All parameters of one block at a time, from the bottom, are fitted to the hidden states after the
same block of the original model. Each of these least-squares problems has far more equations than
unknowns, so a few dozen unlabeled sequences are enough. Gradients pass through one block only.
"""

import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from lastax._typing import Array, Model, OnProgress, PRNGKeyArray, silent
from lastax.calibration._block_refit import refit_model_head
from lastax.calibration._blockwise_pass import (
    BlockwisePass,
    block_output,
    blockwise_pass,
    check_untied,
)
from lastax.calibration._chunks import AnyArray, CalibrationBatches
from lastax.calibration._forward_check import check_forward
from lastax.nn._blockwise import BlockwiseForward, HiddenStates
from lastax.nn._normalization import split_trainable
from lastax.ssm._precision import exact_products

# Number of pairs of steps that L-BFGS remembers.
_MEMORY = 30
# Number of random sign vectors that estimate the curvature.
_PROBES = 16
# Lower bound of a parameter's curvature, as a share of the mean curvature.
_LEAST_CURVATURE = 1e-3
# Relative decrease per step at which L-BFGS stops; single precision gives no more.
_TOLERANCE = 1e-7

# Hidden states before and after a block, stacked over chunks of one shape.
_Pairs = list[tuple[HiddenStates, HiddenStates]]


def reconstruct(
    model: Model,
    small: Model,
    batches: CalibrationBatches,
    *,
    steps: int = 100,
    forward: BlockwiseForward | None = None,
    on_progress: OnProgress = silent,
) -> Model:
    """Fit the blocks of a pruned model to the outputs of the original blocks.

    For each block, L-BFGS (Liu & Nocedal, 1989) minimizes the mean squared difference to the hidden
    states after the same block of `model`, over eigenvalues, `B`, `C`, `D`, gate and normalization.
    Inputs come from the reconstructed blocks below. Parameters are scaled by their Gauss-Newton
    curvature. The head, if there is one, is then refitted in closed form. No block has a larger
    error on `batches` than before; a block that already has the right outputs is not changed.

    Args:
        model: the original model.
        small: the pruned model, refitted or not.
        batches: unlabeled calibration data, as for `refit`.
        steps: number of L-BFGS steps per block.
        forward: block-wise forward pass of a model other than `Classifier` and `Retrieval`.
        on_progress: called with a description of the block and step.

    Returns:
        The pruned model with other parameters.

    Raises:
        ValueError: if the models have different numbers of blocks, if `steps` is negative, or if
            the data are empty or not finite.
    """
    if steps < 0:
        raise ValueError(f"reconstruct: steps must not be negative, got {steps}")
    original = blockwise_pass("reconstruct", model, batches, forward)
    check_forward("reconstruct", original)
    check_untied("reconstruct", original)
    forward = original.forward
    reduced = BlockwisePass(small, forward, original.chunks)
    if len(original.blocks) != len(reduced.blocks):
        raise ValueError(
            f"reconstruct: model and small must have the same number of blocks, got "
            f"{len(original.blocks)} and {len(reduced.blocks)}"
        )
    wanted, inputs = original.enter(), reduced.enter()
    blocks = []
    for index, (block, smaller) in enumerate(zip(original.blocks, reduced.blocks, strict=True)):
        doing = f"reconstructing block {index}, of {len(reduced.blocks)}"
        wanted = original.block_outputs(block, wanted)
        pairs = list(zip(_stacked(inputs), _stacked(wanted), strict=True))
        smaller = _fit_block(forward, smaller, pairs, steps, _step_counter(on_progress, doing))
        inputs = reduced.block_outputs(smaller, inputs)
        blocks.append(smaller)
    small = reduced.with_blocks(blocks)
    head = forward.head(original.model)
    if head is None or forward.head(small) is None:
        return small
    start = np.asarray(head.weight, float)
    return refit_model_head(
        forward, small, reduced.features(inputs), original.outputs(wanted), start
    )


def _stacked(entries: Sequence[HiddenStates]) -> list[HiddenStates]:
    """Stack consecutive entries of one shape, all with or all without a mask."""
    groups = itertools.groupby(entries, key=lambda one: (one.hidden.shape, one.mask is None))

    def stack(*parts: AnyArray) -> AnyArray:
        # Arrays that are divided among devices stay divided.
        return np.stack(parts) if isinstance(parts[0], np.ndarray) else jnp.stack(parts)

    return [jax.tree.map(stack, *group) for _, group in groups]


def _step_counter(on_progress: OnProgress, doing: str) -> Callable[[np.ndarray], None]:
    """A function for the optimizer to call after each step."""
    steps = itertools.count(1)
    on_progress(doing)
    return lambda _: on_progress(f"{doing}, step {next(steps)}")


def _fit_block(
    forward: BlockwiseForward,
    block: PyTree,
    pairs: _Pairs,
    steps: int,
    after_step: Callable[[np.ndarray], None],
) -> PyTree:
    parameters, rest = split_trainable(block)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)
    power = sum(
        float(np.sum(np.asarray(t.hidden)[np.asarray(t.valid)] ** 2, dtype=float)) for _, t in pairs
    )
    diagonal = np.asarray(_curvature(forward, block, pairs), float)
    if not power > 0 or not diagonal.mean() > 0:
        return block
    start = np.asarray(flat, float)
    scale = (diagonal + _LEAST_CURVATURE * diagonal.mean()) ** -0.5

    def changed(step: np.ndarray) -> PyTree:
        return eqx.combine(unravel(jnp.asarray(start + scale * step, flat.dtype)), rest)

    def relative_error(step: np.ndarray) -> tuple[float, np.ndarray]:
        error, gradient = squared_error(forward, changed(step), pairs)
        return float(error) / power, np.asarray(gradient, float) * scale / power

    zero = np.zeros_like(start)
    before = relative_error(zero)[0]
    # Imported here because it takes a quarter of a second, and only reconstruction needs it.
    import scipy.optimize

    found = scipy.optimize.minimize(
        relative_error,
        zero,
        jac=True,
        method="L-BFGS-B",
        callback=after_step,
        options={"maxiter": steps, "maxfun": 2 * steps + 20, "maxcor": _MEMORY, "ftol": _TOLERANCE},
    )
    return changed(found.x) if found.fun < before else block


@eqx.filter_jit
@exact_products
def squared_error(
    forward: BlockwiseForward, block: PyTree, pairs: _Pairs
) -> tuple[Float[Array, ""], Float[Array, " parameters"]]:
    """Squared distance of a block's outputs to the targets, and its gradient as one vector.

    Args:
        forward: block-wise forward pass of the model.
        block: the block.
        pairs: hidden states before the block, and the targets after it.
    """
    parameters, rest = split_trainable(block)

    def error_and_gradient(states: HiddenStates, target: HiddenStates) -> tuple[Array, PyTree]:
        def error(parameters: PyTree) -> Array:
            return jnp.sum(_residual(forward, eqx.combine(parameters, rest), states, target) ** 2)

        return jax.value_and_grad(error)(parameters)

    error, gradient = _sum_over_chunks(error_and_gradient, pairs)
    return error, jax.flatten_util.ravel_pytree(gradient)[0]


@eqx.filter_jit
@exact_products
def _curvature(
    forward: BlockwiseForward, block: PyTree, pairs: _Pairs
) -> Float[Array, " parameters"]:
    """Diagonal of `J^T J` for the Jacobian `J`: the mean of `(J^T e)^2` for random signs `e`."""
    parameters, rest = split_trainable(block)

    def squares(states: HiddenStates, target: HiddenStates) -> Array:
        def residual(parameters: PyTree) -> Array:
            return _residual(forward, eqx.combine(parameters, rest), states, target)

        value, pull_back = jax.vjp(residual, parameters)

        def probe(key: PRNGKeyArray) -> Array:
            signs = jax.random.rademacher(key, value.shape, value.dtype)
            return jax.flatten_util.ravel_pytree(pull_back(signs)[0])[0] ** 2

        # A fixed key: the scale only has to be reproducible.
        return jnp.mean(jax.lax.map(probe, jax.random.split(jax.random.key(0), _PROBES)), axis=0)

    return _sum_over_chunks(squares, pairs)


def _residual(
    forward: BlockwiseForward, block: PyTree, states: HiddenStates, target: HiddenStates
) -> Float[Array, "n L H"]:
    after = block_output(forward, block, states)
    return jnp.where(target.valid[..., None], after.hidden - target.hidden, 0)


def _sum_over_chunks(
    function: Callable[[HiddenStates, HiddenStates], PyTree], pairs: _Pairs
) -> PyTree:
    """Sum of a function over all chunks, computed for one chunk at a time to bound memory."""
    parts = [jax.lax.map(lambda pair: function(*pair), pair) for pair in pairs]
    return jax.tree.map(lambda *parts: sum(jnp.sum(part, axis=0) for part in parts), *parts)
