/* metrics.c: what a service counts, in memory that exists from the start. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "zge_impl.h"
#include "zgn.h"

int64_t zgn_now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void zgn_rolling_add(zgn_rolling *r, uint32_t right) {
    r->right += right;
    r->right -= r->ring[r->at];
    r->ring[r->at] = (uint8_t)right;
    r->at = (r->at + 1) % ZGN_WINDOW;
    r->count = r->count < ZGN_WINDOW ? r->count + 1 : ZGN_WINDOW;
}

/* ---- durations, in buckets that are a sixteenth of their value wide ---- */

void zgn_times_add(zgn_times *t, uint64_t ns) {
    uint32_t bits = 0;
    while (ns >> bits != 0 && bits < 63) {
        bits++;
    }
    t->buckets[bits > 4 ? bits * 16 + (ns >> (bits - 5) & 15) : ns]++;
    t->count++;
    t->longest = ns > t->longest ? ns : t->longest;
}

uint64_t zgn_times_quantile(const zgn_times *t, double q) {
    double left = q * (double)t->count;
    for (uint32_t i = 0; i < 64 * 16; i++) {
        left -= (double)t->buckets[i];
        if (t->buckets[i] != 0 && left <= 0) {
            if (i < 16) {
                return i;
            }
            const uint64_t width = (uint64_t)1 << (i / 16 - 5);
            const uint64_t middle = (16 + i % 16) * width + width / 2;
            return middle < t->longest ? middle : t->longest;
        }
    }
    return t->longest;
}

/* ---- a service's whole life in 120 points ---- */

void zgn_history_second(zgn_history *h, const int64_t brought[ZGN_FIELDS]) {
    int64_t *row = h->table[h->count];
    h->period = h->period == 0 ? 1 : h->period;
    for (int i = 0; i < ZGN_FIELDS - 1; i++) {
        row[i] += brought[i];
    }
    const int most = ZGN_FIELDS - 1;
    row[most] = brought[most] > row[most] ? brought[most] : row[most];
    if (++h->seconds < h->period) {
        return;
    }
    h->seconds = 0;
    if (++h->count < ZGN_POINTS) {
        return;
    }
    for (uint32_t i = 0; i < ZGN_POINTS / 2; i++) { /* full: two become one, of twice the time */
        const int64_t *a = h->table[2 * i], *b = h->table[2 * i + 1];
        for (int j = 0; j < ZGN_FIELDS; j++) {
            h->table[i][j] = j < most ? a[j] + b[j] : a[j] > b[j] ? a[j] : b[j];
        }
    }
    memset(h->table[ZGN_POINTS / 2], 0, sizeof h->table / 2);
    h->count = ZGN_POINTS / 2;
    h->period *= 2;
}

void zgn_put_history(zgn_out *out, const zgn_history *h) {
    static const char *const fields[ZGN_FIELDS] = {"samples", "correct", "rewired", "drift", "rss"};
    zgn_put(out, "{\"period\": %u", h->period == 0 ? 1 : h->period);
    for (int j = 0; j < ZGN_FIELDS; j++) {
        zgn_put(out, ", \"%s\": [", fields[j]);
        for (uint32_t i = 0; i < h->count; i++) {
            zgn_put(out, i == 0 ? "%lld" : ", %lld", (long long)h->table[i][j]);
        }
        zgn_put(out, "]");
    }
    zgn_put(out, "}");
}

/* ---- memory ---- */

uint64_t zgn_resident(int statm) {
    char text[128];
    const ssize_t n = pread(statm, text, sizeof text - 1, 0);
    if (n <= 0) {
        return 0;
    }
    text[n] = 0;
    char *second = strchr(text, ' ');
    return second == NULL ? 0 : strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

extern const char __executable_start[], etext[]; /* of the linker */

void zgn_trim(void) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = (uintptr_t)__executable_start / page * page, to = (uintptr_t)etext / page * page;
    /* A page that is missing brings in its neighbours, 64 KB of them, as far as they belong to one area with it.
     * Every second page is advised otherwise than the next, so each is an area of its own. */
    for (uintptr_t at = from; at < to; at += 2 * page) {
        (void)madvise((void *)at, page, MADV_RANDOM);
    }
    (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

/* ---- the learner, from the bytes of the arena ---- */

static void put_count(zgn_out *out, const char *name, const uint8_t *at) {
    zgn_put(out, ", \"%s\": %llu", name, (unsigned long long)zge_get64(at));
}

static void put_share(zgn_out *out, const char *name, double value) {
    zgn_put(out, ", \"%s\": ", name);
    zgn_put_number(out, value);
}

static const char *drift_level(const uint8_t *watch) {
    static const uint32_t at[2] = {ZGE_W_ERROR, ZGE_W_DOUBT}, bound[2] = {15 * 65536, 8 * 65536};
    enum { FEWEST_SEEN = 30 };
    if (zge_get16(watch + ZGE_W_TRIAL) != 0) {
        return "confirmed";
    }
    for (int i = 0; i < 2; i++) {
        const uint8_t *detector = watch + at[i];
        if (zge_get32(detector + ZGE_D_HELD) != 0 || (zge_get32(detector + ZGE_D_SEEN) >= FEWEST_SEEN &&
                                                      zge_get32(detector + ZGE_D_SUM) > bound[i] / 2)) {
            return "warning";
        }
    }
    return "quiet";
}

static void put_watch(zgn_out *out, const zgn_model *model) {
    const uint8_t *w = model->m.watch;
    const uint32_t best = zge_get32(w + ZGE_W_BEST), usual = zge_get32(w + ZGE_W_USUAL);
    uint32_t filled = 0, right = 0;
    if (model->m.anchors != 0) {
        filled = zge_get32(model->m.anchor_head + ZGE_G_FILLED);
        for (uint32_t i = 0; i < filled; i++) {
            right += model->m.anchor_flags[i] >> 1;
        }
    }
    const bool on = filled >= ZGE_G_FEWEST;
    zgn_put(out, ", \"epoch\": %u, \"anchors\": %u, \"anchors_right\": %u, \"best\": %u, \"smallest_drop\": ",
            zge_get32(w + ZGE_W_EPOCH), filled, right, best);
    if (on) {
        const double drop = 2 * pow((double)best * ((double)filled - best), 0.5) / pow(filled, 1.5);
        zgn_put_number(out, 100 * (drop > 0.01 ? drop : 0.01));
    } else {
        zgn_put(out, "null");
    }
    zgn_put(out, ", \"guard\": \"%s\", \"trial\": %s, \"caution\": %u", on ? "on" : "off",
            zge_get16(w + ZGE_W_TRIAL) != 0 ? "true" : "false", zge_get16(w + ZGE_W_CAUTION));
    put_share(out, "plasticity", 1 - (double)zge_get32(w + ZGE_W_AGE) / (double)ZGE_W_LENGTH);
    put_count(out, "accepted", w + ZGE_W_ACCEPTED);
    put_count(out, "rolled_back", w + ZGE_W_ROLLED_BACK);
    zgn_put(out, ", \"drift\": {\"level\": \"%s\"", drift_level(w));
    put_count(out, "warnings", w + ZGE_W_WARNINGS);
    put_count(out, "confirmed", w + ZGE_W_CONFIRMED);
    put_count(out, "rejected", w + ZGE_W_REJECTED);
    put_share(out, "recent", (double)zge_get32(w + ZGE_W_RECENT) / 65536);
    put_share(out, "usual", usual == 0 ? (double)NAN : (double)usual / 65536);
    put_count(out, "watched", w + ZGE_W_WATCHED);
    zgn_put(out, "}");
}

void zgn_put_learner(zgn_out *out, const zgn_model *model) {
    static const char *const learn[] = {"all", "head", "none"};
    static const char *const strategies[] = {"static", "set", "rigl", "hebbian", "three-factor", "attention"};
    const zge_model *m = &model->m;
    if (!m->learning) {
        zgn_put(out, "null");
        return;
    }
    const uint8_t *k = m->learner;
    zgn_put(out, "{\"steps\": %llu", (unsigned long long)zge_get64(k + ZGE_K_STEP));
    put_count(out, "samples", k + ZGE_K_SAMPLES);
    put_count(out, "rewired", k + ZGE_K_REWIRED);
    put_count(out, "clamped", k + ZGE_K_CLAMPED);
    zgn_put(out, ", \"key\": %u, \"cursor\": %u", zge_get32(k + ZGE_K_KEY), zge_get32(k + ZGE_K_CURSOR));
    put_share(out, "rate", (double)zge_getf(k + ZGE_K_RATE));
    zgn_put(out, ", \"learn\": \"%s\", \"strategy\": \"%s\", \"swaps\": %u, \"gather\": %u, \"keep\": \"%s\", \"remembered\": %u",
            learn[zge_get16(k + ZGE_K_LEARN) % 3], strategies[zge_get16(k + ZGE_K_STRATEGY) % 6],
            k[ZGE_K_SWAPS], zge_get16(k + ZGE_K_GATHER), k[ZGE_K_KEEP] == ZGE_KEEP_RESERVOIR ? "reservoir" : "fade",
            zge_get32(k + ZGE_K_FILLED));
    put_count(out, "correct", k + ZGE_K_CORRECT);
    if (m->watch != NULL) {
        put_watch(out, model);
    }
    uint64_t waiting = 0, dropped = 0, unknown = 0;
    if (m->pending != NULL) {
        for (uint32_t i = 0; i < m->pending_entries; i++) {
            const uint8_t *entry = m->pending + ZGE_WAIT_SIZE + (size_t)i * ZGE_WAITING_SIZE;
            waiting += zge_get64(entry + ZGE_WAITING_ORDER) != 0;
        }
        dropped = zge_get64(m->pending + ZGE_WAIT_DROPPED);
        unknown = zge_get64(m->pending + ZGE_WAIT_UNKNOWN);
    }
    zgn_put(out, ", \"pending\": %llu, \"pending_dropped\": %llu, \"pending_unknown\": %llu",
            (unsigned long long)waiting, (unsigned long long)dropped, (unsigned long long)unknown);
    if (m->head == ZGE_HEAD_ANALYTIC && m->analytic != NULL) {
        uint64_t counted = 0;
        for (uint32_t i = 0; i < m->classes; i++) {
            counted += zge_get32(m->analytic + ZGE_LDA_SIZE + 8 * (size_t)m->classes + 4 * (size_t)i);
        }
        zgn_put(out, ", \"solved\": %u, \"counted\": %llu", zge_get32(m->analytic + ZGE_LDA_ROUNDS),
                (unsigned long long)counted);
    }
    zgn_put(out, "}");
}
