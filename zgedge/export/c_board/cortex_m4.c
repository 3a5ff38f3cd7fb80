/* cortex_m4.c: the driver on an Arm Cortex-M4 without an operating system: start-up code, and files of
 * the host ("in" and "out") by semihosting. Made for the board mps2-an386 of QEMU, but for the address of
 * its timer's clock nothing here is that board's own.
 *
 * With QEMU's -icount shift=0 every instruction takes 1 ns, so the timer of 25 MHz counts in 40s of them.
 */
#include "driver.h"

#define STACK_MARK 0xa5a5a5a5u
#define INSTRUCTIONS_PER_TICK 40u
#define SYSTICK ((volatile uint32_t *)0xe000e010u) /* control, reload, current */
#define COPROCESSORS (*(volatile uint32_t *)0xe000ed88u)

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };

extern uint32_t board_data_from[], board_data[], board_data_end[], board_bss[], board_bss_end[];
extern uint32_t board_driver[], board_driver_end[], board_stack_low[], board_stack_top[];

int main(void);
_Noreturn void board_reset(void);
_Noreturn void board_fault(void);
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

static uintptr_t files[2];

static uintptr_t host(uintptr_t operation, const void *block) {
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static _Noreturn void leave(uintptr_t code) {
    const uintptr_t block[2] = {0x20026, code}; /* ADP_Stopped_ApplicationExit */
    for (;;) {
        host(SYS_EXIT_EXTENDED, block);
    }
}

void board_fail(void) { leave(3); }

void board_fault(void) { leave(4); }

void board_begin(void) {
    const uintptr_t in[3] = {(uintptr_t) "in", 1, 2};    /* rb */
    const uintptr_t out[3] = {(uintptr_t) "out", 5, 3};  /* wb */
    files[0] = host(SYS_OPEN, in);
    files[1] = host(SYS_OPEN, out);
    SYSTICK[1] = 0xffffffu;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5; /* the processor's clock, no interrupt */
}

int board_end(void) { return 0; }

int board_more(void *to, size_t bytes) {
    const uintptr_t block[3] = {files[0], (uintptr_t)to, bytes};
    const uintptr_t missing = host(SYS_READ, block);
    if (missing != 0 && missing != bytes) {
        board_fail();
    }
    return missing == 0;
}

void board_read(void *to, size_t bytes) {
    if (!board_more(to, bytes)) {
        board_fail();
    }
}

void board_write(const void *from, size_t bytes) {
    const uintptr_t block[3] = {files[1], (uintptr_t)from, bytes};
    if (host(SYS_WRITE, block) != 0) {
        board_fail();
    }
}

/* The timer counts down, 24 bits: good for 671 million instructions between two readings. */
uint32_t board_instructions(void) {
    static uint32_t last = 0xffffffu;
    static uint32_t total;
    const uint32_t now = SYSTICK[2];
    total += ((last - now) & 0xffffffu) * INSTRUCTIONS_PER_TICK;
    last = now;
    return total;
}

uint32_t board_stack(void) {
    const uint32_t *p = board_stack_low;
    while (p < board_stack_top && *p == STACK_MARK) {
        p++;
    }
    return (uint32_t)((uintptr_t)board_stack_top - (uintptr_t)p);
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    uint8_t *a = to;
    const uint8_t *b = from;
    for (size_t i = 0; i < bytes; i++) {
        a[i] = b[i];
    }
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    uint8_t *a = to;
    for (size_t i = 0; i < bytes; i++) {
        a[i] = (uint8_t)value;
    }
    return to;
}

void board_reset(void) {
    for (volatile uint32_t *p = board_stack_low; p < (uint32_t *)__builtin_frame_address(0) - 16; p++) {
        *p = STACK_MARK;
    }
    for (uint32_t *to = board_data, *from = board_data_from; to < board_data_end; to++, from++) {
        *to = *from;
    }
    memset(board_bss, 0, (size_t)((uintptr_t)board_bss_end - (uintptr_t)board_bss));
    memset(board_driver, 0, (size_t)((uintptr_t)board_driver_end - (uintptr_t)board_driver));
    COPROCESSORS |= 0xfu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    leave((uintptr_t)main());
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)board_stack_top, (uintptr_t)board_reset, (uintptr_t)board_fault, (uintptr_t)board_fault,
    (uintptr_t)board_fault,     (uintptr_t)board_fault, (uintptr_t)board_fault,
};
