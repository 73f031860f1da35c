"""Models on a mesh of devices: pruned, refitted and evaluated like models on one device."""

import pytest

from ..devices import run_on_devices


@pytest.mark.slow
def test_a_model_on_several_devices_is_pruned_and_evaluated_like_one_on_one_device():
    program = """
        import jax, equinox as eqx, numpy as np, lastax
        from lastax.training import Placement, evaluate
        config = lastax.ModelConfig(layers=2, channels=6, states=8)
        model = lastax.build_network(config, input_size=3, classes=2, key=jax.random.key(0))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(8, 40, 3)).astype("float32")
        # Seven rows do not divide among four devices.
        batch = {"x": x[:7], "label": (np.arange(7) % 2).astype("int32")}
        placement = Placement.over(jax.devices())
        on_all, rows = placement.state(model), placement.batch({"x": x})["x"]
        assert len(jax.tree.leaves(eqx.filter(on_all, eqx.is_array))[0].sharding.device_set) == 4
        assert len(rows.sharding.device_set) == 4
        # Each device computes the features of its own rows.
        from lastax.calibration import _chunk_moments
        seen, features = [], _chunk_moments._features
        _chunk_moments._features = lambda system, u: seen.append(u.sharding) or features(system, u)
        seven = placement.filled_batch({"x": x[:7]})
        for here, there in (({}, {}), (x, rows), (x[:7], seven)):
            method = "calibrated" if len(here) else "last"
            options = [{"calibration": data} if len(here) else {} for data in (here, there)]
            one = lastax.prune(model, ratio=0.5, method=method, **options[0])
            seen.clear()
            other = lastax.prune(on_all, ratio=0.5, method=method, **options[1])
            arrays = [jax.device_get(eqx.filter(m, eqx.is_array)) for m in (one, other)]
            assert eqx.tree_equal(*arrays, rtol=1e-3, atol=1e-5), method
            assert lastax.state_counts(one) == lastax.state_counts(other)
            assert bool(seen) == (method == "calibrated")
            for sharding in seen:
                assert len(sharding.device_set) == 4
                assert not sharding.is_fully_replicated
        small = lastax.prune(model, ratio=0.5)
        one, other = (lastax.reconstruct(model, small, b, steps=3) for b in (x, rows))
        arrays = [jax.device_get(eqx.filter(m, eqx.is_array)) for m in (one, other)]
        assert eqx.tree_equal(*arrays, rtol=1e-3, atol=1e-5)
        one = evaluate(model, [batch])
        for reached in (evaluate(on_all, [batch]), evaluate(on_all, [batch], placement=placement)):
            assert np.allclose(one, reached, rtol=1e-5)
    """
    run_on_devices(program, 4)
