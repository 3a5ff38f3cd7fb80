/* driver.c: runs a generated program on what it reads, command by command, and writes what it gives.
 *
 * Compiled with "-DCALL(x)=name_##x" "-DCONSTANT(x)=NAME_##x" -DHEADER="path of name.h", and -DLEARNS
 * where the program learns. A command is a letter and a count, 8 bytes in all; what follows and what is
 * written is said below, little-endian.
 */
#include "driver.h"

#include HEADER

/* The driver's own memory, which is not the program's. */
BOARD_MEMORY static float raw[CONSTANT(INPUTS)];
BOARD_MEMORY static uint8_t codes[CONSTANT(INPUTS)];
BOARD_MEMORY static uint8_t scores[CONSTANT(CLASSES)];
#if defined(LEARNS)
BOARD_MEMORY static uint8_t saved[CONSTANT(ARENA_BYTES)];
#endif

static void put(int32_t value) { board_write(&value, sizeof value); }

/* Q: n raw samples float32 [inputs] -> i32 result, u8 codes [inputs] each. */
static void quantize(void) {
    board_read(raw, sizeof raw);
    const int clamped = CALL(quantize)(raw, codes);
    put(clamped);
    board_write(codes, sizeof codes);
}

/* P: n samples of codes u8 [inputs] -> i32 class, i32 instructions, u8 scores, i32 logits [classes] each. */
static void predict(void) {
    board_read(codes, sizeof codes);
    const uint32_t before = board_instructions();
    const int found = CALL(predict)(codes, scores);
    const uint32_t after = board_instructions();
    put(found);
    put((int32_t)(after - before));
    board_write(scores, sizeof scores);
    const int32_t *logits = CALL(logits)();
    for (uint32_t i = 0; i < CONSTANT(CLASSES); i++) {
        put(logits == NULL ? 0 : logits[i]);
    }
}

#if defined(LEARNS)
/* L, R: n of u32 label, u32 replay, then u8 codes or float32 values [inputs] -> i32 result, i32 instructions. */
static void learn(int with_raw) {
    uint32_t how[2];
    board_read(how, sizeof how);
    if (with_raw) {
        board_read(raw, sizeof raw);
    } else {
        board_read(codes, sizeof codes);
    }
    const uint32_t before = board_instructions();
    const int was = with_raw ? CALL(learn_raw)(raw, how[0], how[1]) : CALL(learn)(codes, how[0], how[1]);
    const uint32_t after = board_instructions();
    put(was);
    put((int32_t)(after - before));
}

/* A: -> u8 arena, zeros before the start. */
static void seal(void) {
    const uint8_t *arena = CALL(seal)();
    board_write(arena == NULL ? saved : arena, sizeof saved);
}

/* C: n of float32 rate, u32 what -> i32 result. */
static void configure(void) {
    float rate;
    uint32_t what;
    board_read(&rate, sizeof rate);
    board_read(&what, sizeof what);
    put(CALL(configure)(rate, what));
}
#endif

static void run(uint32_t command) {
    switch (command) {
    case 'Q': quantize(); return;
    case 'P': predict(); return;
#if defined(LEARNS)
    case 'L': learn(0); return;
    case 'R': learn(1); return;
    case 'C': configure(); return;
    case 'F': put(CALL(forget)()); return;
    case 'B': put(CALL(start)(0)); return; /* -> i32 result */
    case 'S': /* saved bytes [arena] -> i32 result */
        board_read(saved, sizeof saved);
        put(CALL(start)(saved));
        return;
    case 'A': seal(); return;
#endif
    case 'T': put((int32_t)board_stack()); return; /* -> i32 most bytes of stack so far */
    default: board_fail();
    }
}

int main(void) {
    uint32_t command[2];
    board_begin();
    while (board_more(command, sizeof command)) {
        for (uint32_t i = 0; i < command[1]; i++) {
            run(command[0]);
        }
    }
    return board_end();
}
