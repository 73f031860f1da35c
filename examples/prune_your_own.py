"""Prune a network that this script alone defines: an S5 layer of lastax, everything else ours."""

import equinox as eqx
import jax
import jax.numpy as jnp

import lastax


class Forecaster(eqx.Module):
    layers: list[lastax.S5]
    readout: jax.Array

    def __call__(self, u):  # (steps, channels) -> (steps,)
        for layer in self.layers:
            u = u + jnp.tanh(layer(u))
        return u @ self.readout


keys = jax.random.split(jax.random.key(0), 3)
layers = [lastax.S5.initialize(channels=8, states=32, key=key) for key in keys[:2]]
model = Forecaster(layers, jax.random.normal(keys[2], (8,)))
small = lastax.prune(model, ratio=0.5)

signal = jax.random.normal(jax.random.key(1), (200, 8))
print("states a layer:", lastax.state_counts(model), "->", lastax.state_counts(small))
print("shape of B:", model.layers[0].B.shape, "->", small.layers[0].B.shape)
print("largest change of the answer:", float(jnp.abs(model(signal) - small(signal)).max()))
for system, kept in zip(lastax.systems(model), lastax.plan_pruning(model, ratio=0.5).keep):
    print(f"certificate: error {lastax.error_hinf(system, kept):.3g} <= bound {lastax.error_bound(system, kept):.3g}")
