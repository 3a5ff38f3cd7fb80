/* zge_watch.c: has the world changed? Drift detectors, and how much a learner moves after a change. */
#include "zge_impl.h"

/* All fractions are 16.16 fixed point. */
enum { ZGE_W_ONE = 65536 };

/* Page-Hinkley (Page 1954; Hinkley 1971), for a rise of the mean: what a value exceeds its running mean by,
 * less what is let pass, is summed and never falls below zero; a sum above the bound is a change. A confirmed
 * change stays so for a while, in which the other detector may find it too, and then the mean starts anew. */
enum {
    ZGE_W_FEWEST = 30,                    /* values before a mean is one */
    ZGE_W_HELD = 256,                     /* values that a confirmed change stays */
    ZGE_W_WAITS = 64,                     /* of which errors have so many to be confirmed by themselves */
    ZGE_W_MOST = 1 << 24,                 /* values that a mean is over */
    ZGE_W_PASS_ERROR = 3277,              /* 0.05 */
    ZGE_W_BOUND_ERROR = 15 * ZGE_W_ONE,
    ZGE_W_BOUND_STRANGE = 5 * ZGE_W_ONE, /* of errors, where inputs are strange */
    ZGE_W_PASS_DOUBT = 1311,              /* 0.02 */
    ZGE_W_BOUND_DOUBT = 8 * ZGE_W_ONE
};

/* Plasticity after a change: the schedule of Learner.anneal (docs/decisions.md), from a half by a constant
 * factor to a tenth of it, rewiring until 60 %. */
enum { ZGE_W_REWIRES = ZGE_W_LENGTH * 3 / 5, ZGE_W_GATHER = 16 };
static const float zge_first_rate = 0.5f;
static const float zge_novel_rate = 0.15811388f; /* half of the way */
static const float zge_decay = 0.99884936f; /* 0.1 to the power of 1 / ZGE_W_LENGTH */

uint32_t zge_detect(uint8_t *d, uint32_t value, uint32_t pass, uint32_t bound) {
    uint32_t n = zge_get32(d + ZGE_D_SEEN);
    uint64_t total = zge_get64(d + ZGE_D_TOTAL);
    const uint32_t held = zge_get32(d + ZGE_D_HELD);
    if (held > 0) {
        zge_put32(d + ZGE_D_HELD, held - 1);
        return 0;
    }
    if (n >= ZGE_W_MOST) {
        n /= 2;
        total /= 2;
    }
    n += 1;
    total += value;
    const int64_t sum = (int64_t)zge_get32(d + ZGE_D_SUM) + value - (int64_t)(total / n) - pass;
    zge_put32(d + ZGE_D_SEEN, n);
    zge_put64(d + ZGE_D_TOTAL, total);
    zge_put32(d + ZGE_D_SUM, sum > 0 ? (uint32_t)sum : 0);
    if (n < ZGE_W_FEWEST || sum <= bound) {
        return 0;
    }
    memset(d, 0, ZGE_D_SIZE);
    zge_put32(d + ZGE_D_HELD, ZGE_W_HELD);
    return 1;
}

static uint32_t zge_suspects(const uint8_t *d, uint32_t bound) {
    return zge_get32(d + ZGE_D_HELD) > 0 ||
           (zge_get32(d + ZGE_D_SEEN) >= ZGE_W_FEWEST && zge_get32(d + ZGE_D_SUM) > bound / 2);
}

static uint32_t zge_warns(const uint8_t *w) {
    return zge_suspects(w + ZGE_W_ERROR, ZGE_W_BOUND_ERROR) || zge_suspects(w + ZGE_W_DOUBT, ZGE_W_BOUND_DOUBT);
}

/* A mean that forgets: its `share`-th part is the newest value. */
static void zge_blend(uint8_t *p, uint32_t value, int32_t share) {
    const int32_t now = (int32_t)zge_get32(p);
    zge_put32(p, (uint32_t)(now + ((int32_t)value - now) / share));
}

/* How much less sure the network is of a sample than it is of the anchors, and the share of its inputs beyond
 * their scale; one is added, so that no value is negative. */
static uint32_t zge_doubt(const uint8_t *w, uint32_t score, uint32_t clamped) {
    const uint32_t sure = zge_get32(w + ZGE_W_CERTAINTY);
    return ZGE_W_ONE + (sure == 0 ? ZGE_W_ONE : sure) - 2 * score + clamped;
}

static uint32_t zge_rises(const uint8_t *w, uint32_t before) {
    return zge_warns(w) && !before;
}

uint32_t zge_watch_strange(const uint8_t *w) {
    return zge_get32(w + ZGE_W_CALM) > 0 && zge_get32(w + ZGE_W_CERTAINTY) > 0 &&
           zge_get32(w + ZGE_W_DOUBT + ZGE_D_HELD) > 0;
}

/* Errors that do not confirm a change by themselves, where it would not make a plastic time shorter. */
static uint32_t zge_errs_some(const uint8_t *w) {
    const uint8_t *d = w + ZGE_W_ERROR;
    return zge_get32(w + ZGE_W_AGE) > ZGE_W_NOVEL &&
           zge_get32(w + ZGE_W_DOUBT + ZGE_D_HELD) <= ZGE_W_HELD - ZGE_W_WAITS && zge_get32(d + ZGE_D_SEEN) >= ZGE_W_FEWEST &&
           zge_get32(d + ZGE_D_SUM) > ZGE_W_BOUND_STRANGE;
}

uint32_t zge_watch_label(uint8_t *w, uint32_t correct, uint32_t score, uint32_t clamped) {
    const uint32_t before = zge_warns(w);
    const uint32_t usual = zge_get32(w + ZGE_W_USUAL);
    const uint32_t doubt = zge_doubt(w, score, clamped);
    zge_detect(w + ZGE_W_ERROR, correct ? 0 : ZGE_W_ONE, ZGE_W_PASS_ERROR, ZGE_W_BOUND_ERROR);
    zge_detect(w + ZGE_W_DOUBT, doubt, ZGE_W_PASS_DOUBT, ZGE_W_BOUND_DOUBT);
    zge_blend(w + ZGE_W_RECENT, correct ? ZGE_W_ONE : 0, 32);
    const uint32_t errs = zge_get32(w + ZGE_W_ERROR + ZGE_D_HELD) > 0;
    const uint32_t doubts = zge_get32(w + ZGE_W_DOUBT + ZGE_D_HELD) > 0;
    if (!errs && zge_get32(w + ZGE_W_AGE) == ZGE_W_LENGTH) {
        zge_blend(w + ZGE_W_USUAL, correct ? ZGE_W_ONE : 0, 1024);
    }
    /* Wrong labels alone raise the error, and no sample looks strange for them: it takes both, or errors of
     * which no share of wrong labels that leaves the right ones the most is the cause. Only anchors tell strange
     * inputs from a network that wrong labels made unsure. Where half of the inputs died the error rises too
     * little to be confirmed by itself before its mean has followed. */
    if (errs && ((doubts && zge_get32(w + ZGE_W_CERTAINTY) > 0) || zge_get32(w + ZGE_W_RECENT) < usual / 3)) {
        return 2;
    }
    if (zge_watch_strange(w) && zge_errs_some(w)) {
        return 2;
    }
    const uint32_t level = zge_rises(w, before);
    if (level > 0) {
        zge_count(w + ZGE_W_WARNINGS);
    }
    return level;
}

void zge_watch_start(uint8_t *w, uint32_t age) {
    memset(w + ZGE_W_ERROR, 0, 2 * ZGE_D_SIZE);
    zge_put32(w + ZGE_W_AGE, age);
    zge_putf(w + ZGE_W_RATE, age == 0 ? zge_first_rate : zge_novel_rate);
    zge_put16(w + ZGE_W_CAUTION, 0);
    zge_count(w + ZGE_W_CONFIRMED);
}

void zge_watch_age(uint8_t *w) {
    const uint32_t age = zge_get32(w + ZGE_W_AGE);
    if (age == ZGE_W_LENGTH) {
        return;
    }
    zge_put32(w + ZGE_W_AGE, age + 1);
    zge_putf(w + ZGE_W_RATE, zge_getf(w + ZGE_W_RATE) * zge_decay);
    if (age + 1 == ZGE_W_LENGTH) { /* quiet again: what is usual now is learned anew */
        zge_watch_quiet(w);
    }
}

void zge_watch_quiet(uint8_t *w) {
    zge_put32(w + ZGE_W_AGE, ZGE_W_LENGTH);
    zge_putf(w + ZGE_W_RATE, 0.0f);
    zge_put32(w + ZGE_W_USUAL, zge_get32(w + ZGE_W_RECENT));
    memset(w + ZGE_W_ERROR, 0, 2 * ZGE_D_SIZE);
}

void zge_pace_now(const zge_model *m, zge_pace *p) {
    const uint8_t *w = m->watch;
    if (w == NULL) {
        return;
    }
    const uint32_t age = zge_get32(w + ZGE_W_AGE);
    const uint32_t caution = zge_get16(w + ZGE_W_CAUTION);
    if (age < ZGE_W_LENGTH) {
        uint32_t row = 0;
        for (uint32_t i = 0; i < m->layers; i++) {
            row = m->layer[i].per_row > row ? m->layer[i].per_row : row;
        }
        const uint32_t most = row * 3 / 4 < 255 ? row * 3 / 4 : 255;
        uint32_t swaps = 0;
        if (age < ZGE_W_REWIRES) {
            swaps = (most * (ZGE_W_REWIRES - age) + ZGE_W_REWIRES / 2) / ZGE_W_REWIRES;
            swaps = swaps > 1 ? swaps : 1;
        }
        p->rate = zge_getf(w + ZGE_W_RATE) > p->rate ? zge_getf(w + ZGE_W_RATE) : p->rate;
        p->swaps = p->swaps > 0 ? swaps : 0;
        p->gather = ZGE_W_GATHER;
    }
    if (caution > 0) {
        p->rate = p->rate / (float)(1u << caution);
        p->swaps = 0;
    }
}

static zge_status zge_watch_any(zge_model *m, uint32_t kind, const void *x, int32_t *label, uint32_t *drift) {
    if (m == NULL || m->arena == NULL || x == NULL || label == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (kind == ZGE_C_F32 && zge_check_finite(m, x, 1) != ZGE_OK) {
        return ZGE_E_INPUT;
    }
    const zge_column column = {kind, x};
    uint32_t best;
    uint32_t level = 0;
    const uint32_t clamped = zge_take(m, &column, 1, 1);
    zge_forward(m, 1);
    const uint32_t score = zge_score(zge_softmax(m, 1, 0, &best, NULL));
    *label = score < m->unknown ? -1 : (int32_t)best;
    if (m->watch != NULL) {
        uint8_t *w = m->watch;
        const uint32_t before = zge_warns(w);
        zge_detect(w + ZGE_W_DOUBT, zge_doubt(w, score, zge_share_of(clamped, m->inputs)), ZGE_W_PASS_DOUBT,
                   ZGE_W_BOUND_DOUBT);
        zge_count(w + ZGE_W_WATCHED);
        level = zge_rises(w, before);
        if (level > 0) {
            zge_count(w + ZGE_W_WARNINGS);
        }
    }
    if (drift != NULL) {
        *drift = level;
    }
    return ZGE_OK;
}

zge_status zge_learner_watch_f32(zge_model *m, const float *x, int32_t *label, uint32_t *drift) {
    return zge_watch_any(m, ZGE_C_F32, x, label, drift);
}

zge_status zge_learner_watch_u8(zge_model *m, const uint8_t *x, int32_t *label, uint32_t *drift) {
    return zge_watch_any(m, ZGE_C_U8, x, label, drift);
}

static zge_status zge_bad(zge_fault *f, const uint8_t *p, const zge_model *m, uint32_t section) {
    if (f != NULL) {
        f->status = ZGE_E_STATE;
        f->section = section;
        f->offset = (uint32_t)(p - m->arena);
    }
    return ZGE_E_STATE;
}

zge_status zge_watch_check(const zge_model *m, zge_fault *f) {
    const uint8_t *w = m->watch;
    const float rate = zge_getf(w + ZGE_W_RATE);
    const uint32_t age = zge_get32(w + ZGE_W_AGE);
    const uint32_t room = m->anchors;
    const int32_t rate_ok =
        age < ZGE_W_LENGTH ? rate > 0.0f && rate <= zge_first_rate : zge_get32(w + ZGE_W_RATE) == 0;
    if (zge_get16(w + ZGE_W_TRIAL) > (room >= ZGE_G_FEWEST ? 2 : 0) || zge_get16(w + ZGE_W_CAUTION) > ZGE_W_CAREFUL ||
        age > ZGE_W_LENGTH || !rate_ok || zge_get32(w + ZGE_W_LIMIT) > room || zge_get32(w + ZGE_W_BEST) > room ||
        zge_get32(w + ZGE_W_SCORED) > ZGE_G_MOST || zge_get32(w + ZGE_W_PATIENCE) > ZGE_W_PATIENT ||
        zge_get32(w + ZGE_W_CERTAINTY) > ZGE_W_ONE || zge_get32(w + ZGE_W_RECENT) > ZGE_W_ONE ||
        zge_get32(w + ZGE_W_USUAL) > ZGE_W_ONE || zge_get32(w + ZGE_W_CALM) > ZGE_W_CAREFUL) {
        return zge_bad(f, w, m, ZGE_S_WATCH);
    }
    for (uint32_t i = 0; i < 2; i++) {
        const uint8_t *d = w + ZGE_W_ERROR + i * ZGE_D_SIZE;
        const uint64_t n = zge_get32(d + ZGE_D_SEEN);
        if (n > ZGE_W_MOST || zge_get32(d + ZGE_D_HELD) > ZGE_W_HELD ||
            zge_get64(d + ZGE_D_TOTAL) > n * 4 * ZGE_W_ONE || zge_get32(d + ZGE_D_SUM) > ZGE_W_BOUND_ERROR ||
            zge_get32(d + ZGE_D_ZERO) != 0) {
            return zge_bad(f, d, m, ZGE_S_WATCH);
        }
    }
    return ZGE_OK;
}
