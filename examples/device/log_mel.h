/* Log-mel features of a stream of samples, as lastax computes them for `speech`. */
#ifndef LOG_MEL_H
#define LOG_MEL_H

#define LOG_MEL_WINDOW 256 /* samples per frame, 32 ms */
#define LOG_MEL_HOP 80     /* samples between two frames, 10 ms */
#define LOG_MEL_BANDS 40

typedef struct {
    float samples[LOG_MEL_WINDOW]; /* the newest samples, the oldest first */
} log_mel_state;

/* Begin a stream. */
void log_mel_init(log_mel_state *state);

/* Read at most LOG_MEL_WINDOW samples. */
void log_mel_read(log_mel_state *state, const float *samples, int count);

/* The standardized features of the newest LOG_MEL_WINDOW samples. */
void log_mel_frame(const log_mel_state *state, float *features);

#endif
