/* driver.h: what driver.c needs of a machine. linux.c has it for programs, cortex_m4.c for a board. */
#ifndef DRIVER_H
#define DRIVER_H

#include <stddef.h>
#include <stdint.h>

#if defined(BOARD_CORTEX_M4)
#define BOARD_MEMORY __attribute__((section(".driver")))
#else
#define BOARD_MEMORY
#endif

void board_begin(void);
int board_end(void);                             /* what main returns */
int board_more(void *to, size_t bytes);          /* 0 at the end of what there is to read */
void board_read(void *to, size_t bytes);         /* ends the program where there is less */
void board_write(const void *from, size_t bytes);
uint32_t board_instructions(void);               /* executed so far, modulo 2^32; 0 where unknown */
uint32_t board_stack(void);                      /* most bytes of stack used so far; 0 where unknown */
_Noreturn void board_fail(void);

#endif
