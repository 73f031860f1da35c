"""TODO ssm._powers."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Complex

from lastax._typing import Array

# Real and imaginary parts of complex numbers.
SplitComplex = tuple[Array, Array]


def multiply(a: SplitComplex, b: SplitComplex) -> SplitComplex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def add(a: SplitComplex, b: SplitComplex) -> SplitComplex:
    return a[0] + b[0], a[1] + b[1]


def multiply_double_word(
    a: tuple[SplitComplex, SplitComplex], b: tuple[SplitComplex, SplitComplex]
) -> tuple[SplitComplex, SplitComplex]:
    """The product of complex numbers that come with what rounding has taken from them.

    Twice the precision of the arrays, from sums and products that are exact. Dekker, 1971.
    """
    (a_re, a_im), (b_re, b_im) = a[0], b[0]
    re, re_lost = _sum_of_products(a_re, b_re, -a_im, b_im)
    im, im_lost = _sum_of_products(a_re, b_im, a_im, b_re)
    smaller = add(multiply(a[0], b[1]), multiply(a[1], b[0]))
    lost = add((re_lost, im_lost), smaller)
    product = add((re, im), lost)
    return product, (lost[0] - (product[0] - re), lost[1] - (product[1] - im))


def _sum_of_products(a: Array, b: Array, c: Array, d: Array) -> SplitComplex:
    """`a b + c d`, and what rounding took from it."""
    (p, p_lost), (q, q_lost) = _exact_product(a, b), _exact_product(c, d)
    total = p + q
    q_taken = total - p
    return total, (p - (total - q_taken)) + (q - q_taken) + (p_lost + q_lost)


def _exact_product(a: Array, b: Array) -> SplitComplex:
    """`a b`, and what rounding took from it."""
    kind = jnp.finfo(a.dtype)

    def half(x: Array) -> Array:
        return jax.lax.reduce_precision(x, kind.nexp, (kind.nmant - 1) // 2)

    product, a_high, b_high = a * b, half(a), half(b)
    a_low, b_low = a - a_high, b - b_high
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, lost


def power(a: Array, exponent: int) -> Array:
    """`a` to an integer power, by repeated squaring."""
    nothing = jnp.zeros_like(a.real)
    bits = jnp.array([exponent >> place & 1 for place in range(exponent.bit_length())], bool)

    def advance(carry: tuple, bit: Array) -> tuple:
        square, product = carry
        more = multiply_double_word(product, square)
        product = jax.tree.map(lambda one, other: jnp.where(bit, one, other), more, product)
        return (multiply_double_word(square, square), product), None

    start = ((a.real, a.imag), (nothing, nothing)), ((nothing + 1, nothing), (nothing, nothing))
    (_, product), _ = jax.lax.scan(advance, start, bits)
    return jax.lax.complex(*product[0])


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def power_tables(
    lam: Complex[Array, " S"], steps: int, chunks: int
) -> tuple[Complex[Array, "S T"], Complex[Array, "S n"]]:
    """Powers `lam^0 .. lam^(steps - 1)`, and `lam^0, lam^steps .. lam^((chunks - 1) steps)`.

    `steps` must be a power of two.
    """
    inner_bits, outer_bits = (steps - 1).bit_length(), (chunks - 1).bit_length()
    squares = _squares(lam, inner_bits + outer_bits)
    inner = _products_of_bits(squares[:inner_bits], steps)
    return inner, _products_of_bits(squares[inner_bits:], chunks)


@power_tables.defjvp
def _power_tables_jvp(steps: int, chunks: int, primals: tuple, tangents: tuple) -> tuple:
    (lam,), (lam_dot,) = primals, tangents
    inner, outer = power_tables(lam, steps, chunks)
    # The derivative of a power is its exponent times the power before.
    inner_before = jnp.pad(inner[:, :-1], ((0, 0), (1, 0))) * jnp.arange(steps)[None]
    outer_before = jnp.pad(outer[:, :-1], ((0, 0), (1, 0))) * inner[:, -1:]
    outer_before = outer_before * (steps * jnp.arange(chunks))[None]
    dot = lam_dot[:, None]
    return (inner, outer), (inner_before * dot, outer_before * dot)


def _squares(lam: Complex[Array, " S"], count: int) -> Complex[Array, "j S"]:
    """`lam^(2^j)` for `j` from 0 on: squaring doubles the error, so that it must begin small."""
    nothing = jnp.zeros_like(lam.real)

    def advance(square: tuple[SplitComplex, SplitComplex], _: None) -> tuple:
        return multiply_double_word(square, square), square[0]

    start = (lam.real, lam.imag), (nothing, nothing)
    squares: SplitComplex = jax.lax.scan(advance, start, None, length=count)[1]
    return jax.lax.complex(*squares)


def _products_of_bits(squares: Complex[Array, "j S"], count: int) -> Complex[Array, "S n"]:
    """Powers 0 to `count - 1`, each the product of the squares that its bits name.

    In two halves, so that a power costs a product and not one a bit.
    """
    bits, states = squares.shape
    low = bits // 2

    def table(first: int, last: int) -> Array:
        powers = jnp.ones((states, 1), squares.dtype)
        for bit in range(first, last):
            factor = jnp.stack([jnp.ones(states, squares.dtype), squares[bit]], axis=1)
            powers = (factor[:, :, None] * powers[:, None, :]).reshape(states, -1)
        return powers

    halves = jax.lax.optimization_barrier((table(low, bits), table(0, low)))
    return (halves[0][:, :, None] * halves[1][:, None, :]).reshape(states, -1)[:, :count]
