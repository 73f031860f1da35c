/* Start of a program on a Cortex-M in QEMU: enable the FPU, and run `main` with semihosting. */
#include <stdint.h>

extern uint32_t stack_top;
extern void _start(void);

void start(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: access to the FPU */
    __asm__ volatile("dsb\nisb");
    _start();
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[] = {
    (uintptr_t)&stack_top,
    (uintptr_t)start,
};
