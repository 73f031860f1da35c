/* Instructions per step of the features and of the network `word`.

   With `qemu-system-arm -icount shift=0` an instruction takes 1 ns, and the timer has 25 MHz. */
#include <stdint.h>
#include <stdio.h>

#include "log_mel.h"
#include "word.h"

#define STEPS 100
#define TIMER(offset) (*(volatile uint32_t *)(0x40000000u + (offset)))

static uint32_t instructions(void)
{
    return 40 * (UINT32_MAX - TIMER(4));
}

int main(void)
{
    static log_mel_state heard;
    static word_state state;
    static float samples[LOG_MEL_HOP], features[WORD_FEATURES], logits[WORD_CLASSES];
    uint32_t first, second, third;
    int i;

    for (i = 0; i < LOG_MEL_HOP; i++)
        samples[i] = (float)(i * 37 % 17 - 8) / 16.0f;
    TIMER(8) = UINT32_MAX; /* reload */
    TIMER(4) = UINT32_MAX; /* value, counts down */
    TIMER(0) = 1;          /* enable */
    log_mel_init(&heard);
    word_init(&state);
    first = instructions();
    for (i = 0; i < STEPS; i++) {
        log_mel_read(&heard, samples, LOG_MEL_HOP);
        log_mel_frame(&heard, features);
    }
    second = instructions();
    for (i = 0; i < STEPS; i++)
        word_step(&state, features, logits);
    third = instructions();
    printf("%lu %lu\n", (unsigned long)(second - first) / STEPS,
           (unsigned long)(third - second) / STEPS);
    return 0;
}
