/* Log-mel features of a stream of samples, as lastax computes them for `speech`. */
#include "log_mel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "log_mel_tables.h" /* written by ../device_code.py */

#define HALF (LOG_MEL_WINDOW / 2)
#define FLOOR 1e-6f /* added to the power before the logarithm */

void log_mel_init(log_mel_state *state)
{
    memset(state, 0, sizeof *state);
}

void log_mel_read(log_mel_state *state, const float *samples, int count)
{
    int kept = LOG_MEL_WINDOW - count;
    memmove(state->samples, state->samples + count, (size_t)kept * sizeof(float));
    memcpy(state->samples + kept, samples, (size_t)count * sizeof(float));
}

static void swap(float *a, float *b)
{
    float other = *a;
    *a = *b;
    *b = other;
}

/* Fourier transform of HALF complex numbers, in place. */
static void transform(float *re, float *im)
{
    int i, j, k, size, bit;
    for (i = 1, j = 0; i < HALF; i++) {
        for (bit = HALF / 2; j & bit; bit /= 2)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            swap(re + i, re + j);
            swap(im + i, im + j);
        }
    }
    for (size = 2; size <= HALF; size *= 2)
        for (k = 0; k < size / 2; k++) {
            float c = cosines[k * (LOG_MEL_WINDOW / size)];
            float s = -sines[k * (LOG_MEL_WINDOW / size)];
            for (i = k; i < HALF; i += size) {
                float *a = re + i, *b = im + i;
                float x = c * a[size / 2] - s * b[size / 2];
                float y = c * b[size / 2] + s * a[size / 2];
                a[size / 2] = a[0] - x;
                b[size / 2] = b[0] - y;
                a[0] += x;
                b[0] += y;
            }
        }
}

void log_mel_frame(const log_mel_state *state, float *features)
{
    float re[HALF], im[HALF], power[HALF + 1];
    const float *weight = mel_weights;
    int i, k;

    /* Even samples are real parts and odd ones are imaginary parts. */
    for (i = 0; i < HALF; i++) {
        re[i] = hann[2 * i] * state->samples[2 * i];
        im[i] = hann[2 * i + 1] * state->samples[2 * i + 1];
    }
    transform(re, im);
    power[0] = (re[0] + im[0]) * (re[0] + im[0]);
    power[HALF] = (re[0] - im[0]) * (re[0] - im[0]);
    for (k = 1; k < HALF; k++) {
        float even_re = 0.5f * (re[k] + re[HALF - k]), even_im = 0.5f * (im[k] - im[HALF - k]);
        float odd_re = 0.5f * (im[k] + im[HALF - k]), odd_im = 0.5f * (re[HALF - k] - re[k]);
        float x = even_re + cosines[k] * odd_re + sines[k] * odd_im;
        float y = even_im + cosines[k] * odd_im - sines[k] * odd_re;
        power[k] = x * x + y * y;
    }
    for (i = 0; i < LOG_MEL_BANDS; i++) {
        float sum = FLOOR;
        for (k = 0; k < mel_counts[i]; k++)
            sum += *weight++ * power[mel_first[i] + k];
        features[i] = (logf(sum) - mean[i]) * inverse_deviation[i];
    }
}
