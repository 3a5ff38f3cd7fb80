/* zge_learn.c: one learning step: predict, step back through the layers, rewire a row, remember. */
#include "zge_impl.h"

static uint32_t zge_layer_stream(uint32_t layer, uint32_t purpose) { return ZGE_R_LAYER + 4 * layer + purpose; }

static void zge_add64(uint8_t *p, uint64_t v) { zge_put64(p, zge_get64(p) + v); }

/* A positive float coefficient as mantissa * 2^-shift with an 8-bit mantissa, `halvings` halvings taken
 * out. Exact but for the bits that do not fit; no libm. */
static zge_rate zge_rate_of(float coefficient, int32_t doublings) {
    uint32_t bits;
    memcpy(&bits, &coefficient, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 23) - 127;
    int32_t mantissa = (int32_t)(((bits & 0x7fffffu) | 0x800000u) >> 16); /* 128 .. 255 */
    int32_t shift = 7 - exponent - doublings;
    zge_rate rate;
    if (bits < 0x00800000u || shift > 38) { /* zero, subnormal, or below what a step can express */
        rate.mantissa = 0;
        rate.shift = 0;
    } else if (shift > 30) {
        rate.mantissa = mantissa >> (shift - 30);
        rate.shift = 30;
    } else if (shift < 0) {
        rate.mantissa = 255; /* a step this long ends at the weight's bound whatever it is */
        rate.shift = 0;
    } else {
        rate.mantissa = mantissa;
        rate.shift = (uint32_t)shift;
    }
    return rate;
}

/* ---- replay ---- */

static uint32_t zge_label(const zge_model *m, uint32_t slot) {
    return m->classes > 256 ? zge_get16(m->replay_labels + 2 * (size_t)slot) : m->replay_labels[slot];
}

static void zge_set_label(const zge_model *m, uint32_t slot, uint32_t label) {
    if (m->classes > 256) {
        zge_put16(m->replay_labels + 2 * (size_t)slot, (uint16_t)label);
    } else {
        m->replay_labels[slot] = (uint8_t)label;
    }
}

/* Where the new sample of class `label` in column c goes, or ZGE_NOWHERE. A free slot; else one of the
 * fullest class while its own has less than its share; else one of its own class, in a reservoir with the
 * chance that the replay has among all samples so far (Vitter 1985; with classes Chrysakis and Moens 2020). */
#define ZGE_NOWHERE UINT32_MAX

static uint32_t zge_slot(const zge_model *m, uint32_t label, uint32_t base, uint32_t c) {
    uint8_t *k = m->learner;
    const uint32_t filled = zge_get32(k + ZGE_K_FILLED);
    if (filled < m->replay_samples) {
        zge_put32(k + ZGE_K_FILLED, filled + 1);
        return filled;
    }
    uint32_t fullest = 0, present = 0;
    for (uint32_t i = 0; i < m->classes; i++) {
        fullest = m->replay_counts[i] > m->replay_counts[fullest] ? i : fullest;
        present += m->replay_counts[i] > 0 || i == label;
    }
    const uint32_t mine = m->replay_counts[label];
    uint32_t from = mine < m->replay_counts[fullest] ? fullest : label;
    if (k[ZGE_K_KEEP] == ZGE_KEEP_RESERVOIR && mine >= filled / present && mine > 0) {
        const uint64_t samples = zge_get64(k + ZGE_K_SAMPLES) + c + 1;
        const uint32_t seen = samples < UINT32_MAX ? (uint32_t)samples : UINT32_MAX;
        if (seen > filled && zge_below(zge_random(base, ZGE_MAX_BATCH + c), seen) >= filled) {
            return ZGE_NOWHERE;
        }
        from = label;
    }
    uint32_t slot = zge_below(zge_random(base, c), filled);
    while (zge_label(m, slot) != from) {
        slot = slot + 1 == filled ? 0 : slot + 1;
    }
    m->replay_counts[from]--;
    return slot;
}

/* Remember the first n columns of the batch, of labels y; those of `held` become anchors. */
static void zge_keep(const zge_model *m, uint32_t s, const uint16_t *y, uint32_t n, const zge_held *held) {
    const uint32_t base = zge_stream(zge_key(m), zge_now(m), ZGE_R_KEEP);
    uint8_t *to[ZGE_MAX_BATCH];
    for (uint32_t c = 0; c < n; c++) {
#if !defined(ZGE_NO_WATCH)
        if (held->mask >> c & 1u) {
            to[c] = zge_anchor_at(m, held->slot[c]);
            continue;
        }
#else
        (void)held;
#endif
        const uint32_t slot = m->replay_samples == 0 ? ZGE_NOWHERE : zge_slot(m, y[c], base, c);
        if (slot == ZGE_NOWHERE) {
            to[c] = NULL;
            continue;
        }
        m->replay_counts[y[c]]++;
        zge_set_label(m, slot, y[c]);
        to[c] = m->replay_data + (size_t)slot * m->replay_stride;
    }
    while (n > 0 && to[n - 1] == NULL) {
        n--;
    }
    for (uint32_t c = n; c-- > 0;) { /* what is kept nowhere is packed where the next one is, before it */
        to[c] = to[c] == NULL ? to[c + 1] : to[c];
    }
    if (n > 0) {
        zge_kernels_now()->pack(m, s, n, to);
    }
}

zge_status zge_replay_clear(zge_model *m) {
    if (m == NULL || m->arena == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    if (m->replay_samples > 0) {
        memset(m->replay_counts, 0, (size_t)m->classes * 2);
        memset(m->replay_labels, 0,
               (size_t)m->replay_samples * (m->classes > 256 ? 2 : 1) +
                   (size_t)m->replay_samples * m->replay_stride);
    }
    zge_put32(m->learner + ZGE_K_FILLED, 0);
    return ZGE_OK;
}

static zge_status zge_check_batch(const zge_model *m, const void *x, const uint16_t *y, uint32_t n, uint32_t most) {
    if (m == NULL || m->arena == NULL || x == NULL || y == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    if (n < 1 || n > most) {
        return ZGE_E_ARGUMENT;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (y[i] >= m->known) {
            return ZGE_E_LABEL;
        }
    }
    return ZGE_OK;
}

zge_status zge_replay_store_f32(zge_model *m, const float *x, const uint16_t *y, uint32_t n) {
    zge_status st = zge_check_batch(m, x, y, n, UINT32_MAX);
    if (st == ZGE_OK) {
        st = zge_check_finite(m, x, n);
    }
    if (st != ZGE_OK || m->replay_samples == 0) {
        return st;
    }
    const zge_held none = {0};
    for (uint32_t i = 0; i < n; i++) {
        const zge_column column = {ZGE_C_F32, x + (size_t)i * m->inputs};
        zge_take(m, &column, 1, 1);
        zge_keep(m, 1, y + i, 1, &none);
        zge_add64(m->learner + ZGE_K_STEP, 1); /* a new stream of random numbers for each */
    }
    return ZGE_OK;
}

/* ---- configuration ---- */

zge_status zge_learner_configure(zge_model *m, const zge_config *c) {
    if (m == NULL || m->arena == NULL || c == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    if (!(c->rate > 0.0f && c->rate <= 8.0f) || c->learn > ZGE_LEARN_NONE ||
        !zge_rewire_can(m, c->strategy) || c->swaps > 255 || c->gather < 1 || c->gather > 4096 ||
        c->keep > ZGE_KEEP_RESERVOIR) {
        return ZGE_E_ARGUMENT;
    }
    uint8_t *k = m->learner;
    if (c->strategy != zge_get16(k + ZGE_K_STRATEGY)) {
        zge_rewire_restart(m); /* what one strategy gathered means nothing to another */
    }
    zge_putf(k + ZGE_K_RATE, c->rate);
    zge_put16(k + ZGE_K_LEARN, (uint16_t)c->learn);
    zge_put16(k + ZGE_K_STRATEGY, (uint16_t)c->strategy);
    k[ZGE_K_SWAPS] = (uint8_t)c->swaps;
    k[ZGE_K_KEEP] = (uint8_t)c->keep;
    zge_put16(k + ZGE_K_GATHER, (uint16_t)c->gather);
    return ZGE_OK;
}

zge_status zge_learner_config(const zge_model *m, zge_config *c) {
    if (m == NULL || m->arena == NULL || c == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    const uint8_t *k = m->learner;
    c->rate = zge_getf(k + ZGE_K_RATE);
    c->learn = zge_get16(k + ZGE_K_LEARN);
    c->strategy = zge_get16(k + ZGE_K_STRATEGY);
    c->swaps = k[ZGE_K_SWAPS];
    c->keep = k[ZGE_K_KEEP];
    c->gather = zge_get16(k + ZGE_K_GATHER);
    return ZGE_OK;
}

/* ---- errors ---- */

/* Error of the head: e = 127 * (softmax - one hot), each rounded stochastically. Returns how many of the
 * first `fresh` samples were right. */
static uint32_t zge_head_error(const zge_model *m, uint32_t s, const uint16_t *labels, uint32_t n, uint32_t fresh,
                               int32_t *classes) {
    const zge_layer *head = &m->layer[m->layers - 1];
    const uint32_t base = zge_stream(zge_key(m), zge_now(m), ZGE_R_SOFTMAX);
    uint32_t correct = 0;
    for (uint32_t c = 0; c < s; c++) {
        if (c >= n) {
            for (uint32_t j = 0; j < m->classes && head->delta != NULL; j++) {
                head->delta[(size_t)j * s + c] = 0;
            }
            continue;
        }
        uint32_t best;
        uint16_t weights[ZGE_MAX_CLASSES];
        uint32_t sum = zge_softmax(m, s, c, &best, weights);
        for (uint32_t j = 0; j < m->classes && head->delta != NULL; j++) {
            uint32_t noise = zge_below(zge_random(base, c * m->classes + j), sum);
            int32_t e = (int32_t)((weights[j] * 127u + noise) / sum);
            head->delta[(size_t)j * s + c] = (int8_t)(j == labels[c] ? e - 127 : e);
        }
        if (c < fresh) {
            correct += best == labels[c];
            if (classes != NULL) {
                const uint32_t score = zge_score(sum);
                classes[c] = score < m->unknown ? -1 : (int32_t)best;
            }
        }
    }
    return correct;
}

/* Samples that are held back teach nothing: they have no error. */
static void zge_spare(const zge_model *m, uint32_t s, uint32_t n, uint64_t held) {
    const zge_layer *head = &m->layer[m->layers - 1];
    for (uint32_t c = 0; c < n && held != 0; c++) {
        for (uint32_t j = 0; j < m->classes && (held >> c & 1u); j++) {
            head->delta[(size_t)j * s + c] = 0;
        }
    }
}

/* ---- the step ---- */

/* A class that has its first sample starts beside the least likely one, so that it can be learned. */
static void zge_wake(const zge_model *m, const uint16_t *labels, uint32_t n) {
    const zge_layer *head = &m->layer[m->layers - 1];
    const int32_t floor = zge_floor_bias(head);
    for (uint32_t i = 0; i < n; i++) {
        if (head->bias[labels[i]] != floor) {
            continue;
        }
        int32_t least = 0;
        int32_t found = 0;
        for (uint32_t c = 0; c < m->classes; c++) {
            if (head->bias[c] != floor && (!found || head->bias[c] < least)) {
                least = head->bias[c];
                found = 1;
            }
        }
        head->bias[labels[i]] = least;
    }
}

zge_status zge_step_any(zge_model *m, uint32_t kind, const void *x, const uint16_t *y, uint32_t n, uint32_t replay,
                        int32_t *classes, zge_tick *tick) {
    zge_status st = zge_check_batch(m, x, y, n, m == NULL ? 0 : m->batch);
    if (st != ZGE_OK) {
        return st;
    }
    if (replay > m->batch - n) {
        return ZGE_E_ARGUMENT;
    }
    if (kind == ZGE_C_F32 && zge_check_finite(m, x, n) != ZGE_OK) {
        return ZGE_E_INPUT;
    }
    const zge_kernels *kernels = zge_kernels_now();
    uint8_t *k = m->learner;
    const uint32_t learn = zge_get16(k + ZGE_K_LEARN);
    const uint32_t filled = zge_get32(k + ZGE_K_FILLED);
    const size_t stride = (size_t)m->inputs * (kind == ZGE_C_F32 ? sizeof(float) : 1);
    zge_column columns[ZGE_MAX_BATCH];
    uint16_t labels[ZGE_MAX_BATCH];
    uint32_t rewired = 0;
    if (filled == 0 || learn == ZGE_LEARN_NONE) {
        replay = 0;
    }
    const uint32_t total = n + replay;
    const uint32_t s = zge_side(m, total);
    for (uint32_t c = 0; c < n; c++) {
        columns[c].kind = kind;
        columns[c].data = (const uint8_t *)x + c * stride;
        labels[c] = y[c];
    }
    const uint32_t draw = zge_stream(zge_key(m), zge_now(m), ZGE_R_DRAW);
    for (uint32_t c = n; c < total; c++) {
        uint32_t slot = zge_below(zge_random(draw, c), filled);
        columns[c].kind = ZGE_C_REPLAY;
        columns[c].data = m->replay_data + (size_t)slot * m->replay_stride;
        labels[c] = (uint16_t)zge_label(m, slot);
    }
    const uint32_t clamped = zge_take(m, columns, total, s);
    if (m->spare && m->head == ZGE_HEAD_SOFTMAX && learn != ZGE_LEARN_NONE) {
        zge_wake(m, y, n);
    }
    zge_forward(m, s);
    const uint32_t correct = zge_head_error(m, s, labels, total, n, classes);
    zge_tick done = {0};
    done.correct = correct;
    done.clamped = clamped;
    done.replayed = replay;

#if !defined(ZGE_NO_ANALYTIC)
    if (m->head == ZGE_HEAD_ANALYTIC && learn != ZGE_LEARN_NONE) {
        zge_analytic_learn(m, s, y, n);
    }
#endif
    if (m->head == ZGE_HEAD_SOFTMAX && learn != ZGE_LEARN_NONE) {
        const uint32_t lowest = learn == ZGE_LEARN_HEAD ? m->layers - 1 : 0;
        zge_pace pace = {zge_getf(k + ZGE_K_RATE), k[ZGE_K_SWAPS], zge_get16(k + ZGE_K_GATHER)};
        zge_held held = {0};
#if !defined(ZGE_NO_WATCH) /* a program that carries one network without a watch leaves it out */
        zge_hold(m, y, n, &held);
        zge_pace_now(m, &pace);
#endif
        const float scale = pace.rate / (float)total;
        int32_t doublings[ZGE_MAX_LAYERS];
        doublings[m->layers - 1] = 0;
        zge_spare(m, s, n, held.mask);
        for (uint32_t i = m->layers - 1; i > lowest; i--) {
            const uint32_t noise = zge_stream(zge_key(m), zge_now(m), zge_layer_stream(i - 1, ZGE_R_ERROR));
            doublings[i - 1] =
                doublings[i] + (int32_t)kernels->error(&m->layer[i], s, noise, m->back, m->layer[i - 1].delta);
        }
        zge_turn turn = {0};
        const int32_t rewires = lowest == 0 && zge_rewire_turn(m, &pace, held.mask, &turn);
        if (rewires) {
            zge_rewire_gather(m, &turn, labels, total, s);
        }
        for (uint32_t i = lowest; i < m->layers; i++) {
            const uint8_t *p = k + ZGE_K_SIZE + i * ZGE_KL_SIZE;
            zge_update u;
            u.weight = zge_rate_of(zge_getf(p + ZGE_KL_WEIGHT) * scale, doublings[i]);
            u.bias = zge_rate_of(zge_getf(p + ZGE_KL_BIAS) * scale, doublings[i]);
            u.noise = zge_stream(zge_key(m), zge_now(m), zge_layer_stream(i, ZGE_R_WEIGHT));
            u.bias_noise = zge_stream(zge_key(m), zge_now(m), zge_layer_stream(i, ZGE_R_BIAS));
            kernels->update(&m->layer[i], s, &u);
        }
        rewired = rewires ? zge_rewire_end(m, &turn, total) : 0;
        if (m->replay_samples > 0 || held.mask != 0) {
            zge_keep(m, s, y, n, &held);
        }
#if !defined(ZGE_NO_WATCH)
        zge_guard_tick(m, s, y, n, &held, clamped, &done);
#endif
    }
    zge_add64(k + ZGE_K_STEP, 1);
    zge_add64(k + ZGE_K_SAMPLES, n);
    zge_add64(k + ZGE_K_REWIRED, rewired);
    zge_add64(k + ZGE_K_CLAMPED, clamped);
    zge_add64(k + ZGE_K_CORRECT, correct);
    done.rewired = rewired;
    if (tick != NULL) {
        *tick = done;
    }
    return ZGE_OK;
}

zge_status zge_learner_step_f32(zge_model *m, const float *x, const uint16_t *y, uint32_t n, uint32_t replay,
                                int32_t *classes, zge_tick *tick) {
    return zge_step_any(m, ZGE_C_F32, x, y, n, replay, classes, tick);
}

zge_status zge_learner_step_u8(zge_model *m, const uint8_t *x, const uint16_t *y, uint32_t n, uint32_t replay,
                               int32_t *classes, zge_tick *tick) {
    return zge_step_any(m, ZGE_C_U8, x, y, n, replay, classes, tick);
}

static int32_t zge_same_name(const uint8_t *at, const char *name, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) {
        if (at[i] != (uint8_t)name[i]) {
            return 0;
        }
    }
    return at[bytes] == 0 || at[bytes] == ZGE_NO_NAME;
}

zge_status zge_learner_add_class(zge_model *m, const char *name, uint32_t bytes, uint32_t *number) {
    if (m == NULL || m->arena == NULL || name == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    if (m->known == m->classes) {
        return ZGE_E_ROOM;
    }
    for (uint32_t i = 0; i < bytes; i++) {
        if (name[i] == 0 || (uint8_t)name[i] == ZGE_NO_NAME) {
            return ZGE_E_NAME;
        }
    }
    uint8_t *at = m->names; /* start of name number `seen`, of `room` bytes so far */
    uint32_t room = 0;
    for (uint32_t seen = 0; seen <= m->known;) {
        if (at[room] != 0) {
            room++;
            continue;
        }
        if (seen < m->known) {
            if (zge_same_name(at, name, bytes)) {
                return ZGE_E_NAME;
            }
            at += room + 1;
            room = 0;
        }
        seen++;
    }
    if (bytes == 0) {
        return ZGE_E_NAME;
    }
    if (bytes > room) {
        return ZGE_E_ROOM;
    }
    memcpy(at, name, bytes);
    if (number != NULL) {
        *number = m->known;
    }
    m->known++;
    zge_put16(m->net + ZGE_N_KNOWN, (uint16_t)m->known);
    return ZGE_OK;
}
