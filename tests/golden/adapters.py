"""Convert Flax parameters of the published code to lastax models, and back by name."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import lastax

from .reading import Case

DISCRETIZATIONS = {"zoh": lastax.discretize_zoh, "bilinear": lastax.discretize_bilinear}
SCAN_METHODS = get_args(lastax.ssm.ScanMethod)
POOLINGS = {"pool": "mean", "last": "last"}
# Every case is compiled and run once, so fast compilation matters more than fast programs.
compiled = functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
LAYER_OPTIONS = (
    "bidirectional", "conj_sym", "discretization", "C_init", "L", "P", "H", "step_rescale", "blocks"
)  # fmt: skip
NETWORK_OPTIONS = (
    *LAYER_OPTIONS,
    "activation", "prenorm", "batchnorm", "padded", "mode", "kind", "d_in", "batch", "n_out",
    "n_layers",
)  # fmt: skip
LAYER_PARAMETERS = ("Lambda_re", "Lambda_im", "B", "C", "C1", "C2", "D", "log_step")


def layer(flax: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> lastax.S5:
    forward, reverse = _output_maps(flax, options)
    return lastax.S5(
        Lambda_re=jnp.asarray(flax["Lambda_re"]),
        Lambda_im=jnp.asarray(flax["Lambda_im"]),
        B=jnp.asarray(flax["B"]),
        C=forward,
        C_reverse=reverse,
        D=jnp.asarray(flax["D"]),
        log_step=jnp.asarray(flax["log_step"][:, 0]),
        conj_sym=options["conj_sym"],
        discretize=DISCRETIZATIONS[options["discretization"]],
        clip_eigenvalues=options.get("clip_eigs", False),
    )


def network(
    parameters: Case, statistics: Case, options: Mapping[str, Any]
) -> lastax.Classifier | lastax.nn.Retrieval:
    """As in the published code, padding is excluded from the pooling only."""
    encoder = lastax.nn.Encoder(
        embed=_linear(parameters, "encoder/encoder"),
        blocks=tuple(
            _block(parameters, statistics, f"encoder/layers_{index}", options)
            for index in range(options["n_layers"])
        ),
        pooling=POOLINGS[options["mode"]],
        mask_padding=False,
    )
    if options["kind"] == "classification":
        return lastax.Classifier(encoder, _linear(parameters, "decoder"))
    assert options["kind"] == "retrieval"
    return lastax.nn.Retrieval(
        encoder, _linear(parameters, "decoder/layer1"), _linear(parameters, "decoder/layer2")
    )


def scanned(model: Any, method: lastax.ssm.ScanMethod) -> Any:
    """A layer or network whose recurrences are computed by `method`."""

    def is_layer(node: Any) -> bool:
        return isinstance(node, lastax.S5)

    return jax.tree.map(
        lambda node: dataclasses.replace(node, scan_method=method) if is_layer(node) else node,
        model,
        is_leaf=is_layer,
    )


def flax_leaves(model: lastax.Classifier, options: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a model, or of a tree of the same structure, by their Flax names."""
    leaves = dict(_linear_leaves("encoder/encoder", model.encoder.embed))
    leaves |= _linear_leaves("decoder", model.head)
    for index, block in enumerate(model.encoder.blocks):
        prefix = f"encoder/layers_{index}"
        leaves |= {f"{prefix}/norm/{name}": getattr(block.norm, name) for name in ("scale", "bias")}
        for name, linear in (("out1", block.gate.value), ("out2", block.gate.gate)):
            if linear is not None:
                leaves |= _linear_leaves(f"{prefix}/{name}", linear)
        for name in ("Lambda_re", "Lambda_im", "B", "D", "log_step"):
            leaves[f"{prefix}/seq/{name}"] = getattr(block.layer, name)
        if options["bidirectional"]:
            assert options["C_init"] != "complex_normal", "it stores both directions in one leaf"
            leaves[f"{prefix}/seq/C1"] = block.layer.C
            leaves[f"{prefix}/seq/C2"] = block.layer.C_reverse
        else:
            leaves[f"{prefix}/seq/C"] = block.layer.C
    return leaves


def flax_statistics(model: lastax.Classifier | lastax.nn.Retrieval) -> dict[str, Any]:
    """Running statistics by their Flax names."""
    statistics = {}
    for index, block in enumerate(model.encoder.blocks):
        if isinstance(block.norm, lastax.nn.BatchNorm):
            statistics[f"encoder/layers_{index}/norm/mean"] = block.norm.running.mean
            statistics[f"encoder/layers_{index}/norm/var"] = block.norm.running.variance
    return statistics


def batch_of(case: Case) -> dict[str, np.ndarray]:
    """Inputs with one record per row. For retrieval, documents `i` and `n + i` form a record."""
    names = ["x", "lengths"] if case.options["padded"] else ["x"]
    return {
        {"x": "x", "lengths": "length"}[name]: pairs(case[name])
        if case.options["kind"] == "retrieval"
        else case[name]
        for name in names
    }


def pairs(documents: np.ndarray) -> np.ndarray:
    return np.stack(np.split(documents, 2), axis=1)


def evaluated(
    model: lastax.Classifier | lastax.nn.Retrieval, case: Case
) -> tuple[jax.Array, list[jax.Array]]:
    """Log-probabilities, and the outputs of the embedding and of every block per sequence."""
    return _evaluated(model, batch_of(case), case["x"], case.options["step_rescale"])


def widened(tree: Any) -> Any:
    """The same values in float64. Needs x64 mode."""
    return jax.tree.map(
        lambda a: (
            jnp.asarray(np.asarray(a), jnp.float64)
            if isinstance(a, jax.Array | np.ndarray) and np.issubdtype(a.dtype, np.floating)
            else a
        ),
        tree,
    )


def system64(
    lam: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    C_reverse: np.ndarray | None = None,
    *,
    conj_sym: bool = True,
) -> lastax.System:
    """A float64 system of numpy arrays, without feedthrough."""
    return lastax.System(lam, B, C, C_reverse, np.zeros(C.shape[0]), conj_sym)


def assert_within(got: Any, wanted: np.ndarray, share: float) -> None:
    """The largest error is at most `share` times the largest value."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(
        np.asarray(got), wanted, rtol=0, atol=share * np.abs(wanted).max(), strict=False
    )
    assert np.shape(got) == wanted.shape


@compiled
def _evaluated(model, batch, x, rescale):
    outputs = [jax.vmap(model.encoder.embed)(jnp.asarray(x))]
    for block in model.encoder.blocks:
        apply = functools.partial(block, step_rescale=rescale)
        outputs.append(jax.vmap(lambda y, apply=apply: apply(y)[0])(outputs[-1]))
    logits = lastax.predict(model, batch, step_rescale=rescale)
    return jax.nn.log_softmax(logits), outputs


def _output_maps(
    flax: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array | None]:
    if not options["bidirectional"]:
        return jnp.asarray(flax["C"]), None
    if options.get("C_init") == "complex_normal":
        forward, reverse = np.split(flax["C"], 2, axis=1)
        return jnp.asarray(forward), jnp.asarray(reverse)
    return jnp.asarray(flax["C1"]), jnp.asarray(flax["C2"])


def _linear(parameters: Case, prefix: str) -> lastax.nn.Linear:
    return lastax.nn.Linear(
        jnp.asarray(parameters[f"{prefix}/kernel"]), jnp.asarray(parameters[f"{prefix}/bias"])
    )


def _linear_leaves(prefix: str, linear: lastax.nn.Linear) -> Iterator[tuple[str, Any]]:
    yield f"{prefix}/kernel", linear.weight
    yield f"{prefix}/bias", linear.bias


def _block(
    parameters: Case, statistics: Case, prefix: str, options: Mapping[str, Any]
) -> lastax.nn.Block:
    scale = jnp.asarray(parameters[f"{prefix}/norm/scale"])
    bias = jnp.asarray(parameters[f"{prefix}/norm/bias"])
    if options["batchnorm"]:
        running = lastax.nn.RunningStatistics(
            jnp.asarray(statistics[f"{prefix}/norm/mean"]),
            jnp.asarray(statistics[f"{prefix}/norm/var"]),
        )
        norm = lastax.nn.BatchNorm(scale, bias, running)
    else:
        norm = lastax.nn.LayerNorm(scale, bias)
    activation = options["activation"]
    return lastax.nn.Block(
        norm=norm,
        layer=layer(parameters.below(f"{prefix}/seq"), options),
        gate=lastax.nn.Gate(
            value=_linear(parameters, f"{prefix}/out1") if activation == "full_glu" else None,
            gate=_linear(parameters, f"{prefix}/out2") if activation != "gelu" else None,
            activation=activation,
        ),
        prenorm=options["prenorm"],
    )
