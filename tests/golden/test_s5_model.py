"""Networks against the published models, sample by sample and layer by layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from .adapters import (
    NETWORK_OPTIONS,
    SCAN_METHODS,
    assert_within,
    batch_of,
    compiled,
    evaluated,
    flax_statistics,
    network,
    pairs,
    scanned,
    widened,
)
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "s5_model"
DECLARATION = Declaration(
    consumed=(
        "params/.+", "batch_stats/.+", "x", "lengths", "logp", "encoder_out", r"layer\d+_out",
        "pooled64", "logp64", "train_logp", "train_batch_stats/.+",
    ),
    options=(*NETWORK_OPTIONS, "max_abs_diff_logp"),
)  # fmt: skip


def parameters(kind: Kind) -> dict[str, dict[str, Case]]:
    cases = {case_id(case): case for case in kind.listed(DECLARATION)}
    # Only BatchNorm has another training mode, and it is not stored for retrieval.
    trained = {name: case for name, case in cases.items() if "train_logp" in case}
    # The scan method affects only recurrences, so one case per kind and direction is enough.
    kinds = {(c.options["kind"], c.options["bidirectional"]): c for c in cases.values()}
    # Interpreted GPU kernels take seconds to compile; `test_s5_ssm.py` tests them.
    by_method = {
        f"{case_id(case)}-{method}": (case, method)
        for case in kinds.values()
        for method in SCAN_METHODS
        if method != "pallas"
    }
    streamed = {
        name: case
        for name, case in cases.items()
        if case.options["kind"] == "classification" and not case.options["bidirectional"]
    }
    return {
        "case": cases,
        "trained_case": trained,
        "by_method": by_method,
        "streamed_case": streamed,
    }


def case_id(case: Case) -> str:
    o = case.options
    norm = ("pre" if o["prenorm"] else "post") + ("batch" if o["batchnorm"] else "layer")
    direction = "bi" if o["bidirectional"] else "uni"
    return f"{case.name}-{o['kind']}-{o['activation']}-{norm}norm-{direction}"


def model_of(case: Case) -> lastax.Classifier | lastax.nn.Retrieval:
    return network(case.below("params"), case.below("batch_stats"), case.options)


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)


def test_every_parameter_is_used(case):
    """The model has as many numbers as the files: the adapter omits none."""
    arrays = [a for a in jax.tree.leaves(model_of(case)) if eqx.is_array(a)]
    stored = [case[name] for name in case if name.startswith(("params/", "batch_stats/"))]
    assert sum(a.size for a in arrays) == sum(a.size for a in stored)


def test_training_arrays_belong_to_batch_norm(case):
    trained = case.options["batchnorm"] and case.options["kind"] == "classification"
    assert ("train_logp" in case) == trained


def test_log_probabilities_and_layer_outputs(case):
    log_p, outputs = evaluated(model_of(case), case)
    assert_within(log_p, case["logp"], 2e-5)
    # In the published code `encoder_out` is the output of the linear embedding.
    assert_within(outputs[0], case["encoder_out"], 2e-5)
    assert len([name for name in case if name.startswith("layer")]) == len(outputs) - 1
    for index, output in enumerate(outputs[1:]):
        assert_within(output, case[f"layer{index}_out"], 2e-5)


def test_float64(case, x64):
    """Log-probabilities and pooled features."""
    rescale = case.options["step_rescale"]
    x = jnp.asarray(case["x"], jnp.float64)
    lengths = jnp.asarray(case["lengths"]) if case.options["padded"] else None

    @compiled
    def run(model, batch):
        pooled = eqx.filter_vmap(
            lambda x, length: model.encoder(x, length, step_rescale=rescale)[0],
            in_axes=(0, eqx.if_array(0)),
        )(x, lengths)
        return jax.nn.log_softmax(lastax.predict(model, batch, step_rescale=rescale)), pooled

    log_p, pooled = run(widened(model_of(case)), widened(batch_of(case)))
    assert_within(log_p, case["logp64"], 1e-9)
    assert_within(pooled, case["pooled64"], 1e-9)


def test_every_scan_method(by_method, x64):
    case, method = by_method
    model, batch = widened(scanned(model_of(case), method)), widened(batch_of(case))
    logits = compiled(lastax.predict)(model, batch, step_rescale=case.options["step_rescale"])
    assert_within(jax.nn.log_softmax(logits), case["logp64"], 1e-9)


def test_streaming_cell(streamed_case, x64):
    """The logits after the last valid step."""
    case = streamed_case
    cell = lastax.streaming(widened(model_of(case)), step_rescale=case.options["step_rescale"])
    x = jnp.asarray(case["x"], jnp.float64)

    @compiled
    def run(cell, x):
        return jax.vmap(lambda x: cell.chunk(cell.init(), x)[1])(x)

    lengths = case["lengths"] if case.options["padded"] else np.full(len(x), x.shape[1])
    logits = run(cell, x)[np.arange(len(x)), lengths - 1]
    assert_within(jax.nn.log_softmax(logits), case["logp64"], 1e-9)


def test_padding_is_excluded_from_the_pooling(case):
    """As in the published code, padding still passes through the layers."""
    if not case.options["padded"]:
        pytest.skip("no padding in this case")
    model, batch = model_of(case), batch_of(case)
    rescale = case.options["step_rescale"]
    predict = compiled(lastax.predict)
    without = predict(model, {"x": batch["x"]}, step_rescale=rescale)
    assert np.abs(jax.nn.log_softmax(without) - case["logp"]).max() > 1e-3


def test_training_mode(trained_case):
    """Outputs with batch statistics, and the updated running statistics."""
    case = trained_case
    model, batch = model_of(case), batch_of(case)

    @compiled
    def train(model, x, length):
        def forward(x, length):
            rescale = case.options["step_rescale"]
            return model.forward(x, length, step_rescale=rescale, axis="batch")

        return eqx.filter_vmap(
            forward, in_axes=(0, eqx.if_array(0)), out_axes=(0, None), axis_name="batch"
        )(x, length)

    logits, updated = train(model, batch["x"], batch.get("length"))
    assert_within(jax.nn.log_softmax(logits), case["train_logp"], 2e-5)
    statistics = flax_statistics(updated)
    stored = {name for name in case if name.startswith("train_batch_stats/")}
    assert stored == {f"train_batch_stats/{name}" for name in statistics}
    for name, value in statistics.items():
        assert_within(value, case[f"train_batch_stats/{name}"], 2e-5)
        change = np.abs(case[f"batch_stats/{name}"] - case[f"train_batch_stats/{name}"]).max()
        assert change > 1e-3


def test_documents_are_paired_across_the_batch():
    np.testing.assert_array_equal(pairs(np.arange(6)), [[0, 3], [1, 4], [2, 5]])
