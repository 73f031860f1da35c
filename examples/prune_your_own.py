"""Prune a model of your own: an Equinox module that contains S5 layers."""

import equinox as eqx
import jax
import jax.numpy as jnp

import lastax


class Filter(eqx.Module):
    layers: list[lastax.S5]

    def __call__(self, u):  # (steps, channels) -> (steps, channels)
        for layer in self.layers:
            u = u + jnp.tanh(layer(u))
        return u


keys = jax.random.split(jax.random.key(0), 3)
model = Filter([lastax.S5.initialize(channels=8, states=32, key=key) for key in keys[:2]])
small = lastax.prune(model, ratio=0.5)
signal = jax.random.normal(keys[2], (200, 8))
print("states:", lastax.state_counts(model), "->", lastax.state_counts(small))
print("shape of B:", model.layers[0].B.shape, "->", small.layers[0].B.shape)
print("relative change:", jnp.linalg.norm(model(signal) - small(signal)) / jnp.linalg.norm(signal))
