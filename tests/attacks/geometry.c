/* Predicts with and learns in .zge files of many shapes, with every kernel variant that runs here.
 *
 *   geometry SEED STEPS FILE ...
 *
 * Memory ends where it may be read no further: with -DEXACT each block comes from the allocator with
 * just its size (for the address sanitizer, which does not see vector gathers and masked loads); else
 * each block ends at a page that may not be touched (which the processor itself watches). Every variant
 * must return what the first returned and leave the arena that it left. Prints one line a file: its name,
 * the bytes between the arena and the end of its memory, and a checksum of arena and answers. Ends with 1
 * and a line on stderr at the first fault. */
#define _GNU_SOURCE
#include "zge_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static const char *file_name;
static uint64_t state;

static uint32_t draw(uint32_t n) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(((state * 0x2545f4914f6cdd1dull) >> 33) % n);
}

static void require(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "%s, variant %s: %s\n", file_name, zge_variant_current(), what);
        exit(1);
    }
}

typedef struct block {
    void *data;
    void *map;
    size_t mapped;
} block;

/* `size` bytes that end where the memory ends; the start a multiple of `align`. */
static block take(size_t size, size_t align) {
    block b;
#if defined(EXACT)
    b.map = NULL;
    b.mapped = 0;
    require(posix_memalign(&b.data, align < sizeof(void *) ? sizeof(void *) : align, size) == 0, "no memory");
#else
    const size_t page = 4096;
    const size_t room = (size + align - 1) / align * align;
    b.mapped = (room + page - 1) / page * page + 2 * page;
    b.map = mmap(NULL, b.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(b.map != MAP_FAILED, "no memory");
    uint8_t *end = (uint8_t *)b.map + b.mapped - page;
    require(mprotect(end, page, PROT_NONE) == 0 && mprotect(b.map, page, PROT_NONE) == 0, "no guard page");
    b.data = end - room;
#endif
    return b;
}

static void give(block b) {
#if defined(EXACT)
    free(b.data);
#else
    munmap(b.map, b.mapped);
#endif
}

static float value(void) {
    static const float odd[] = {0.0f,     -0.0f,    1e30f, -1e30f, 3.4028235e38f, -3.4028235e38f,
                                1.4e-45f, 1.2e-38f, 0.5f,  255.0f, 1e6f,          -1e6f};
    return draw(16) == 0 ? odd[draw(sizeof odd / sizeof odd[0])] : (float)draw(4096) / 2048.0f - 0.5f;
}

/* Predict n samples in every way; the answers' checksum. */
static uint32_t predict(zge_model *m, uint32_t n, uint32_t sum) {
    const size_t values = (size_t)n * m->inputs;
    block x = take(values * 4, 4), raw = take(values, 1), classes = take((size_t)n * 4, 4);
    block scores = take((size_t)n * 2, 2), logits = take((size_t)n * m->classes * 4, 4);
    block all = take((size_t)n * m->classes * 2, 2);
    for (size_t i = 0; i < values; i++) {
        ((float *)x.data)[i] = value();
        ((uint8_t *)raw.data)[i] = (uint8_t)draw(256);
    }
    require(zge_model_predict_f32(m, x.data, n, classes.data, scores.data) == ZGE_OK, "predict_f32");
    sum = zge_crc32(zge_crc32(sum, classes.data, (size_t)n * 4), scores.data, (size_t)n * 2);
    require(zge_model_predict_u8(m, raw.data, n, classes.data, NULL) == ZGE_OK, "predict_u8");
    for (uint32_t i = 0; i < n; i++) {
        int32_t c = ((int32_t *)classes.data)[i];
        require(c >= -1 && c < (int32_t)m->classes, "a class that is none");
    }
    sum = zge_crc32(sum, classes.data, (size_t)n * 4);
    require(zge_model_logits_f32(m, x.data, n, logits.data) == ZGE_OK, "logits_f32");
    sum = zge_crc32(sum, logits.data, (size_t)n * m->classes * 4);
    require(zge_model_scores_f32(m, x.data, n, all.data) == ZGE_OK, "scores_f32");
    sum = zge_crc32(sum, all.data, (size_t)n * m->classes * 2);
    give(x);
    give(raw);
    give(classes);
    give(scores);
    give(logits);
    give(all);
    return sum;
}

/* Calls that must be refused, and change no byte. */
static void refuse(zge_model *m, float *x, uint16_t *y, uint32_t n) {
    const uint32_t before = zge_crc32(0, m->arena, m->bytes);
    const float kept = x[m->inputs * n - 1];
    const uint32_t bad[] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x7f800001u};
    memcpy(&x[m->inputs * n - 1], &bad[draw(4)], 4);
    require(zge_learner_step_f32(m, x, y, n, 0, NULL, NULL) == ZGE_E_INPUT, "a value that is none is learned");
    require(zge_replay_store_f32(m, x, y, n) == ZGE_E_INPUT, "a value that is none is remembered");
    x[m->inputs * n - 1] = kept;
    const uint16_t label = y[n - 1];
    y[n - 1] = (uint16_t)m->classes;
    require(zge_learner_step_f32(m, x, y, n, 0, NULL, NULL) == ZGE_E_LABEL, "a label that is none is learned");
    require(zge_replay_store_f32(m, x, y, n) == ZGE_E_LABEL, "a label that is none is remembered");
    y[n - 1] = label;
    const uint32_t over[][2] = {{m->batch + 1, 0}, {0, 0}, {n, m->batch - n + 1}, {n, UINT32_MAX}, {UINT32_MAX, 0}};
    for (uint32_t i = 0; i < 5; i++) {
        require(zge_learner_step_f32(m, x, y, over[i][0], over[i][1], NULL, NULL) == ZGE_E_ARGUMENT,
                "a batch of the wrong size is learned");
    }
    require(zge_learner_step_f32(m, NULL, y, n, 0, NULL, NULL) == ZGE_E_ARGUMENT, "no samples are learned");
    require(zge_learner_step_f32(m, x, NULL, n, 0, NULL, NULL) == ZGE_E_ARGUMENT, "no labels are learned");
    const uint32_t none = ZGE_REWIRE_ATTENTION + 1;
    const zge_config wrong[] = {{0.0f, 0, 0, 0, 1},   {8.5f, 0, 0, 0, 1}, {1.0f, 3, 0, 0, 1},   {1.0f, 0, none, 0, 1},
                                {1.0f, 0, 0, 256, 1}, {1.0f, 0, 0, 0, 0}, {1.0f, 0, 0, 0, 4097}};
    for (uint32_t i = 0; i < 7; i++) {
        require(zge_learner_configure(m, &wrong[i]) == ZGE_E_ARGUMENT, "a setting out of range is taken");
    }
    require(zge_crc32(0, m->arena, m->bytes) == before, "a refused call changed the arena");
}

static uint32_t learn(zge_model *m, uint32_t steps, uint32_t sum) {
    static const uint32_t swaps[] = {0, 1, 3, 255};
    static const uint32_t gathers[] = {1, 7, 64, 4096};
    for (uint32_t i = 0; i < steps; i++) {
        if (i % 4 == 0) {
            const uint32_t learned = draw(6);
            const zge_config c = {(float)(1 + draw(4)) * (draw(4) ? 0.05f : 2.0f),
                                  learned > 1 ? ZGE_LEARN_ALL : ZGE_LEARN_HEAD + learned, draw(4) ? ZGE_REWIRE_RIGL : draw(2),
                                  swaps[draw(4)], gathers[draw(4)]};
            require(zge_learner_configure(m, &c) == ZGE_OK, "configure");
        }
        const uint32_t n = draw(3) ? 1 + draw(m->batch) : m->batch;
        const uint32_t replay = draw(m->batch - n + 1);
        const size_t values = (size_t)n * m->inputs;
        block x = take(values * 4, 4), raw = take(values, 1), y = take((size_t)n * 2, 2), was = take((size_t)n * 4, 4);
        for (size_t j = 0; j < values; j++) {
            ((float *)x.data)[j] = value();
            ((uint8_t *)raw.data)[j] = (uint8_t)draw(256);
        }
        for (uint32_t j = 0; j < n; j++) {
            ((uint16_t *)y.data)[j] = (uint16_t)draw(m->classes);
        }
        zge_tick tick;
        if (i == 0) {
            refuse(m, x.data, y.data, n);
        }
        zge_status st = draw(2) ? zge_learner_step_f32(m, x.data, y.data, n, replay, was.data, &tick)
                                : zge_learner_step_u8(m, raw.data, y.data, n, replay, was.data, &tick);
        require(st == ZGE_OK, "step");
        sum = zge_crc32(zge_crc32(sum, was.data, (size_t)n * 4), (const uint8_t *)&tick, sizeof tick);
        if (draw(8) == 0) {
            require(zge_replay_store_f32(m, x.data, y.data, n) == ZGE_OK, "store");
        }
        if (draw(32) == 0) {
            require(zge_replay_clear(m) == ZGE_OK, "clear");
        }
        give(x);
        give(raw);
        give(y);
        give(was);
    }
    return sum;
}

static uint32_t exercise(const uint8_t *file, size_t size, uint32_t steps) {
    block memory = take(size, 8);
    memcpy(memory.data, file, size);
    zge_model m;
    zge_fault fault;
    require(zge_model_open(&m, memory.data, size, &fault) == ZGE_OK, "does not open");
    const uint32_t counts[] = {1, 2, 3, m.batch - 1, m.batch, m.batch + 1, 2 * m.batch + 5};
    uint32_t sum = 0;
    for (uint32_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        sum = counts[i] > 0 ? predict(&m, counts[i], sum) : sum;
    }
    sum = m.learning ? learn(&m, steps, sum) : sum;
    sum = predict(&m, m.batch, sum);
    require(zge_model_seal(&m) == ZGE_OK, "seal");
    zge_model again;
    require(zge_model_open(&again, memory.data, size, NULL) == ZGE_OK, "a sealed arena does not open");
    sum = zge_crc32(sum, memory.data, size);
    give(memory);
    return sum;
}

int main(int argc, char **argv) {
    for (int i = 3; i < argc; i++) {
        file_name = argv[i];
        FILE *f = fopen(file_name, "rb");
        require(f != NULL && fseek(f, 0, SEEK_END) == 0, "cannot be read");
        const size_t size = (size_t)ftell(f);
        rewind(f);
        uint8_t *file = malloc(size);
        require(file != NULL && fread(file, 1, size, f) == size, "cannot be read");
        fclose(f);
        uint32_t first = 0;
        for (uint32_t v = 0; v < zge_variant_count(); v++) {
            if (!zge_variant_usable(v)) {
                continue;
            }
            require(zge_variant_select(zge_variant_name(v)) == ZGE_OK, "no such variant");
            state = strtoull(argv[1], NULL, 10) * 2654435761u + (uint64_t)i + 1;
            const uint32_t sum = exercise(file, size, (uint32_t)strtoul(argv[2], NULL, 10));
            first = v == 0 ? sum : first;
            require(sum == first, "other answers or another arena than the reference");
        }
#if defined(EXACT)
        const size_t slack = 0;
#else
        const size_t slack = (8 - size % 8) % 8;
#endif
        printf("%s %zu %08x\n", file_name, slack, first);
        free(file);
    }
    return 0;
}
