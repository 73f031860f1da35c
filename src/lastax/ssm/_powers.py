"""Powers of complex numbers in double-word arithmetic.

Repeated squaring doubles the relative error in every step. The functions in this module therefore
carry the rounding error of each product along.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Complex

from lastax._typing import Array

# Real and imaginary parts of complex numbers.
SplitComplex = tuple[Array, Array]

# Complex numbers, and their rounding errors: the exact value is about the sum of both.
DoubleWord = tuple[SplitComplex, SplitComplex]


def power(a: Array, exponent: int) -> Array:
    """`a` to an integer power, by repeated squaring in double-word arithmetic."""
    return jax.lax.complex(*double_word_power(a, exponent)[0])


def double_word_power(a: Array, exponent: int) -> DoubleWord:
    """`a` to an integer power and the rounding error of the power."""
    zero = jnp.zeros_like(a.real)
    bits = jnp.array([exponent >> place & 1 for place in range(exponent.bit_length())], bool)

    def advance(carry: tuple[DoubleWord, DoubleWord], bit: Array) -> tuple:
        square, product = carry
        multiplied = multiply_double_word(product, square)
        product = jax.tree.map(lambda new, old: jnp.where(bit, new, old), multiplied, product)
        return (multiply_double_word(square, square), product), None

    start = ((a.real, a.imag), (zero, zero)), ((zero + 1, zero), (zero, zero))
    product: DoubleWord = jax.lax.scan(advance, start, bits)[0][1]
    return product


def squared_repeatedly(a: Array, times: int) -> Array:
    """`a^(2^times)` in double-word arithmetic, without a loop, which is one kernel on a GPU."""
    zero = jnp.zeros_like(a.real)
    square: DoubleWord = (a.real, a.imag), (zero, zero)
    for _ in range(times):
        square = multiply_double_word(square, square)
    return jax.lax.complex(*square[0])


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def power_tables(
    lam: Complex[Array, " S"], steps: int, chunks: int
) -> tuple[Complex[Array, "S T"], Complex[Array, "S n"]]:
    """Powers within a chunk and powers over chunks.

    Args:
        lam: eigenvalues, shape `(S,)`.
        steps: steps per chunk, a power of two.
        chunks: number of chunks.

    Returns:
        `lam^t` for `t < steps`, shape `(S, steps)`, and `lam^(c steps)` for `c < chunks`, shape
        `(S, chunks)`.
    """
    inner_bits, outer_bits = (steps - 1).bit_length(), (chunks - 1).bit_length()
    squares = _squares(lam, inner_bits + outer_bits)
    inner = _products_of_bits(squares[:inner_bits], steps)
    return inner, _products_of_bits(squares[inner_bits:], chunks)


@power_tables.defjvp
def _power_tables_jvp(
    steps: int, chunks: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (lam,), (lam_dot,) = primals, tangents
    inner, outer = power_tables(lam, steps, chunks)
    # The derivative of lam^n is n lam^(n - 1).
    inner_before = jnp.pad(inner[:, :-1], ((0, 0), (1, 0))) * jnp.arange(steps)[None]
    outer_before = jnp.pad(outer[:, :-1], ((0, 0), (1, 0))) * inner[:, -1:]
    outer_before = outer_before * (steps * jnp.arange(chunks))[None]
    dot = lam_dot[:, None]
    return (inner, outer), (inner_before * dot, outer_before * dot)


def _squares(lam: Complex[Array, " S"], count: int) -> Complex[Array, "j S"]:
    """`lam^(2^j)` for `j < count`."""
    zero = jnp.zeros_like(lam.real)

    def advance(square: DoubleWord, _: None) -> tuple[DoubleWord, SplitComplex]:
        return multiply_double_word(square, square), square[0]

    start = (lam.real, lam.imag), (zero, zero)
    squares: SplitComplex = jax.lax.scan(advance, start, None, length=count)[1]
    return jax.lax.complex(*squares)


def _products_of_bits(squares: Complex[Array, "j S"], count: int) -> Complex[Array, "S n"]:
    """Powers 0 to `count - 1`, each the product of the squares selected by its binary digits.

    The digits are split into two halves, so that each power costs one product instead of one per
    digit.
    """
    bits, states = squares.shape
    low = bits // 2

    def table(first: int, last: int) -> Array:
        powers = jnp.ones((states, 1), squares.dtype)
        for bit in range(first, last):
            factor = jnp.stack([jnp.ones(states, squares.dtype), squares[bit]], axis=1)
            powers = (factor[:, :, None] * powers[:, None, :]).reshape(states, 2 << bit - first)
        return powers

    halves = jax.lax.optimization_barrier((table(low, bits), table(0, low)))
    return (halves[0][:, :, None] * halves[1][:, None, :]).reshape(states, 1 << bits)[:, :count]


def add(a: SplitComplex, b: SplitComplex) -> SplitComplex:
    """The sum of split complex numbers."""
    return a[0] + b[0], a[1] + b[1]


def multiply(a: SplitComplex, b: SplitComplex) -> SplitComplex:
    """The product of split complex numbers."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def multiply_double_word(a: DoubleWord, b: DoubleWord) -> DoubleWord:
    """The product of double-word complex numbers, in twice the precision of the arrays.

    Uses error-free sums and products. Dekker, Numerische Mathematik 18, 1971.
    """
    (a_re, a_im), (b_re, b_im) = a[0], b[0]
    re, re_error = _sum_of_products(a_re, b_re, -a_im, b_im)
    im, im_error = _sum_of_products(a_re, b_im, a_im, b_re)
    cross_terms = add(multiply(a[0], b[1]), multiply(a[1], b[0]))
    error = add((re_error, im_error), cross_terms)
    product = add((re, im), error)
    return product, (error[0] - (product[0] - re), error[1] - (product[1] - im))


def _sum_of_products(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """`a b + c d` and its rounding error."""
    (p, p_error), (q, q_error) = _exact_product(a, b), _exact_product(c, d)
    total = p + q
    q_added = total - p
    return total, (p - (total - q_added)) + (q - q_added) + (p_error + q_error)


def _exact_product(a: Array, b: Array) -> tuple[Array, Array]:
    """`a b` and its rounding error."""
    info = jnp.finfo(a.dtype)

    def upper_half(x: Array) -> Array:
        return jax.lax.reduce_precision(x, info.nexp, (info.nmant - 1) // 2)

    product, a_high, b_high = a * b, upper_half(a), upper_half(b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error
