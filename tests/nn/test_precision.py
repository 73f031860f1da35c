"""What the precision of a network changes: products and activations, and nothing else."""

import dataclasses
import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core.primitives import dot_general_p

import lastax
from lastax import training
from lastax.calibration._reconstruction import squared_error
from lastax.nn import PRECISIONS
from lastax.ssm import transfer_function
from lastax.ssm._products import total

from ..systems import compiled, filled

LENGTH = 150
CONFIG = lastax.ModelConfig(layers=2, channels=4, states=3)


def shapes_of(precision="float32", **settings):
    config = dataclasses.replace(CONFIG, precision=precision, **settings)
    return eqx.filter_eval_shape(
        lambda: lastax.build_network(config, input_size=2, classes=3, key=jax.random.key(0))
    )


def equations(jaxpr):
    """All equations, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda it: hasattr(it, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


# The output of a scan contains the products with its states, and its adjoint their transposes.
WITH_PRODUCTS = ("product", "dot_general", "scan_output", "scan_output_adjoint")


def products(program):
    """Operand dtypes and precision of the products, sums over time not included."""
    for equation in equations(program):
        if equation.primitive.name in WITH_PRODUCTS:
            types = {str(operand.aval.dtype) for operand in equation.invars}
            yield types, str(equation.params["precision"])


OPTIMIZER = training.make_optimizer(1e-2, 1e-2, weight_decay=0.1)


@functools.cache
def program_of(precision, **settings):
    """A training step, its state before, and its state after, without values."""
    model = shapes_of(precision, **settings)
    batch = {
        "x": jax.ShapeDtypeStruct((4, LENGTH, 2), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    state = eqx.filter_eval_shape(training.TrainState.initialize, model, OPTIMIZER)
    step = functools.partial(training.train_step, optimizer=OPTIMIZER)
    program, after, _ = eqx.filter_make_jaxpr(step)(state, batch, key=jax.random.key(0))
    return program.jaxpr, state, after[0]


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [("float32", "highest"), ("tf32", "high"), ("bfloat16", "bf16_bf16_f32")],
)
def test_the_products_of_a_training_step_have_the_precision(precision, wanted):
    program, _, _ = program_of(precision)
    found = list(products(program))
    of_layers = [(types, name.lower()) for types, name in found]
    assert len(of_layers) > 20
    exact = [types for types, name in of_layers if "highest" in name]
    rounded = [types for types, name in of_layers if wanted in name]
    assert len(exact) + len(rounded) == len(of_layers) * (2 if wanted == "highest" else 1)
    assert len(rounded) > 20
    # The gates multiply activations; layers have float32 states.
    narrow = [types for types in rounded if "bfloat16" in types]
    assert bool(narrow) == (precision == "bfloat16")
    assert not any("bfloat16" in types for types in exact)
    assert [types for types in rounded if "float32" in types]


@pytest.mark.parametrize("layer", ["s5", "s4d", "lru"])
def test_states_statistics_and_parameters_stay_in_float32(layer):
    program, before, after = program_of("bfloat16", layer=layer)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, before)
    assert {leaf.dtype for leaf in jax.tree.leaves(before)} <= {np.dtype("f4"), np.dtype("i4")}
    for equation in equations(program):
        name = equation.primitive.name
        types = {str(it.aval.dtype) for it in (*equation.invars, *equation.outvars)}
        if name in ("diagonal_scan", "lagged_product", "fft", "rsqrt", "exp", "log"):
            assert "bfloat16" not in types, name
        if name == "dot_general" and layer == "s4d" and len(equation.invars[0].aval.shape) == 3:
            # The kernels of the convolution.
            assert "HIGHEST" in str(equation.params["precision"])
    # Sums of statistics, not of gradients of activations.
    sums = [it for it in equations(program) if it.primitive.name == "total"]
    assert any(it.invars[0].aval.dtype == jnp.float32 for it in sums)


EXACT = (jax.lax.Precision.HIGHEST,) * 2


@pytest.fixture
def rounding(monkeypatch):
    """The default of a GPU, on which JAX rounds products; records the precision of each product."""
    precisions = []
    bind = dot_general_p.bind

    def record(*operands, **params):
        precisions.append(params["precision"])
        return bind(*operands, **params)

    monkeypatch.setattr(dot_general_p, "bind", record)
    # Programs that were traced before would not be recorded.
    jax.clear_caches()
    with jax.default_matmul_precision("tensorfloat32"):
        jax.eval_shape(jnp.dot, jnp.ones(2), jnp.ones(2))
        assert precisions.pop() != EXACT
        yield precisions


def test_refits_do_not_depend_on_the_default_precision(rounding):
    model = filled(shapes_of(layer="lru", norm="layer", layers=1, bidirectional=False))
    x = np.random.default_rng(0).normal(size=(2, 20, 2)).astype(np.float32)
    lastax.prune(model, ratio=0.5, calibration=[x])
    assert len(rounding) > 5
    assert set(rounding) == {EXACT}


@pytest.mark.parametrize("layer", ["s5", "s4d"])
def test_scores_and_kernels_do_not_depend_on_the_default_precision(layer, rounding):
    """Only the products of a layer and its gates do, if they are called outside of a network."""
    model = filled(shapes_of(layer=layer, norm="batch", layers=1, bidirectional=False))
    system = lastax.systems(model)[0]

    def penalty(B):
        return lastax.analysis.hankel_penalty(dataclasses.replace(system, B=B + 0j))

    def error(states):
        pairs = [(jax.tree.map(lambda x: x[None], states),) * 2]
        return squared_error(forward, model.encoder.blocks[0], pairs)

    def stream(x):
        cell = lastax.streaming(model)
        return cell.chunk(cell.init(), x), cell.step(cell.init(), x[0])

    x, forward = jnp.ones((2, 20, 2)), lastax.nn.NetworkForward()
    states = jax.eval_shape(lambda x: forward.enter(model, x, None), x)
    rounding.clear()
    programs = [
        jax.make_jaxpr(jax.grad(penalty))(jnp.real(system.B)),
        jax.make_jaxpr(error)(states),
        jax.make_jaxpr(stream)(x[0]),
    ]
    if layer == "s4d":
        programs.append(jax.make_jaxpr(jax.grad(lambda u: jnp.sum(system(u))))(jnp.ones((20, 4))))
    else:
        on_device = jax.tree.map(jnp.asarray, system)
        programs.append(jax.make_jaxpr(lambda w: transfer_function(on_device, w))(jnp.ones(3)))
    for program in programs:
        found = [name for _, name in products(program.jaxpr)]
        assert found or layer == "s4d"
        assert {name.lower() for name in found} <= {"highest", str(EXACT).lower()}
    assert set(rounding) == {EXACT}
    assert "precision = [HIGHEST, HIGHEST]" in jax.jit(total).lower(x[0]).as_text()


def test_what_is_stored_between_layers_is_bfloat16():
    """The input of each block, which `remat` keeps for the gradient."""
    for precision, dtype in (("float32", jnp.float32), ("bfloat16", jnp.bfloat16)):
        program = eqx.filter_make_jaxpr(lambda model, x: model.encoder(x, remat=True)[0])(
            shapes_of(precision), jax.ShapeDtypeStruct((LENGTH, 2), jnp.float32)
        )[0]
        (scan,) = (it for it in program.eqns if it.primitive.name == "scan")
        (hidden,) = (it.aval for it in scan.outvars if it.aval.shape == (LENGTH, 4))
        assert hidden.dtype == dtype
        assert [it.dtype for it in program.out_avals] == [jnp.float32]


def test_outputs_agree_up_to_rounding_and_scores_bit_for_bit():
    model = filled(shapes_of(layer="lru", norm="layer"))
    x = np.random.default_rng(0).normal(size=(3, LENGTH, 2)).astype(np.float32)
    logits = {
        name: compiled(lambda model: lastax.predict(model, {"x": x}))(
            lastax.nn.with_precision(model, precision)
        )
        for name, precision in PRECISIONS.items()
    }
    wanted = logits["float32"]
    assert all(found.dtype == jnp.float32 for found in logits.values())
    size = float(jnp.abs(wanted).max())
    np.testing.assert_allclose(logits["tf32"], wanted, atol=2e-3 * size)
    difference = float(jnp.abs(logits["bfloat16"] - wanted).max())
    assert 1e-5 * size < difference < 0.1 * size
    other = lastax.nn.with_precision(model, PRECISIONS["bfloat16"])
    for method in ("last", "aire"):
        plans = [lastax.plan_pruning(it, method=method, ratio=0.3) for it in (model, other)]
        for one, same in zip(*(plan.scores for plan in plans), strict=True):
            np.testing.assert_array_equal(one, same)


def test_refits_compute_the_same_for_every_precision():
    """They compute block by block; the program does not depend on the precision."""
    forward = lastax.nn.NetworkForward()

    def outputs(model, x):
        states = forward.enter(model, x, None)
        for block in forward.blocks(model):
            y = jax.vmap(block.layer)(forward.before(block, states))
            states = forward.after(block, states, y)
        return forward.head(model)(forward.features(model, states))

    x = jax.ShapeDtypeStruct((2, LENGTH, 2), jnp.float32)
    programs = {str(eqx.filter_make_jaxpr(outputs)(shapes_of(name), x)[0]) for name in PRECISIONS}
    (program,) = programs
    assert "bf16" not in program


def test_a_saved_network_keeps_its_precision_and_an_old_one_has_the_default(tmp_path):
    model = filled(shapes_of("tf32"))
    lastax.save(tmp_path, model)
    assert lastax.load(tmp_path).encoder.precision == PRECISIONS["tf32"]
    structure = tmp_path / "structure.json"
    described = json.loads(structure.read_text())
    del described["fields"]["encoder"]["fields"]["precision"]
    structure.write_text(json.dumps(described))
    assert lastax.load(tmp_path).encoder.precision == PRECISIONS["float32"]
