"""Recalibrated statistics of batch normalization against one training batch."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

import lastax

from ..calibration_helpers import KINDS, LENGTHS, data, kind_of, network, rows
from ..systems import compiled


@KINDS
def test_recalibrated_statistics_equal_those_of_one_batch(settings):
    check_statistics(settings, padded=True)


@pytest.mark.parametrize("settings", [{}, {"head": "retrieval"}], ids=["default", "retrieval"])
def test_recalibrated_statistics_of_sequences_without_padding(settings):
    check_statistics(settings, padded=False)


@compiled
def forward(model, x, length):
    return eqx.filter_vmap(
        lambda x, length: model.forward(x, length, axis="batch"),
        in_axes=(0, eqx.if_array(0)),
        out_axes=(0, None),
        axis_name="batch",
    )(x, length)


def check_statistics(settings, *, padded):
    kind = kind_of(settings)
    lengths = np.stack([LENGTHS, LENGTHS[::-1]], axis=1) if kind["retrieval"] else LENGTHS
    batch = data(**kind, lengths=lengths if padded else None)
    model = network(**settings)
    small = lastax.prune(model, ratio=0.5)
    found = lastax.recalibrate_batch_norm(
        small, [rows(batch, slice(0, 4)), rows(batch, slice(4, 6))]
    )
    instant = jax.tree.map(
        lambda node: (
            dataclasses.replace(node, momentum=0.0)
            if isinstance(node, lastax.nn.BatchNorm)
            else node
        ),
        small,
        is_leaf=lambda node: isinstance(node, lastax.nn.BatchNorm),
    )
    _, wanted = forward(instant, batch["x"], batch.get("length"))
    for one, other in zip(found.encoder.blocks, wanted.encoder.blocks, strict=True):
        if isinstance(one.norm, lastax.nn.BatchNorm):
            for name in ("mean", "variance"):
                first, second = (getattr(b.norm.running, name) for b in (one, other))
                np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
        assert one.norm.scale is not None


def test_padding_enters_the_statistics_unless_it_is_masked():
    model, batch = network(mask_padding=False, layers=1), data(lengths=LENGTHS)
    found = lastax.recalibrate_batch_norm(model, batch).encoder.blocks[0].norm.running
    whole = lastax.recalibrate_batch_norm(model, {"x": batch["x"]}).encoder.blocks[0].norm.running
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)
