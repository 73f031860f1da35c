"""Polishing: what is left of a pruned network moves until its blocks answer as before."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

import lastax
from lastax import _polish

from .calibration import KINDS, LENGTHS, data, kind_of, logits, network

STAGES = lastax.nn.NetworkForward()


def block_errors(small, model, batch):
    """Of each block of `small`, on what the blocks below it give, by plain forward passes."""
    length = batch.get("length")
    original, reduced = (STAGES.enter(one, batch["x"], length) for one in (model, small))
    errors = []
    for before, after in zip(STAGES.blocks(model), STAGES.blocks(small), strict=True):
        original, reduced = (
            STAGES.after(block, stream, jax.vmap(block.layer)(STAGES.before(block, stream)))
            for block, stream in ((before, original), (after, reduced))
        )
        left = np.asarray(original.hidden - reduced.hidden)[np.asarray(original.valid)]
        errors.append(float(np.mean(left**2)))
    return errors


@pytest.mark.slow
@KINDS
def test_blocks_answer_more_like_the_original(settings):
    model, batch = network(**settings), data(**kind_of(settings))
    # The same share of each layer: blocks of equal shapes are compiled once.
    pruned = lastax.prune(model, ratio=0.5, method="uniform-magnitude")
    small = lastax.reconstruct(pruned, model, batch, steps=30)
    assert lastax.state_counts(small) == lastax.state_counts(pruned)
    before, after = (block_errors(one, model, batch) for one in (pruned, small))
    assert after[0] < 0.5 * before[0]
    assert after[-1] < 0.5 * before[-1]
    wanted = logits(model, batch)
    moved = [lastax.calibration.mean_kl_divergence(wanted, logits(one, batch)) for one in (pruned, small)]
    assert moved[1] < 0.5 * moved[0]


def test_states_that_others_can_replace_are_missed_by_nobody():
    """Of two states with one pole one is enough, if its input or output map becomes their sum."""
    model = network(layers=1, states=4)
    layer = model.encoder.blocks[0].layer
    twins = {
        name: getattr(layer, name).at[2:].set(getattr(layer, name)[:2])
        for name in ("Lambda_re", "Lambda_im", "log_step", "B")
    }
    model = eqx.tree_at(
        lambda m: m.encoder.blocks[0].layer, model, dataclasses.replace(layer, **twins)
    )
    pruned = lastax.keep_states(model, [np.array([True, True, False, False])])
    (before,), (after,) = (
        block_errors(one, model, data())
        for one in (pruned, lastax.reconstruct(pruned, model, data(), steps=100))
    )
    assert after < 0.01 * before


def test_a_network_that_lost_nothing_stays():
    model = network()
    same = lastax.reconstruct(model, model, data(), steps=5)
    assert eqx.tree_equal(same.encoder, model.encoder)
    np.testing.assert_allclose(same.head.weight, model.head.weight, rtol=1e-6)
    np.testing.assert_allclose(same.head.bias, model.head.bias, rtol=1e-5, atol=1e-6)


def test_running_statistics_and_the_encoder_stay():
    model = network()
    told = []
    pruned = lastax.prune(model, ratio=0.5)
    small = lastax.reconstruct(pruned, model, data(), steps=5, progress=told.append)
    assert "polishing block 0, of 2, step 1" in told
    assert told[-1].startswith("polishing block 1, of 2")
    assert eqx.tree_equal(small.encoder.embed, model.encoder.embed)
    for old, new in zip(model.encoder.blocks, small.encoder.blocks, strict=True):
        assert eqx.tree_equal(old.norm.running, new.norm.running)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padding_has_no_say(mask_padding):
    model = network(mask_padding=mask_padding, bidirectional=False)
    pruned, batch = lastax.prune(model, ratio=0.5), data(lengths=LENGTHS)
    other = batch["x"].copy()
    for record, length in zip(other, LENGTHS, strict=True):
        record[length:] = 7
    polished = [
        lastax.reconstruct(pruned, model, {**batch, "x": x}, steps=5) for x in (batch["x"], other)
    ]
    assert eqx.tree_equal(*polished, rtol=1e-4, atol=1e-5)


def test_data_in_pieces_are_the_same_data():
    model = network(layers=1)
    (block,) = STAGES.blocks(lastax.prune(model, ratio=0.5))
    x = data(records=8)["x"]

    def pair(x):
        stream = STAGES.enter(model, x, None)
        return stream, stream._replace(hidden=2 * stream.hidden)

    def stacked(*parts):
        return [jax.tree.map(lambda *parts: np.stack(parts), *parts)]

    whole = _polish._error_and_slope(STAGES, block, stacked(pair(x)))
    parts = [pair(x[:4]), pair(x[4:])]
    for pieces in (stacked(*parts), [*stacked(parts[0]), *stacked(parts[1])]):
        error, slope = _polish._error_and_slope(STAGES, block, pieces)
        np.testing.assert_allclose(error, whole[0], rtol=1e-5)
        np.testing.assert_allclose(slope, whole[1], rtol=1e-4, atol=1e-4)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="has 1 blocks, that it was made from 2"):
        lastax.reconstruct(network(layers=1), network(), data())
    with pytest.raises(ValueError, match="polish: how data pass a dict is not known"):
        lastax.reconstruct({}, {}, data())


def test_data_that_are_not_finite_are_refused():
    batch = data()
    batch["x"][3, 5, 1] = np.nan
    with pytest.raises(ValueError, match=r"records \[3\] hold values that are not finite"):
        lastax.reconstruct(network(), network(), batch)
