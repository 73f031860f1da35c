"""Parameter groups, learning rates, and a training run, step by step."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from .adapters import (
    NETWORK_OPTIONS,
    assert_within,
    compiled,
    flax_leaves,
    flax_statistics,
    network,
)
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "optimizer"
# Of all published training runs; the files do not store it.
WEIGHT_DECAY = 0.05
DECLARATION = Declaration(
    consumed=(
        "init_params/.+", "init_batch_stats/.+", "batch_x", "batch_label", r"params_after_\d+/.+",
        "params_final/.+", "final_batch_stats/.+", "(ssm_)?lr_(used|set_after_step|textbook)",
        "loss",
    ),
    facts=("cases", "param_groups", "model"),
    options=("spe", "epochs", "warmup", "ssm_lr", "lr_factor", "lr_min", "cosine"),
)  # fmt: skip


def parameters(kind: Kind) -> dict[str, dict]:
    cases = {case.name: case for case in kind.listed(DECLARATION)}
    return {"case": cases, "rule": {rule: rule for rule in kind.facts["param_groups"]}}


def model_of(case: Case, kind: Kind) -> lastax.Classifier:
    return network(case.below("init_params"), case.below("init_batch_stats"), kind.facts["model"])


def schedules(case: Case, style: str) -> dict[str, lastax.training.Schedule]:
    o = case.options
    rates = {"lr": o["ssm_lr"] * o["lr_factor"], "ssm_lr": o["ssm_lr"]}
    return {
        name: lastax.training.SCHEDULES[style](
            base,
            steps_per_epoch=o["spe"],
            epochs=o["epochs"],
            warmup_epochs=o["warmup"],
            minimum=o["lr_min"],
            anneal=o["cosine"],
        )
        for name, base in rates.items()
    }


def test_every_array_is_known(kind):
    assert_all_known(kind, parameters(kind)["case"].values(), DECLARATION)
    assert set(kind.facts["model"]) <= set(NETWORK_OPTIONS)


def test_parameter_groups(kind, rule):
    case = kind.listed(DECLARATION)[0]
    grouping, dt_global = rule.split("/dt_global=")
    trainable, _ = lastax.nn.split_trainable(model_of(case, kind))
    groups = lastax.training.parameter_groups(
        trainable, grouping=grouping, step_size_global=dt_global == "True"
    )
    got = flax_leaves(groups, kind.facts["model"])
    published = kind.facts["param_groups"][rule]["labels"]
    # With BandCdecay the published label of B is `ssm_decay`, which has no transform there, or
    # `none`. Both mean the learning rate of state-space parameters with weight decay.
    renamed = {"none": "ssm_decay"}
    assert got == {name: renamed.get(label, label) for name, label in published.items()}
    if "ssm_decay" in published.values():
        assert "no corresponding transformation" in kind.facts["param_groups"][rule]["error"]


def test_every_grouping_is_published(kind):
    assert {rule.split("/")[0] for rule in kind.facts["param_groups"]} == set(
        lastax.training.GROUPINGS
    )


def test_published_schedule(case, x64):
    for name, rate in schedules(case, "published").items():
        steps = jnp.arange(len(case[f"{name}_used"]))
        used = jax.vmap(rate)(steps)
        base = case[f"{name}_used"][0]
        # The published float32 cosine cancels near its end.
        np.testing.assert_allclose(used, case[f"{name}_used"], rtol=1e-6, atol=1e-7 * base)
        set_after = jax.vmap(rate)(steps + 1)
        np.testing.assert_allclose(
            set_after, case[f"{name}_set_after_step"], rtol=1e-6, atol=1e-7 * base
        )


def test_warmup_cosine_schedule(case, x64):
    for name, rate in schedules(case, "warmup-cosine").items():
        wanted = case[f"{name}_textbook"]
        np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(len(wanted))), wanted, rtol=1e-9)


@pytest.mark.parametrize("style", lastax.training.SCHEDULES)
def test_schedules_in_float32(case, style):
    for rate in schedules(case, style).values():
        steps = jnp.arange(case.options["spe"] * case.options["epochs"])
        single = jax.jit(jax.vmap(rate))(steps)
        with jax.enable_x64(True):
            double = np.asarray(jax.vmap(rate)(jnp.asarray(np.asarray(steps))))
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-6 * double.max())


def test_training_run(case, kind):
    """Losses of all steps, intermediate and final parameters, and final running statistics."""
    published = schedules(case, "published")
    optimizer = lastax.training.make_optimizer(
        published["lr"], published["ssm_lr"], weight_decay=WEIGHT_DECAY, grouping="standard"
    )
    step = compiled(
        functools.partial(lastax.training.train_step, optimizer=optimizer, key=jax.random.key(0))
    )
    state = lastax.training.TrainState.initialize(model_of(case, kind), optimizer)
    snapshots = {"final": len(case["loss"])}
    for name in case:
        if name.startswith("params_after_"):
            count = name.removeprefix("params_after_").split("/")[0]
            snapshots[f"after_{count}"] = int(count)
    assert len(snapshots) > 1
    losses = []
    for index in range(len(case["loss"])):
        batch = index % len(case["batch_x"])
        state, metrics = step(
            state, {"x": case["batch_x"][batch], "label": case["batch_label"][batch]}
        )
        losses.append(float(metrics.loss))
        for snapshot, count in snapshots.items():
            if index + 1 == count:
                assert_parameters(state.model, case.below(f"params_{snapshot}"), kind)
    assert_within(losses, case["loss"], 2e-5)
    for name, value in flax_statistics(state.model).items():
        assert_within(value, case[f"final_batch_stats/{name}"], 2e-5)
    assert state.step == len(case["loss"])


def assert_parameters(model: lastax.Classifier, stored: Case, kind: Kind) -> None:
    leaves = flax_leaves(model, kind.facts["model"])
    assert set(leaves) == set(stored)
    for name, leaf in leaves.items():
        wanted = stored[name][:, 0] if name.endswith("log_step") else stored[name]
        assert_within(leaf, wanted, 2e-5)


def test_running_statistics_are_not_trained(kind):
    case = kind.listed(DECLARATION)[0]
    trainable, rest = lastax.nn.split_trainable(model_of(case, kind))
    assert all(value is None for value in flax_statistics(trainable).values())
    stored = [name for name in case if name.startswith("init_batch_stats/")]
    assert len([leaf for leaf in jax.tree.leaves(rest) if eqx.is_array(leaf)]) == len(stored)
