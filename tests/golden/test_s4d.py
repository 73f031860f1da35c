"""S4D layers against the published implementation and float64 truth.

Cases, lengths and removal ratios are those of the golden files.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lastax

from .adapters import DISCRETIZATIONS, compiled
from .reading import Case, Declaration, Kind, assert_all_known

KIND = "s4d"
INITIAL = "init"
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


def parameters(kind: Kind) -> dict[str, dict]:
    layers = {name: kind.case(name, {}, DECLARATION) for name in kind.stored if name != INITIAL}
    initial, cfg = kind.case(INITIAL, {}, DECLARATION), kind.facts["cfg"]
    return {
        "layer": layers,
        "network": {name: case for name, case in layers.items() if "out_conv_weight" in case},
        "cut": {
            f"{name}-{ratio}": (case, ratio)
            for name, case in layers.items()
            for ratio in case.numbers(r"mask_(\d+)")
        },
        "length": {f"L{length}": length for length in cfg["L"]},
        "start": {
            f"{name}-{size}": (initial.below(f"{name}/N{size}"), name, size)
            for name in cfg["inits"]
            for size in cfg["init_N"]
        },
    }


def test_every_array_is_known(kind):
    known, cfg = parameters(kind), kind.facts["cfg"]
    initial = kind.case(INITIAL, {}, DECLARATION)
    assert_all_known(kind, [*known["layer"].values(), initial], DECLARATION)
    assert all(known.values()), "the files have no case for some tests"
    for case in known["layer"].values():
        assert case.numbers(r"L(\d+)/.+") == sorted(cfg["L"])
    stored = {name.removesuffix("/A") for name in initial if name.endswith("/A")}
    assert stored == {f"{name}/N{size}" for _, name, size in known["start"].values()}


def public_layer(case: Case) -> lastax.S4D:
    """A layer with the published parameters, which have one row per channel."""
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
        discretize=DISCRETIZATIONS[case.name.rsplit("_", 1)[-1]],
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
    """The largest error is at most `tolerance` times the largest value."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@compiled
def kernel_of(system: lastax.MultiSISO, length: int) -> jax.Array:
    (kernel,) = system.kernels(length)
    return kernel


@compiled
def responses(system: lastax.MultiSISO, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Outputs `(batch, H, L)` by convolution and by recurrence."""
    sequences = jnp.swapaxes(u, 1, 2)
    convolved = jax.vmap(system)(sequences)
    recurrent = jax.vmap(lambda u: system.run(u)[0])(sequences)
    return jnp.swapaxes(convolved, 1, 2), jnp.swapaxes(recurrent, 1, 2)


def test_float64_system_of_the_published_layer(layer):
    (found,) = lastax.systems([public_layer(layer)])
    # The published diagonal kernel stores real parts; our layer stores rounded logarithms of them.
    rtol = 1e-9 if "log_A_real" in layer else 1e-6
    close(found.lam, layer["lam64"], rtol)
    close(found.B, layer["B_bar64"], rtol)
    close(found.C, layer["C64"])


def test_kernel(layer, length):
    kernel = kernel_of(public_layer(layer).system(), length)
    near(kernel, layer[f"L{length}/K"])
    near(kernel, layer[f"L{length}/K64"])
    with jax.enable_x64(True):
        near(kernel_of(truth(layer), length), layer[f"L{length}/K64"], 1e-12)


def test_convolution_and_recurrence(network, length):
    u, before = network[f"L{length}/u"], network[f"L{length}/pre_activation"]
    wanted, exact = network[f"L{length}/conv_out"], network[f"L{length}/conv_out64"]
    through = network["D"][:, None] * u
    for y in responses(public_layer(network).system(), u):
        for sequence in range(len(u)):
            near(y[sequence], before[sequence])
            near(y[sequence] - through[sequence], wanted[sequence])
            near(y[sequence] - through[sequence], exact[sequence])
    with jax.enable_x64(True):
        for y in responses(truth(network), u.astype(float)):
            for sequence in range(len(u)):
                near(y[sequence] - through[sequence].astype(float), exact[sequence], 1e-6)


def test_complete_published_layer(network, length):
    """S4D, exact GELU, a linear map to `2 H` channels, and a gated linear unit."""
    weight, bias = network["out_conv_weight"][:, :, 0], network["out_conv_bias"]

    @compiled
    def outputs(layer, u):
        g = jax.nn.gelu(layer(u.T), approximate=False)
        value, gate = jnp.split(g @ weight.T + bias[None], 2, axis=1)
        return (value * jax.nn.sigmoid(gate)).T

    for u, wanted, exact in zip(
        network[f"L{length}/u"], network[f"L{length}/y"], network[f"L{length}/y64"], strict=True
    ):
        y = outputs(public_layer(network), u)
        near(y, wanted)
        near(y, exact)


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


def test_removal(cut, kind):
    case, ratio = cut
    mask = case[f"mask_{ratio}"].ravel()
    system = truth(case)
    (selected,) = lastax.select_global([lastax.last_scores(system)], int(mask.sum()))
    np.testing.assert_array_equal(selected, mask)
    small = system.keep(mask)
    assert small.states == mask.sum() == len(small.lam)
    layer = public_layer(case).keep(mask)
    for length in kind.facts["cfg"]["L"]:
        wanted = case[f"L{length}/K64_removed_{ratio}"]
        with jax.enable_x64(True):
            near(kernel_of(small, length), wanted, 1e-12)
        near(kernel_of(layer.system(), length), wanted)


def test_certificates(cut):
    case, ratio = cut
    mask, system = case[f"mask_{ratio}"].ravel(), truth(case)
    hinf, bound, h2 = (case[f"channel_err_{name}_{ratio}"] for name in ("hinf", "bound", "h2"))
    N = len(mask) // len(system.counts)
    for h, part in enumerate(lastax.ssm.channel_systems(system)):
        keep = mask[h * N : (h + 1) * N]
        np.testing.assert_allclose(lastax.analysis.error_hinf(part, keep), hinf[h], rtol=1e-9)
        np.testing.assert_allclose(lastax.error_bound(part, keep), bound[h], rtol=1e-9)
        np.testing.assert_allclose(lastax.analysis.error_h2(part, keep), h2[h], rtol=1e-9)
        assert hinf[h] <= bound[h] * (1 + 1e-12)
    # Channels share neither inputs nor outputs.
    close(lastax.analysis.error_hinf(system, mask), hinf.max())
    close(lastax.error_bound(system, mask), bound.max())
    close(lastax.analysis.error_h2(system, mask), np.linalg.norm(h2))


def test_initial_eigenvalues(start):
    case, name, size = start
    Lambda, B = lastax.nn.S4D_EIGENVALUES[name](size // 2)
    near(Lambda, case["A"], 1e-6)
    near(Lambda, case["A64"], 1e-12)
    # Eigenvectors are unique up to phase, so only |B| is comparable, and only where its imaginary
    # part is not clipped.
    unclipped = np.abs(case["B"].imag) < 2
    unclipped &= np.abs(B.imag) < 2
    near(np.abs(B)[unclipped], np.abs(case["B"])[unclipped], 1e-5)
    assert np.abs(B.imag).max() <= 2
    assert unclipped.any()
