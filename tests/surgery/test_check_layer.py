"""`check_layer` accepts right adapters, and names what is wrong with others."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax


class Adapter(eqx.Module):
    """A layer of two channels, with one fault or none."""

    lam: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array
    step: jax.Array
    fault: str = eqx.field(static=True, default="")

    def system(self, step_rescale=1.0):
        lam = jnp.exp(step_rescale * self.step * self.lam)
        return lastax.System(lam, self.B, self.C, None, self.D, conj_sym=True)

    def __call__(self, u, *, step_rescale=1.0):
        if self.fault == "ignored steps":
            step_rescale = 1.0
        system = self.system(step_rescale)
        states = jax.lax.scan(lambda x, v: (system.lam * x + v,) * 2, 0 * self.lam, u @ self.B.T)[1]
        y = (1 if self.fault == "no pairs" else 2) * (states @ self.C.T).real + self.D[None, :] * u
        if self.fault == "gradient":
            y = y + 0 * jnp.sqrt(0 * self.D)[None, :]
        return y[1:] if self.fault == "shape" else y

    def keep(self, mask):
        index = np.flatnonzero(mask)
        index = index[::-1] if self.fault == "order" else index
        C = self.C if self.fault == "half" else self.C[:, index]
        kept = type(self)(self.lam[index], self.B[index], C, self.D, self.step[index], self.fault)
        return {"keep": kept} if self.fault == "class" else kept


class WritableAdapter(Adapter):
    def with_system(self, system):
        C = self.C if self.fault == "write" else jnp.asarray(system.C, jnp.complex64)
        return eqx.tree_at(lambda one: (one.C, one.D), self, (C, jnp.asarray(system.D)))


def adapter(fault="", kind=Adapter):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=(*shape, 2)) @ [1, 1j], jnp.complex64)

    lam = jnp.asarray([-0.5 + 1j, -0.3 + 2j, -0.2 + 3j, -0.1 + 4j], jnp.complex64)
    step = jnp.full(4, 0.1, jnp.float32)
    return kind(lam, draw(4, 2), draw(2, 4), jnp.ones(2, jnp.float32), step, fault)


def test_right_layers_pass():
    found = lastax.check_layer(adapter())
    assert found[:2] == (4, 2)
    assert max(found.call_error, found.keep_error) < 1e-5
    assert not found.writable


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no pairs", r"layer\(u, step_rescale=1\) differs from system\(1\)\(u\) by .* conj_sym"),
        ("ignored steps", r"layer\(u, step_rescale=2\) differs from system\(2\)\(u\)"),
        ("shape", r"has shape \(31, 2\); u has shape \(32, 2\)"),
        ("order", r"keep\(mask\).system\(\).lam is wrong by .* in their order"),
        ("class", r"keep returned dict; return a Adapter"),
        ("gradient", r"the gradient of D is not finite"),
    ],
)
def test_faults_are_named(fault, message):
    with pytest.raises(ValueError, match=f"check_layer: .*{message}"):
        lastax.check_layer(adapter(fault))


def test_a_wrong_with_system_is_named():
    assert lastax.check_layer(adapter(kind=WritableAdapter)).writable
    with pytest.raises(ValueError, match=r"with_system\(system\).system\(\).C is wrong by 1"):
        lastax.check_layer(adapter("write", WritableAdapter))


def test_missing_methods_are_listed():
    with pytest.raises(ValueError, match="check_layer: Linear lacks system, keep"):
        lastax.check_layer(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
