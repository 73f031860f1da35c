"""Layers of scalar channels, against the public S4D and float64 mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lastax

from .adapters import DISCRETIZATIONS
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "s4d"
LENGTHS = (16, 100)
RATIOS = (30, 50, 90)
DECLARATION = Declaration(
    consumed=(
        "log_dt", "log_A_real", "A_imag", "C", "D", "A", "B", "dt", r"\w+/N\d+/(A|B|A64)",
        r"L\d+/(K|u|conv_out|pre_activation|y|K64|conv_out64|y64|K64_removed_\d+)",
        "out_conv_weight", "out_conv_bias",
        "lam64", "B_bar64", "C64", "hinf_state_(closed|sweep|pair_exact)", "hinf_channel_exact",
        "LAST64_(per_channel|whole_layer)", "aire_raw64",
        r"mask_\d+", r"channel_err_(hinf|bound|h2)_\d+",
    ),
    facts=("cfg",),
)  # fmt: skip
LAYERS = ("default", "trained", "diag_zoh", "diag_bilinear")
NETWORKS = ("default", "trained")


def parameters(kind: Kind) -> dict[str, dict]:
    def cases(names: tuple[str, ...]) -> dict[str, Case]:
        return {name: kind.case(name, {}, DECLARATION) for name in names}

    starts = kind.case("init", {}, DECLARATION)
    return {
        "layer": cases(LAYERS),
        "network": cases(NETWORKS),
        "trained": cases(("trained",)),
        "start": {
            f"{name}-{size}": (starts.below(f"{name}/N{size}"), name, size)
            for name in kind.facts["cfg"]["inits"]
            for size in kind.facts["cfg"]["init_N"]
        },
    }


def test_every_array_is_known(kind):
    known = parameters(kind)
    starts = kind.case("init", {}, DECLARATION)
    assert_all_known(kind, [*known["layer"].values(), starts], DECLARATION)


def public_layer(case: Case) -> lastax.S4D:
    """The public parameters in our layer; theirs are a row a channel."""
    H, N = case["C"].shape[:2]

    def flat(array: np.ndarray) -> jnp.ndarray:
        pair = np.stack([array.real, array.imag], axis=-1) if np.iscomplexobj(array) else array
        return jnp.asarray(pair.reshape(H * N, *pair.shape[2:]), jnp.float32)

    if "log_A_real" in case:
        return lastax.S4D(
            log_decay=flat(case["log_A_real"]),
            Lambda_im=flat(case["A_imag"]),
            B=None,
            C=flat(case["C"]),
            C_reverse=None,
            D=jnp.asarray(case["D"]),
            log_step=jnp.asarray(case["log_dt"]),
            counts=(N,) * H,
        )
    return lastax.S4D(
        log_decay=flat(np.log(-case["A"].real)),
        Lambda_im=flat(case["A"].imag),
        B=flat(case["B"]),
        C=flat(case["C"]),
        C_reverse=None,
        D=jnp.zeros(H),
        log_step=jnp.asarray(np.log(case["dt"][:, 0])),
        counts=(N,) * H,
        discretize=DISCRETIZATIONS[case.name.removeprefix("diag_")],
    )


def truth(case: Case) -> lastax.MultiSISO:
    H, N = case["lam64"].shape
    return lastax.MultiSISO(
        lam=case["lam64"].ravel(),
        B=case["B_bar64"].ravel(),
        C=case["C64"].ravel(),
        C_reverse=None,
        D=case["D"].astype(float) if "D" in case else np.zeros(H),
        counts=(N,) * H,
    )


def close(got, wanted, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(got).reshape(np.shape(wanted)), wanted, rtol=rtol)


def near(got, wanted, tolerance: float = 2e-5) -> None:
    """Up to a share of the largest value."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_double_precision_system_of_the_public_layer(layer):
    (found,) = lastax.systems([public_layer(layer)])
    # Where the public kernel has real parts plain, ours are rounded logarithms.
    rtol = 1e-9 if "log_A_real" in layer else 1e-6
    close(found.lam, layer["lam64"], rtol)
    close(found.B, layer["B_bar64"], rtol)
    close(found.C, layer["C64"])


@pytest.mark.parametrize("length", LENGTHS)
def test_kernel(layer, length):
    (kernel,) = public_layer(layer).system().kernels(length)
    near(kernel, layer[f"L{length}/K"])
    near(kernel, layer[f"L{length}/K64"])
    with jax.enable_x64(True):
        (exact,) = truth(layer).kernels(length)
        near(exact, layer[f"L{length}/K64"], 1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_convolution_and_recurrence(network, length):
    system = public_layer(network).system()
    convolved, u = network[f"L{length}/conv_out"], network[f"L{length}/u"]
    through = network["D"][:, None] * u
    for u_one, direct, before, wanted, exact in zip(
        u,
        through,
        network[f"L{length}/pre_activation"],
        convolved,
        network[f"L{length}/conv_out64"],
        strict=True,
    ):
        for y in (system(jnp.asarray(u_one.T)), system.run(jnp.asarray(u_one.T))[0]):
            near(y.T, before)
            near(y.T - direct, wanted)
            near(y.T - direct, exact)
        with jax.enable_x64(True):
            double = truth(network)
            for y in (double(jnp.asarray(u_one.T, float)), double.run(jnp.asarray(u_one.T))[0]):
                near(y.T - direct.astype(float), exact, 1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_public_layer(network, length):
    """Exact GELU, a linear map to twice the channels, and a gated linear unit."""
    layer = public_layer(network)
    weight, bias = network["out_conv_weight"][:, :, 0], network["out_conv_bias"]
    for u, wanted, exact in zip(
        network[f"L{length}/u"], network[f"L{length}/y"], network[f"L{length}/y64"], strict=True
    ):
        g = jax.nn.gelu(layer(jnp.asarray(u.T)), approximate=False)
        value, gate = jnp.split(g @ weight.T + bias[None], 2, axis=1)
        near((value * jax.nn.sigmoid(gate)).T, wanted)
        near((value * jax.nn.sigmoid(gate)).T, exact)


def test_norms_of_states(layer):
    system = truth(layer)
    close(lastax.hinf_norms(system), layer["hinf_state_closed"])
    close(lastax.hinf_norms(system), layer["hinf_state_sweep"])
    close(lastax.analysis.swept_hinf_norms(system, pairs=False), layer["hinf_state_sweep"])
    close(lastax.analysis.swept_hinf_norms(system, pairs=True), layer["hinf_state_pair_exact"])
    close(lastax.analysis.impulse_energies(system), layer["aire_raw64"])


def test_norm_of_channels(layer):
    wanted = layer["hinf_channel_exact"]
    for part, norm in zip(lastax.ssm.channel_systems(truth(layer)), wanted, strict=True):
        close(lastax.analysis.hinf_norm(part), norm)
    close(lastax.analysis.hinf_norm(truth(layer)), wanted.max())


def test_both_normalizations_of_last(layer):
    system = truth(layer)
    close(lastax.last_scores(system), layer["LAST64_whole_layer"])
    close(lastax.pruning.last_per_channel_scores(system), layer["LAST64_per_channel"])


@pytest.mark.parametrize("ratio", RATIOS)
def test_removal(trained, ratio):
    mask = trained[f"mask_{ratio}"].ravel()
    system = truth(trained)
    (selected,) = lastax.select_global([lastax.last_scores(system)], int(mask.sum()))
    np.testing.assert_array_equal(selected, mask)
    small = system.keep(mask)
    assert small.states == mask.sum() == len(small.lam)
    for length in LENGTHS:
        with jax.enable_x64(True):
            near(small.kernels(length)[0], trained[f"L{length}/K64_removed_{ratio}"], 1e-12)
        layer = public_layer(trained).keep(mask)
        near(layer.system().kernels(length)[0], trained[f"L{length}/K64_removed_{ratio}"])


@pytest.mark.parametrize("ratio", RATIOS)
def test_certificates(trained, ratio):
    mask, system = trained[f"mask_{ratio}"].ravel(), truth(trained)
    hinf, bound, h2 = (trained[f"channel_err_{name}_{ratio}"] for name in ("hinf", "bound", "h2"))
    N = len(mask) // len(system.counts)
    for h, part in enumerate(lastax.ssm.channel_systems(system)):
        keep = mask[h * N : (h + 1) * N]
        np.testing.assert_allclose(lastax.analysis.error_hinf(part, keep), hinf[h], rtol=1e-9)
        np.testing.assert_allclose(lastax.error_bound(part, keep), bound[h], rtol=1e-9)
        np.testing.assert_allclose(lastax.analysis.error_h2(part, keep), h2[h], rtol=1e-9)
        assert hinf[h] <= bound[h] * (1 + 1e-12)
    # The channels of a layer work side by side.
    close(lastax.analysis.error_hinf(system, mask), hinf.max())
    close(lastax.error_bound(system, mask), bound.max())
    close(lastax.analysis.error_h2(system, mask), np.linalg.norm(h2))


def test_starting_values(start):
    case, name, size = start
    Lambda, B = lastax.nn.S4D_EIGENVALUES[name](size // 2)
    near(Lambda, case["A"], 1e-6)
    near(Lambda, case["A64"], 1e-12)
    # Eigenvectors are free in phase, and imaginary parts are cut: what is cut has no invariant.
    uncut = np.abs(case["B"].imag) < 2
    uncut &= np.abs(B.imag) < 2
    near(np.abs(B)[uncut], np.abs(case["B"])[uncut], 1e-5)
    assert np.abs(B.imag).max() <= 2
    assert uncut.any()
