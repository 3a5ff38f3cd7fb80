/* Mutates .zge files, signs most of them again so that the deep checks are reached, and opens them.
 * What the core accepts must predict, learn, seal and open again. Run under the sanitizers.
 *
 *   fuzz_driver SEED SECONDS VARIANT FILE ...
 *
 * Prints one JSON object: executions, accepted, and how often each status was returned. Aborts at a
 * finding, after writing the offending bytes to finding.zge. */
#include "zge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Bytes that the memory of an arena is too short by: not 0 to see that the sanitizer notices. */
#ifndef MISSING
#define MISSING 0
#endif

typedef struct bytes {
    uint8_t *data;
    uint32_t size;
} bytes;

static uint64_t state;

static uint32_t draw(uint32_t n) { /* xorshift64*, Vigna 2016 */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(((state * 0x2545f4914f6cdd1dull) >> 33) % n);
}

static uint32_t crc_table[256];

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        }
        crc_table[i] = c;
    }
}

static uint32_t crc(const uint8_t *p, size_t n) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c = crc_table[(c ^ p[i]) & 255] ^ (c >> 8);
    }
    return ~c;
}

static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }

/* Renew every checksum that can be: sections that lie inside, then the head. */
static void sign(bytes b) {
    if (b.size < 48) {
        return;
    }
    uint32_t sections = get32(b.data + 4) >> 16;
    if (sections > 18 || 48 + 16 * sections > b.size) {
        return;
    }
    for (uint32_t i = 0; i < sections; i++) {
        uint8_t *t = b.data + 48 + 16 * i;
        uint32_t offset = get32(t + 4);
        uint32_t size = get32(t + 8);
        if (offset <= b.size && size <= b.size - offset) {
            put32(t + 12, crc(b.data + offset, size));
        }
    }
    put32(b.data + 24, 0);
    put32(b.data + 24, crc(b.data, 48 + 16 * sections));
}

static uint32_t interesting(void) {
    static const uint32_t some[] = {0,      1,      2,      3,          4,          7,          8,          15,
                                    16,     17,     63,     64,         65,         127,        128,        255,
                                    256,    4095,   4096,   4097,       32767,      32768,      65535,      65536,
                                    65537,  1u << 20, 1u << 24, 0x3fffffff, 0x40000000, 0x7f800000, 0x7fc00000, 0x7fffffff,
                                    1u << 31, 0xff800000, 0xfffffff8, 0xffffffff};
    return some[draw(sizeof some / sizeof some[0])];
}

/* Half of all changes fall into header, table and descriptions. */
static uint32_t place(uint32_t size) { return draw(2) && size > 512 ? draw(512) : draw(size); }

static void mutate(bytes *b, const bytes *other) {
    for (uint32_t n = 1 + draw(6); n > 0 && b->size > 4; n--) {
        uint32_t at = place(b->size);
        switch (draw(7)) {
        case 0: b->data[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1: b->data[at] = (uint8_t)draw(256); break;
        case 2:
            at &= ~3u;
            if (at + 4 <= b->size) {
                put32(b->data + at, interesting());
            }
            break;
        case 3:
            at &= ~3u;
            if (at + 4 <= b->size) {
                put32(b->data + at, get32(b->data + at) + draw(33) - 16);
            }
            break;
        case 4: {
            uint16_t v = (uint16_t)interesting();
            if (at + 2 <= b->size) {
                memcpy(b->data + at, &v, 2);
            }
            break;
        }
        case 5: {
            uint32_t from = draw(other->size);
            uint32_t length = 1 + draw(64);
            length = length < other->size - from ? length : other->size - from;
            length = length < b->size - at ? length : b->size - at;
            memcpy(b->data + at, other->data + from, length);
            break;
        }
        default:
            if (draw(8) == 0) {
                b->size = 1 + draw(b->size);
                put32(b->data + (b->size > 12 ? 8 : 0), b->size);
            }
        }
    }
}

static void fail(const char *what, int32_t status, bytes original) {
    fprintf(stderr, "finding: %s: %s\n", what, zge_status_text(status));
    FILE *f = fopen("finding.zge", "wb");
    if (f != NULL) {
        fwrite(original.data, 1, original.size, f);
        fclose(f);
    }
    abort();
}

/* An accepted arena must work. */
static void use(zge_model *m, bytes b, bytes original) {
    uint32_t n = m->batch;
    float *x = malloc(sizeof(float) * n * m->inputs);
    uint8_t *raw = malloc((size_t)n * m->inputs);
    uint16_t *y = malloc(sizeof(uint16_t) * n);
    int32_t *classes = malloc(sizeof(int32_t) * n);
    if (x == NULL || raw == NULL || y == NULL || classes == NULL) {
        abort();
    }
    for (uint32_t i = 0; i < n * m->inputs; i++) {
        x[i] = (float)draw(2048) / 1024.0f - 0.5f;
        raw[i] = (uint8_t)draw(256);
    }
    for (uint32_t i = 0; i < n; i++) {
        y[i] = (uint16_t)draw(m->known);
    }
    zge_status s = zge_model_predict_f32(m, x, n, classes, NULL);
    s = s == ZGE_OK ? zge_model_predict_u8(m, raw, n, classes, NULL) : s;
    for (uint32_t i = 0; i < n; i++) {
        if (classes[i] < -1 || classes[i] >= (int32_t)m->classes) {
            fail("class out of range", s, original);
        }
    }
    for (uint32_t i = 0; i < 4 && s == ZGE_OK && m->learning; i++) {
        uint32_t fresh = 1 + draw(n);
        s = draw(2) ? zge_learner_step_f32(m, x, y, fresh, n - fresh, classes, NULL)
                    : zge_learner_step_u8(m, raw, y, fresh, n - fresh, classes, NULL);
    }
    if (s == ZGE_OK && m->pending != NULL) {
        for (uint32_t i = 0; i < 4 && s == ZGE_OK; i++) {
            s = zge_learner_hold_f32(m, draw(4), x, NULL);
            const zge_status settled = zge_learner_settle(m, draw(4), y[0], n - 1, NULL, NULL);
            s = s == ZGE_OK && settled != ZGE_E_ID ? settled : s;
        }
    }
    if (s == ZGE_OK && m->learning && m->head == ZGE_HEAD_ANALYTIC) {
        s = zge_learner_solve(m, 2);
    }
    if (s == ZGE_OK && m->learning && m->known < m->classes) {
        const zge_status added = zge_learner_add_class(m, "new", 3, NULL);
        s = added == ZGE_E_NAME || added == ZGE_E_ROOM ? s : added;
    }
    if (s != ZGE_OK) {
        fail("an accepted arena cannot be used", s, original);
    }
    s = zge_model_seal(m);
    zge_model again;
    s = s == ZGE_OK ? zge_model_open(&again, b.data, b.size, NULL) : s;
    if (s != ZGE_OK) {
        fail("a sealed arena does not open", s, original);
    }
    free(x);
    free(raw);
    free(y);
    free(classes);
}

static bytes load(const char *path) {
    bytes b = {NULL, 0};
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    long size = ftell(f);
    rewind(f);
    b.size = (uint32_t)size;
    b.data = malloc(b.size);
    if (b.data == NULL || fread(b.data, 1, b.size, f) != b.size) {
        exit(2);
    }
    fclose(f);
    return b;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: fuzz_driver SEED SECONDS VARIANT FILE ...\n");
        return 2;
    }
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 1;
    double seconds = strtod(argv[2], NULL);
    if (zge_variant_select(argv[3]) != ZGE_OK) {
        fprintf(stderr, "no variant %s here\n", argv[3]);
        return 2;
    }
    uint32_t files = (uint32_t)argc - 4;
    bytes *seeds = malloc(files * sizeof *seeds);
    if (seeds == NULL) {
        return 2;
    }
    for (uint32_t i = 0; i < files; i++) {
        seeds[i] = load(argv[4 + i]);
    }
    make_crc_table();
    uint64_t runs = 0;
    uint64_t accepted = 0;
    uint64_t seen[32] = {0};
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        if (runs % 64 == 0) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            if ((double)(now.tv_sec - start.tv_sec) + 1e-9 * (double)(now.tv_nsec - start.tv_nsec) > seconds) {
                break;
            }
        }
        const bytes *seed = &seeds[draw(files)];
        bytes work = {malloc(seed->size), seed->size};
        if (work.data == NULL) {
            return 2;
        }
        memcpy(work.data, seed->data, seed->size);
        mutate(&work, &seeds[draw(files)]);
        if (draw(16) != 0) {
            sign(work);
        }
        /* Exactly as large as the arena, so that a sanitizer sees the first byte beyond it. */
        void *memory = NULL;
        if (posix_memalign(&memory, 64, work.size - MISSING) != 0) {
            return 2;
        }
        memcpy(memory, work.data, work.size - MISSING);
        bytes arena = {memory, work.size};
        zge_model m;
        zge_fault fault;
        zge_status status = zge_model_open(&m, arena.data, arena.size, &fault);
        if (status > 0 || status < -31 || fault.status != status) {
            fail("a status that is none, or a fault that differs", status, work);
        }
        seen[-status]++;
        if (status == ZGE_OK) {
            accepted++;
            use(&m, arena, work);
        }
        free(memory);
        free(work.data);
        runs++;
    }
    printf("{\"executions\": %llu, \"accepted\": %llu, \"statuses\": {", (unsigned long long)runs,
           (unsigned long long)accepted);
    const char *comma = "";
    for (int i = 0; i < 32; i++) {
        if (seen[i] > 0) {
            printf("%s\"%d\": %llu", comma, -i, (unsigned long long)seen[i]);
            comma = ", ";
        }
    }
    printf("}}\n");
    for (uint32_t i = 0; i < files; i++) {
        free(seeds[i].data);
    }
    free(seeds);
    return 0;
}
