/* driver.c: learn from a stream of samples in a .zge file, and write the arena that is left.
 *
 *   driver FILE STREAM OUT VARIANT STEPS NEW REPLAY [poison=BYTE] [strict] [leak]
 *
 * FILE     the arena; predicted with only, where it cannot learn
 * STREAM   u32 samples, u32 inputs, u32 kind (0 float32, 1 uint8), u32 zero, then the labels, u16 each,
 *          an even number of them, then the samples
 * OUT      becomes the sealed arena, or with ZGE_HOOKS the marks of each of its bytes
 * VARIANT  the kernels to run with; "best": those that the core chooses
 * STEPS    learning steps. Step t takes 1 + t % NEW new samples and up to REPLAY remembered ones; each
 *          seventh is followed by a prediction of a full batch and of a single sample.
 * poison   fill all scratch of the arena with this byte before every call
 * strict   let the kernel kill this process at any system call but read, write and exit
 * leak     allocate 64 bytes in step 100, so that a check of the above can be checked
 *
 * Prints what was predicted as one number, and some counts. Exits with 1 and a message on any failure.
 * Nothing here allocates: both files are read into static memory.
 */
#define _GNU_SOURCE
#include "zge.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* Where a tracer or a guard wants to know: the arena, what is being done to it, and when it is over. */
#if defined(ZGE_HOOKS)
void hook_region(const void *start, size_t bytes);
void hook_phase(int phase); /* 0 nothing, 1 open, 2 predict, 3 learn */
const unsigned char *hook_marks(void);
#else
static void hook_region(const void *start, size_t bytes) { (void)start, (void)bytes; }
static void hook_phase(int phase) { (void)phase; }
#endif
#if defined(ZGE_GUARD)
void guard(int on);
#else
static void guard(int on) { (void)on; }
#endif

static _Alignas(64) uint8_t arena[17u << 20];
static _Alignas(64) uint8_t stream[40u << 20];
static zge_model model;
static int32_t classes[ZGE_MAX_BATCH];
static uint16_t scores[ZGE_MAX_BATCH];
static void *volatile leaked;

/* Leave by the one call that strict mode has for it. */
static _Noreturn void leave(int status) {
#if defined(__linux__)
    syscall(SYS_exit, status);
#endif
    _exit(status);
}

static _Noreturn void fail(const char *what, int status) {
    char text[200];
    int n = snprintf(text, sizeof text, "%s: %s\n", what, zge_status_text(status));
    if (write(2, text, (size_t)n) != n) {
        leave(2);
    }
    leave(1);
}

static size_t slurp(const char *path, uint8_t *to, size_t room) {
    int f = open(path, O_RDONLY);
    size_t have = 0;
    ssize_t n = 1;
    while (f >= 0 && n > 0 && have < room) {
        n = read(f, to + have, room - have);
        have += n > 0 ? (size_t)n : 0;
    }
    if (f < 0 || n != 0) {
        fail(path, ZGE_E_SIZE);
    }
    close(f);
    return have;
}

static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Scratch of the arena: the activations section, and all of the scratch section but the gradient row,
 * which outlives a step. */
static void fill(int byte) {
    const zge_layer *head = &model.layer[model.layers - 1];
    uint8_t *end = (uint8_t *)(model.logits + (size_t)model.classes * model.batch);
    uint8_t *start = model.layer[0].x;
    if (model.trunk > 0) { /* whose memory lies before x */
        start = model.sums != NULL ? (uint8_t *)model.sums : model.conv[0].rows;
    }
    memset(start, byte, (size_t)(end - start));
    if (model.learning) {
        end = (uint8_t *)head->delta + (size_t)head->outputs * model.batch;
        memset(model.back, byte, (size_t)((uint8_t *)model.grad - (uint8_t *)model.back));
        memset(model.layer[0].delta, byte, (size_t)(end - (uint8_t *)model.layer[0].delta));
    }
}

static uint32_t kind, samples;
static const uint16_t *labels;
static const uint8_t *data;
static uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, 64 bits */

static void mix(const void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ ((const uint8_t *)p)[i]) * 0x100000001b3u;
    }
}

static const void *sample(uint32_t i) {
    return data + (size_t)i * model.inputs * (kind == 0 ? sizeof(float) : 1);
}

static void predict(uint32_t from, uint32_t n) {
    hook_phase(2);
    zge_status st = kind == 0 ? zge_model_predict_f32(&model, sample(from), n, classes, scores)
                              : zge_model_predict_u8(&model, sample(from), n, classes, scores);
    hook_phase(0);
    if (st != ZGE_OK) {
        fail("predict", st);
    }
    mix(classes, n * sizeof *classes);
    mix(scores, n * sizeof *scores);
}

int main(int argc, char **argv) {
    if (argc < 8) {
        fail("driver", ZGE_E_ARGUMENT);
    }
    int poison = -1, strict = 0, leak = 0;
    for (int i = 8; i < argc; i++) {
        strict |= strcmp(argv[i], "strict") == 0;
        leak |= strcmp(argv[i], "leak") == 0;
        if (strncmp(argv[i], "poison=", 7) == 0) {
            poison = atoi(argv[i] + 7);
        }
    }
    const size_t bytes = slurp(argv[1], arena, sizeof arena);
    const size_t length = slurp(argv[2], stream, sizeof stream);
    const uint32_t steps = (uint32_t)atol(argv[5]);
    const uint32_t fresh = (uint32_t)atol(argv[6]);
    const uint32_t replay = (uint32_t)atol(argv[7]);
    int out = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (out < 0) {
        fail(argv[3], ZGE_E_ARGUMENT);
    }
    if (strcmp(argv[4], "best") != 0 && zge_variant_select(argv[4]) != ZGE_OK) {
        fail(argv[4], ZGE_E_VARIANT);
    }
    samples = get32(stream);
    kind = get32(stream + 8);
    labels = (const uint16_t *)(const void *)(stream + 16);
    data = stream + 16 + (samples + 1) / 2 * 4;
    hook_region(arena, bytes);
#if defined(__linux__)
    if (strict && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) {
        fail("strict mode", ZGE_E_ARGUMENT);
    }
#endif

    guard(1);
    hook_phase(1);
    zge_status st = zge_model_open(&model, arena, bytes, NULL);
    hook_phase(0);
    if (st != ZGE_OK) {
        fail("open", st);
    }
    const uint8_t *end = data + (size_t)samples * model.inputs * (kind == 0 ? sizeof(float) : 1);
    if (get32(stream + 4) != model.inputs || end != stream + length || samples <= ZGE_MAX_BATCH) {
        fail("stream", ZGE_E_SIZE);
    }
    const uint32_t last = samples - model.batch; /* a run of a batch starts no later */
    uint64_t rewired = 0, replayed = 0, correct = 0;
    uint32_t at = 0;
    for (uint32_t t = 0; t < steps; t++) {
        if (poison >= 0) {
            fill(poison);
        }
        if (model.learning) {
            zge_tick tick;
            const uint32_t n = 1 + t % fresh;
            const uint32_t more = replay < model.batch - n ? replay : model.batch - n;
            hook_phase(3);
            st = kind == 0 ? zge_learner_step_f32(&model, sample(at), labels + at, n, more, classes, &tick)
                           : zge_learner_step_u8(&model, sample(at), labels + at, n, more, classes, &tick);
            hook_phase(0);
            if (st != ZGE_OK) {
                fail("learn", st);
            }
            mix(classes, n * sizeof *classes);
            rewired += tick.rewired;
            replayed += tick.replayed;
            correct += tick.correct;
            at = at + n > last ? 0 : at + n;
        }
        if (t % 7 == 0) {
            if (poison >= 0) {
                fill(poison);
            }
            predict(t % last, model.batch);
            predict((t + 1) % last, 1);
        }
        if (leak && t == 100) {
            leaked = malloc(64);
        }
    }
    st = zge_model_seal(&model);
    guard(0);
    if (st != ZGE_OK) {
        fail("seal", st);
    }

#if defined(ZGE_HOOKS)
    const uint8_t *result = hook_marks();
#else
    const uint8_t *result = arena;
#endif
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(out, result + done, bytes - done);
        if (n <= 0) {
            fail(argv[3], ZGE_E_SIZE);
        }
        done += (size_t)n;
    }
    char text[400];
    int n = snprintf(text, sizeof text, "variant %s\npredictions %08x%08x\nrewired %u\nreplayed %u\ncorrect %u\n",
                     zge_variant_current(), (unsigned)(hash >> 32), (unsigned)hash, (unsigned)rewired,
                     (unsigned)replayed, (unsigned)correct);
    for (uint32_t i = 0; i < zge_variant_count(); i++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "has %s %d\n", zge_variant_name(i), zge_variant_usable(i));
    }
    leave(write(1, text, (size_t)n) == n ? 0 : 2);
}
