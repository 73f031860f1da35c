/* The logits of whole clips by the network `word`, one step at a time. */
#include "word.h"

/* The logits after the last step of each clip. */
void clip_logits(const float *features, int clips, int steps, float *logits)
{
    word_state state;
    int clip, step;
    for (clip = 0; clip < clips; clip++, logits += WORD_CLASSES) {
        word_init(&state);
        for (step = 0; step < steps; step++, features += WORD_FEATURES)
            word_step(&state, features, logits);
    }
}
