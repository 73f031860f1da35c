"""Networks on a mesh of explicit axes, and in `jax.shard_map`, with two devices."""

from ..devices import run_on_devices

PROGRAM = """
    import equinox as eqx, jax, jax.numpy as jnp, lastax, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    def placed(tree, *spec):
        put = lambda a: jax.device_put(a, NamedSharding(mesh, P(*spec)))
        return jax.tree.map(lambda a: put(a) if eqx.is_array(a) else a, tree)

    def values(network, x):
        def loss(network):
            y, _ = eqx.filter_vmap(
                lambda x: network.forward(x, axis="batch"), axis_name="batch", out_axes=(0, None)
            )(x)
            return jnp.sum(y**2), y
        return eqx.filter_value_and_grad(loss, has_aux=True)(network)

    def equal(got, expected):
        return eqx.tree_equal(*map(jax.device_get, (got, expected)), rtol=1e-4, atol=1e-5)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9, 3)), jnp.float32)
    batch = placed(x, "data")
    config = lastax.ModelConfig(layers=1, channels=2, states=4, dropout=0.0)
    network = lastax.build_network(config, input_size=3, classes=2, key=jax.random.key(0))
    eqx.filter_eval_shape(values, placed(network), batch)

    def energy(module, x):
        return jnp.sum(jax.vmap(module)(x) ** 2)

    linear, layer = network.encoder.embed, network.encoder.blocks[0].layer
    compute = jax.jit(jax.value_and_grad(energy))
    assert equal(compute(placed(linear), batch), compute(linear, x))
    u = x[:, :, :2]
    assert equal(compute(placed(layer), placed(u, "data")), compute(layer, u))
    pruned = lastax.prune(placed(layer, "data"), ratio=0.5)
    assert equal(pruned, lastax.prune(layer, ratio=0.5))
    s4d = lastax.S4D.initialize(2, 2, key=jax.random.key(0))
    eqx.filter_eval_shape(jax.grad(energy), placed(s4d), placed(u, "data"))
    mask = np.arange(4) % 2 == 0
    assert equal(placed(s4d, "data").keep(mask), s4d.keep(mask))

    def mean_energy(layer, x):
        return jax.lax.pmean(jnp.mean(jax.vmap(layer)(x) ** 2), "data")

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    parts = jax.shard_map(mean_energy, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    eqx.filter_eval_shape(jax.grad(parts), layer, jnp.ones((4, 9, 2)))

    def has_kernels(function, *arguments):
        traced = jax.jit(function).trace(*arguments)
        try:
            return "xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
        except RuntimeError:  # Some versions of JAX lower kernels only with a GPU.
            return True

    whole = lambda u: jax.vmap(layer)(u)
    assert has_kernels(whole, jnp.asarray(u))
    assert not has_kernels(whole, placed(u, "data"))
    assert not has_kernels(parts, layer, u)
"""


def test_sharded_batches_and_layers(monkeypatch):
    """Outputs, gradients and pruned layers are those of one device; gradients in `shard_map`.

    GPU kernels are part of programs for one device only.
    """
    # The virtual devices are used on a machine with a GPU too.
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    run_on_devices(PROGRAM, 2)
