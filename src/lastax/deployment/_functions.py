"""The functions that one step consists of, in C99."""

from __future__ import annotations

import re

# In the order of their definitions. A program contains those that it uses.
_DEFINITIONS = """
/* The sum of `n` products, in four sums that do not wait for each other. */
static float dot(int n, const float *w, const float *x)
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    int i;
    for (i = 0; i < n % 4; i++)
        s0 += w[i] * x[i];
    for (; i < n; i += 4) {
        s0 += w[i] * x[i];
        s1 += w[i + 1] * x[i + 1];
        s2 += w[i + 2] * x[i + 2];
        s3 += w[i + 3] * x[i + 3];
    }
    return (s0 + s1) + (s2 + s3);
}

/* The sum of `n` products with weights of 8 bits. */
static float dot_int8(int n, const int8_t *w, const float *x)
{
    float s[8] = {0.0f}, rest = 0.0f;
    int i, k;
    for (i = 0; i < n % 8; i++)
        rest += (float)w[i] * x[i];
    for (; i < n; i += 8) {
        UNROLLED
        for (k = 0; k < 8; k++)
            s[k] += (float)w[i + k] * x[i + k];
    }
    return rest + ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* The sum of `n` products of integers of 8 bits. It fits in 32 bits if n <= 132,104. */
static int32_t dot_integers(int n, const int8_t *w, const int8_t *x)
{
    int32_t sum = 0;
    int i, k;
    for (i = 0; i < n % 16; i++)
        sum += (int32_t)w[i] * x[i];
    for (; i < n; i += 16) {
        UNROLLED
        for (k = 0; k < 16; k++)
            sum += (int32_t)w[i + k] * x[i + k];
    }
    return sum;
}

/* The integers nearest to `factor` x, from -128 to 127. Adding 1.5 * 2^23 rounds to an integer. */
static void to_integers(int n, float factor, const float *x, int8_t *y)
{
    int i;
    for (i = 0; i < n; i++) {
        float v = factor * x[i];
        v = v > -128.0f ? v : -128.0f;
        v = v < 127.0f ? v : 127.0f;
        y[i] = (int8_t)((v + 12582912.0f) - 12582912.0f);
    }
}

static void clear(int n, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = 0.0f;
}

static void copy(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = x[i];
}

static void add(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] += x[i];
}

static void multiply(int n, const float *w, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = w[i] * x[i];
}

/* y += W x, for `n` inputs and `m` outputs. The rows of W are outputs. */
static void add_product(int n, int m, const float *w, const float *x, float *y)
{
    int j;
    for (j = 0; j < m; j++, w += n)
        y[j] += dot(n, w, x);
}

/* The same, where each row of integers has a scale. */
static void add_product_int8(int n, int m, const int8_t *w, const float *scale, const float *x,
                             float *y)
{
    int j;
    for (j = 0; j < m; j++, w += n)
        y[j] += scale[j] * dot_int8(n, w, x);
}

/* y += W x for integers W and x of 8 bits. The scale of a row contains that of x. */
static void add_product_of_integers(int n, int m, const int8_t *w, const float *scale,
                                    const int8_t *x, float *y)
{
    int j;
    for (j = 0; j < m; j++, w += n)
        y[j] += scale[j] * (float)dot_integers(n, w, x);
}

/* Add the row of a token. Tokens outside of [0, n) add nothing. */
static void add_row(int32_t n, int m, const float *w, int32_t token, float *y)
{
    if (token >= 0 && token < n)
        add(m, w + token * m, y);
}

static void add_row_int8(int32_t n, int m, const int8_t *w, const float *scale, int32_t token,
                         float *y)
{
    int j;
    if (token < 0 || token >= n)
        return;
    w += token * m;
    for (j = 0; j < m; j++)
        y[j] += scale[j] * (float)w[j];
}

/* Subtract the mean of x, and divide by its standard deviation. */
static void normalize(int n, float epsilon, const float *x, float *y)
{
    float mean = 0.0f, square = 0.0f;
    int i;
    for (i = 0; i < n; i++)
        mean += x[i];
    mean /= (float)n;
    for (i = 0; i < n; i++) {
        y[i] = x[i] - mean;
        square += y[i] * y[i];
    }
    square = 1.0f / sqrtf(square / (float)n + epsilon);
    for (i = 0; i < n; i++)
        y[i] *= square;
}

static void scale_and_shift(int n, const float *scale, const float *shift, const float *x,
                            float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = scale[i] * x[i] + shift[i];
}

/* GELU by its tanh approximation; 1 + tanh(z) = 2 / (1 + exp(-2 z)). */
static void gelu_tanh(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; i++) {
        float z = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = x[i] / (1.0f + expf(-z));
    }
}

static void gelu_exact(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * erfcf(-0.707106781f * x[i]);
}

/* h += x sigmoid(z) */
static void add_gated(int n, const float *x, const float *z, float *h)
{
    int i;
    for (i = 0; i < n; i++)
        h[i] += x[i] / (1.0f + expf(-z[i]));
}

/* The complex state x becomes lam x + b. */
static void advance_one(const float *lam, float b_re, float b_im, float *x)
{
    float re = lam[0] * x[0] - lam[1] * x[1] + b_re;
    x[1] = lam[0] * x[1] + lam[1] * x[0] + b_im;
    x[0] = re;
}

/* a b + c d, and what rounding takes from it. */
static float sum_of_products(float a, float b, float c, float d, float *error)
{
    float p = a * b, q = c * d, total = p + q, added = total - p;
    *error = (p - (total - added)) + (q - added);
    *error += PRODUCT_ERROR(a, b, p) + PRODUCT_ERROR(c, d, q);
    return total;
}

/* value + b; `error` is what rounding has taken from the value. */
static float add_compensated(float value, float b, float *error)
{
    float total = value + b, added = total - value;
    float rest = (value - (total - added)) + (b - added) + *error;
    value = total + rest;
    *error = rest - (value - total);
    return value;
}

/* The same as advance_one. The rounding errors e of x are carried along. */
static void advance_one_compensated(const float *lam, float b_re, float b_im, float *x, float *e)
{
    float re_error, im_error;
    float re = sum_of_products(lam[0], x[0], -lam[1], x[1], &re_error);
    float im = sum_of_products(lam[0], x[1], lam[1], x[0], &im_error);
    re_error += lam[0] * e[0] - lam[1] * e[1];
    im_error += lam[0] * e[1] + lam[1] * e[0];
    e[0] = re_error;
    e[1] = im_error;
    x[0] = add_compensated(re, b_re, &e[0]);
    x[1] = add_compensated(im, b_im, &e[1]);
}

/* `n` states; real and imaginary parts alternate. */
static void advance(int n, const float *lam, const float *b, float *x)
{
    int i;
    for (i = 0; i < 2 * n; i += 2)
        advance_one(lam + i, b[i], b[i + 1], x + i);
}

static void advance_compensated(int n, const float *lam, const float *b, float *x, float *e)
{
    int i;
    for (i = 0; i < 2 * n; i += 2)
        advance_one_compensated(lam + i, b[i], b[i + 1], x + i, e + i);
}

/* `n` channels, each with its own number of states and an input weight of 1. */
static void advance_channels(int n, const uint16_t *counts, const float *lam, const float *u,
                             float *x)
{
    int j, i;
    for (j = 0; j < n; j++)
        for (i = 0; i < counts[j]; i++, lam += 2, x += 2)
            advance_one(lam, u[j], 0.0f, x);
}

static void advance_channels_compensated(int n, const uint16_t *counts, const float *lam,
                                         const float *u, float *x, float *e)
{
    int j, i;
    for (j = 0; j < n; j++)
        for (i = 0; i < counts[j]; i++, lam += 2, x += 2, e += 2)
            advance_one_compensated(lam, u[j], 0.0f, x, e);
}

static void observe_channels(int n, const uint16_t *counts, const float *w, const float *x,
                             float *y)
{
    int j, size;
    for (j = 0; j < n; j++, w += size, x += size) {
        size = 2 * counts[j];
        y[j] += dot(size, w, x);
    }
}

static void observe_channels_int8(int n, const uint16_t *counts, const int8_t *w,
                                  const float *scale, const float *x, float *y)
{
    int j, size;
    for (j = 0; j < n; j++, w += size, x += size) {
        size = 2 * counts[j];
        y[j] += scale[j] * dot_int8(size, w, x);
    }
}

/* h becomes the mean of all h so far. */
static void add_to_mean(int n, float *h, float *sum, float *error, uint32_t *steps)
{
    int i;
    *steps += 1;
    for (i = 0; i < n; i++) {
        sum[i] = add_compensated(sum[i], h[i], &error[i]);
        h[i] = sum[i] / (float)*steps;
    }
}
"""

_CALL = re.compile(r"\b(\w+)\(")


def definitions(statements: str) -> str:
    """The definitions of all functions that statements of C call, directly or not."""
    found = {}
    for text in re.split(r"(?<=\n}\n)\n", _DEFINITIONS.lstrip("\n")):
        name = re.search(r"static \w+ (\w+)\(", text)
        assert name is not None
        found[name[1]] = text
    used: set[str] = set()
    called = set(_CALL.findall(statements))
    while called:
        name = called.pop()
        if name in found and name not in used:
            used.add(name)
            called |= set(_CALL.findall(found[name]))
    return "\n".join(text for name, text in found.items() if name in used)
