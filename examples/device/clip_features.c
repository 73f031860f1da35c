/* The features of whole clips, one frame at a time. */
#include "log_mel.h"

/* A frame is complete when half a window of samples after its center is known. Therefore each clip
   must end with half a window of silence. */
void clip_features(const float *samples, int clips, int length, int steps, float *features)
{
    log_mel_state state;
    int clip, step;
    for (clip = 0; clip < clips; clip++) {
        const float *next = samples + (long)clip * length;
        int count = LOG_MEL_WINDOW / 2;
        log_mel_init(&state);
        for (step = 0; step < steps; step++, features += LOG_MEL_BANDS) {
            log_mel_read(&state, next, count);
            next += count;
            count = LOG_MEL_HOP;
            log_mel_frame(&state, features);
        }
    }
}
