/* zge_analytic.c: the analytic head: streaming linear discriminants in integers (docs/arithmetic.md, "The
 * analytic head"). A sample adds to counts, sums and the triangle of second moments; a few steps of
 * Gauss and Seidel's method a tick turn them into the weights of the last layer. */
#include "zge_impl.h"

enum {
    ZGE_ANALYTIC_SAMPLES = 1 << 23, /* samples that are counted at once; then all statistics are halved */
    ZGE_ANALYTIC_VALUE = 1 << 23,   /* bound of a value, 8 in steps of 2^-20 */
    ZGE_ANALYTIC_SCALE = 16,        /* most halvings of the triangle alone */
    ZGE_ANALYTIC_BITS = 20,         /* of a value behind the point */
    ZGE_ANALYTIC_BIAS = 1 << 30     /* bound of the bias of a class that has samples */
};
#define ZGE_ANALYTIC_ONE ((int64_t)1 << ZGE_ANALYTIC_BITS)

typedef struct zge_analytic {
    uint8_t *at;
    uint32_t classes, width;
    int64_t *scores;    /* [classes] sums of each class times the values of the class being solved, at every
                           moment; 0 before a class is begun */
    uint32_t *counts;   /* [classes] */
    int32_t *sums;      /* [classes][width] */
    int32_t *values;    /* [classes][width] */
    int32_t *triangle;  /* [width (width + 1) / 2] */
} zge_analytic;

/* Arithmetic modulo 2^64, for where only a file made to do so goes over. */
static int64_t zge_add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static int64_t zge_less(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
static int64_t zge_times(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }

static int64_t zge_within(int64_t v, int64_t most) { return v > most ? most : v < -most ? -most : v; }

static size_t zge_row_of(uint32_t i) { return (size_t)i * (i + 1) / 2; }

uint64_t zge_analytic_bytes(uint32_t classes, uint32_t width) {
    return ZGE_LDA_SIZE + (uint64_t)classes * 12 + (uint64_t)classes * width * 8 + 4 * (uint64_t)zge_row_of(width);
}

static zge_analytic zge_analytic_of(const zge_model *m) {
    zge_analytic a;
    uint8_t *p = m->analytic + ZGE_LDA_SIZE;
    a.at = m->analytic;
    a.classes = m->classes;
    a.width = m->layer[m->layers - 1].inputs;
    a.scores = (int64_t *)(void *)p;
    p += (size_t)a.classes * 8;
    a.counts = (uint32_t *)(void *)p;
    p += (size_t)a.classes * 4;
    a.sums = (int32_t *)(void *)p;
    p += (size_t)a.classes * a.width * 4;
    a.values = (int32_t *)(void *)p;
    p += (size_t)a.classes * a.width * 4;
    a.triangle = (int32_t *)(void *)p;
    return a;
}

/* The sums of a class times the values of another: at most 511 * 255 * 2^23 * 2^23. */
static int64_t zge_class_score(const zge_analytic *a, uint32_t sums, uint32_t values) {
    const int32_t *p = a->sums + (size_t)sums * a->width;
    const int32_t *v = a->values + (size_t)values * a->width;
    int64_t score = 0;
    for (uint32_t i = 0; i < a->width; i++) {
        score += (int64_t)p[i] * v[i];
    }
    return score;
}

static uint32_t zge_counted(const zge_analytic *a) {
    uint32_t n = 0;
    for (uint32_t c = 0; c < a->classes; c++) {
        n += a->counts[c];
    }
    return n;
}

/* Bit 30 of the answer: whether an entry has left -2^30 .. 2^30 - 1. */
static uint32_t zge_reach(const int32_t *p, size_t n) {
    uint32_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        seen |= (uint32_t)(p[i] ^ (p[i] >> 31));
    }
    return seen & 0x40000000u;
}

zge_status zge_analytic_check(const zge_model *m, uint32_t *offset) {
    const zge_analytic a = zge_analytic_of(m);
    const uint32_t pace = zge_get32(a.at + ZGE_LDA_PACE);
    uint64_t n = 0;
    *offset = (uint32_t)(a.at - m->arena);
    if (zge_get32(a.at + ZGE_LDA_SCALE) > ZGE_ANALYTIC_SCALE ||
        zge_get32(a.at + ZGE_LDA_CURSOR) >= a.classes * a.width || pace < 1 || pace > ZGE_ANALYTIC_PACE) {
        return ZGE_E_STATE;
    }
    for (uint32_t c = 0; c < a.classes; c++) {
        n += a.counts[c];
        *offset = (uint32_t)((const uint8_t *)&a.counts[c] - m->arena);
        if (n >= ZGE_ANALYTIC_SAMPLES || (c >= m->known && a.counts[c] != 0)) {
            return ZGE_E_STATE;
        }
        const int64_t most = (int64_t)a.counts[c] * 255;
        for (uint32_t j = 0; j < a.width; j++) {
            const int64_t sum = a.sums[(size_t)c * a.width + j];
            const int64_t value = a.values[(size_t)c * a.width + j];
            *offset = (uint32_t)((const uint8_t *)&a.sums[(size_t)c * a.width + j] - m->arena);
            if (sum != zge_within(sum, most) || value != zge_within(value, ZGE_ANALYTIC_VALUE)) {
                return ZGE_E_STATE;
            }
        }
    }
    const uint32_t cursor = zge_get32(a.at + ZGE_LDA_CURSOR);
    for (uint32_t c = 0; c < a.classes; c++) {
        *offset = (uint32_t)((const uint8_t *)&a.scores[c] - m->arena);
        if (a.scores[c] != (cursor % a.width == 0 ? 0 : zge_class_score(&a, c, cursor / a.width))) {
            return ZGE_E_STATE;
        }
    }
    *offset = (uint32_t)((const uint8_t *)a.triangle - m->arena);
    return zge_reach(a.triangle, zge_row_of(a.width)) ? ZGE_E_STATE : ZGE_OK;
}

/* ---- statistics ---- */

static void zge_halve_triangle(const zge_analytic *a) {
    const size_t n = zge_row_of(a->width);
    for (size_t i = 0; i < n; i++) {
        a->triangle[i] = (a->triangle[i] + 1) >> 1;
    }
}

/* Half the weight for everything seen so far; the means stay. */
static void zge_halve_samples(const zge_analytic *a) {
    for (uint32_t c = 0; c < a->classes; c++) {
        const uint32_t have = a->counts[c];
        const uint32_t left = (have + 1) / 2;
        for (uint32_t j = 0; j < a->width && have > 0; j++) {
            int32_t *sum = &a->sums[(size_t)c * a->width + j];
            *sum = (int32_t)((int64_t)*sum * left / have);
        }
        a->counts[c] = left;
    }
    const uint32_t cursor = zge_get32(a->at + ZGE_LDA_CURSOR);
    for (uint32_t c = 0; c < a->classes && cursor % a->width != 0; c++) {
        a->scores[c] = zge_class_score(a, c, cursor / a->width);
    }
    zge_halve_triangle(a);
}

static void zge_add_sample(const zge_analytic *a, const int32_t *u, uint32_t label) {
    uint32_t scale = zge_get32(a->at + ZGE_LDA_SCALE);
    const uint32_t n = zge_counted(a);
    /* One offset for all products of a sample, spread evenly over the samples: on average nothing is lost. */
    const int32_t offset = scale == 0 ? 0 : (int32_t)((n * 0x9e3779b9u) >> (32 - scale));
    int32_t *row = a->triangle;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < a->width; row += ++i) {
        const int32_t f = u[i];
        if (f == 0) {
            continue;
        }
        if (scale == 0) {
            for (uint32_t j = 0; j <= i; j++) {
                row[j] += f * u[j];
            }
        } else {
            for (uint32_t j = 0; j <= i; j++) {
                row[j] += (f * u[j] + offset) >> scale;
            }
        }
        seen |= zge_reach(row, i + 1);
    }
    const uint32_t cursor = zge_get32(a->at + ZGE_LDA_CURSOR);
    for (uint32_t j = 0; j < a->width; j++) {
        a->sums[(size_t)label * a->width + j] += u[j];
    }
    if (cursor % a->width != 0) {
        a->scores[label] = zge_class_score(a, label, cursor / a->width);
    }
    a->counts[label]++;
    if (seen != 0) { /* an entry grew by less than 2^16: one halving brings it back */
        if (scale < ZGE_ANALYTIC_SCALE) {
            zge_halve_triangle(a);
            zge_put32(a->at + ZGE_LDA_SCALE, scale + 1);
        } else {
            zge_halve_samples(a);
        }
    }
    if (n + 1 >= ZGE_ANALYTIC_SAMPLES) {
        zge_halve_samples(a);
    }
}

/* ---- the solve ---- */

/* Row j of the second moments times the values of a class, over the number of samples. */
static int64_t zge_moment(const zge_analytic *a, uint32_t j, const int32_t *v, uint32_t scale, int64_t n) {
    const int32_t *p = a->triangle + zge_row_of(j);
    int64_t sum = 0; /* at most 511 * 2^30 * 2^23 */
    for (uint32_t i = 0; i <= j; i++) {
        sum += (int64_t)p[i] * v[i];
    }
    p += j;
    for (uint32_t i = j + 1; i < a->width; i++) {
        p += i;
        sum += (int64_t)*p * v[i];
    }
    const int64_t whole = sum / n;
    return zge_add(zge_times(whole, (int64_t)1 << scale), (sum - whole * n) * ((int64_t)1 << scale) / n);
}

/* A sum of squares over n samples, in 1/256; what rounding made negative is none. */
static int64_t zge_variance(int64_t squares, int64_t n) { return squares > 0 ? squares * 256 / n : 0; }

/* One step: value j of class c moves to where its own equation holds. */
static void zge_solve_one(const zge_analytic *a, uint32_t c, uint32_t j, uint32_t scale, int64_t n) {
    int32_t *v = a->values + (size_t)c * a->width;
    int64_t total = 0, between = 0, spread = 0;
    for (uint32_t k = 0; k < a->classes; k++) {
        const int64_t sum = a->sums[(size_t)k * a->width + j];
        if (a->counts[k] > 0) {
            total += sum;
            spread += sum * sum / a->counts[k];
            between += sum * zge_within(a->scores[k] / a->counts[k], INT32_MAX);
        }
    }
    const int64_t own = a->triangle[zge_row_of(j) + j] * ((int64_t)1 << scale);
    const int64_t width = zge_variance(own - spread, n);         /* within classes */
    const int64_t whole = zge_variance(own - total * total / n, n); /* of all samples together */
    const int64_t ridge = width / 64 + whole * a->width / (4 * n) + 256;
    const int64_t aim = a->sums[(size_t)c * a->width + j] * ZGE_ANALYTIC_ONE / a->counts[c] -
                        total * ZGE_ANALYTIC_ONE / n;
    int64_t rest = zge_less(aim + between / n, zge_moment(a, j, v, scale, n));
    rest = zge_less(rest, zge_times(ridge, v[j]) / 256);
    const int64_t move = zge_within(zge_times(rest, 256) / (width + ridge), 2 * ZGE_ANALYTIC_VALUE);
    const int32_t moved = (int32_t)zge_within(v[j] + move, ZGE_ANALYTIC_VALUE);
    const int64_t by = (int64_t)moved - v[j];
    v[j] = moved;
    for (uint32_t k = 0; k < a->classes && by != 0; k++) {
        a->scores[k] += a->sums[(size_t)k * a->width + j] * by;
    }
}

/* log2 of v >= 1 in steps of 2^-20, cut off. */
static int64_t zge_log2(uint32_t v) {
    uint32_t whole = 31;
    while (!(v >> whole)) {
        whole--;
    }
    uint64_t x = (uint64_t)v << (31 - whole); /* 1 .. 2 in steps of 2^-31 */
    int64_t log = whole;
    for (uint32_t i = 0; i < ZGE_ANALYTIC_BITS; i++) {
        x = (x * x) >> 31;
        log = 2 * log + (x >> 32 ? 1 : 0);
        x >>= x >> 32 ? 1 : 0;
    }
    return log;
}

/* Write the values as weights, biases and scale of the last layer. */
static void zge_publish(zge_model *m, const zge_analytic *a, uint32_t n) {
    zge_layer *head = &m->layer[m->layers - 1];
    int64_t most = 1;
    for (size_t i = 0; i < (size_t)a->classes * a->width; i++) {
        const int64_t size = a->values[i] < 0 ? -(int64_t)a->values[i] : a->values[i];
        most = size > most ? size : most;
    }
    const float s_w = (float)most / 133169152.0f / head->s_in; /* 127 * 2^20 */
    const float multiplier = head->s_in * s_w;
    if (!zge_good_scale(s_w) || !zge_good_scale(16.0f * head->s_in * s_w) || !zge_good_scale(multiplier)) {
        return; /* an input scale near the ends of float32 */
    }
    head->s_w = s_w;
    zge_putf(m->head_record + ZGE_L_S_W, s_w);
    memset(a->scores, 0, (size_t)a->classes * sizeof *a->scores);
    for (uint32_t j = 0; j < a->width; j++) {
        int64_t total = 0;
        for (uint32_t c = 0; c < a->classes; c++) {
            total += a->sums[(size_t)c * a->width + j];
        }
        for (uint32_t c = 0; c < a->classes; c++) {
            const int64_t v = a->counts[c] == 0 ? 0 : a->values[(size_t)c * a->width + j];
            const int64_t size = ((v < 0 ? -v : v) * 254 + most) / (2 * most);
            const int64_t w = v < 0 ? -size : size;
            head->weights[(size_t)c * a->width + j] = (int8_t)w;
            a->scores[c] += w * total;
        }
    }
    for (uint32_t c = 0; c < a->classes; c++) {
        head->multiplier[c] = multiplier;
        if (a->counts[c] == 0) {
            head->bias[c] = zge_floor_bias(head);
            continue;
        }
        int64_t own = 0;
        for (uint32_t j = 0; j < a->width; j++) {
            own += (int64_t)head->weights[(size_t)c * a->width + j] * a->sums[(size_t)c * a->width + j];
        }
        const int64_t share = (zge_log2(a->counts[c]) - zge_log2(n)) * 726817 / ZGE_ANALYTIC_ONE; /* ln 2 */
        const int64_t bias = share * 127 / most - (own / a->counts[c] + a->scores[c] / n) / 2;
        head->bias[c] = (int32_t)zge_within(bias, ZGE_ANALYTIC_BIAS);
    }
    memset(a->scores, 0, (size_t)a->classes * sizeof *a->scores);
}

/* `steps` steps of the solve, from where it stands. */
static void zge_solve(zge_model *m, const zge_analytic *a, uint64_t steps) {
    const uint32_t n = zge_counted(a);
    const uint32_t scale = zge_get32(a->at + ZGE_LDA_SCALE);
    uint32_t cursor = zge_get32(a->at + ZGE_LDA_CURSOR);
    for (; n > 0 && steps > 0; steps--) {
        const uint32_t c = cursor / a->width;
        const uint32_t j = cursor % a->width;
        if (j == 0) {
            for (uint32_t k = 0; k < a->classes; k++) {
                a->scores[k] = zge_class_score(a, k, c);
            }
        }
        if (a->counts[c] > 0) {
            zge_solve_one(a, c, j, scale, n);
        }
        cursor++;
        if (j + 1 == a->width) {
            memset(a->scores, 0, (size_t)a->classes * sizeof *a->scores);
        }
        if (cursor == a->classes * a->width) {
            cursor = 0;
            zge_publish(m, a, n);
            zge_put32(a->at + ZGE_LDA_ROUNDS, zge_get32(a->at + ZGE_LDA_ROUNDS) + 1);
        }
    }
    zge_put32(a->at + ZGE_LDA_CURSOR, cursor);
}

void zge_analytic_learn(zge_model *m, uint32_t s, const uint16_t *labels, uint32_t n) {
    const zge_analytic a = zge_analytic_of(m);
    const zge_layer *head = &m->layer[m->layers - 1];
    int32_t u[ZGE_MAX_ANALYTIC];
    for (uint32_t c = 0; c < n; c++) {
        for (uint32_t j = 0; j < a.width; j++) {
            u[j] = head->x[(size_t)j * s + c] - head->z_in;
        }
        zge_add_sample(&a, u, labels[c]);
    }
    zge_solve(m, &a, zge_get32(a.at + ZGE_LDA_PACE));
}

zge_status zge_learner_solve(zge_model *m, uint32_t rounds) {
    if (m == NULL || m->arena == NULL || rounds < 1 || rounds > 4096) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    if (m->analytic == NULL) {
        return ZGE_E_ARGUMENT;
    }
    const zge_analytic a = zge_analytic_of(m);
    const uint64_t round = (uint64_t)a.classes * a.width;
    zge_solve(m, &a, round * rounds - zge_get32(a.at + ZGE_LDA_CURSOR));
    return ZGE_OK;
}
