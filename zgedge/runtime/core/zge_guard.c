/* zge_guard.c: what was learned is kept only where samples that nothing was learned from agree. */
#include "zge_impl.h"

enum {
    ZGE_G_SHARE = 8,     /* of the stream one sample in so many is held back */
    ZGE_G_SIDE = 8,      /* anchors scored in a tick */
    ZGE_G_JUDGED = 32,   /* samples held back before a trial is judged */
    ZGE_G_SHOW = 16      /* anchors of a class that show it, however many there are */
};

/* Flags of an anchor: the accepted state had it right; the present one had it right when it was scored last. */
enum { ZGE_G_WAS = 1, ZGE_G_IS = 2 };

typedef struct zge_tally {
    uint32_t was, is, won, lost;
} zge_tally;

static uint32_t zge_anchors_filled(const zge_model *m) { return zge_get32(m->anchor_head + ZGE_G_FILLED); }
static uint32_t zge_in_trial(const zge_model *m) { return zge_get16(m->watch + ZGE_W_TRIAL); }

/* In a trial the upper quarter of the room takes the samples of the new world, and the anchors below stay. */
static uint32_t zge_trial_from(const zge_model *m) {
    const uint32_t quarter = m->anchors / 4 > ZGE_G_JUDGED ? m->anchors / 4 : ZGE_G_JUDGED;
    return m->anchors > quarter ? m->anchors - quarter : 0;
}

/* The anchors that are looked at now: those of the trial in one, else all. */
static uint32_t zge_range(const zge_model *m, uint32_t *from) {
    *from = zge_in_trial(m) ? zge_trial_from(m) : 0;
    return zge_in_trial(m) ? zge_get32(m->anchor_head + ZGE_G_TRIED) : zge_anchors_filled(m);
}

static uint32_t zge_anchor_label(const zge_model *m, uint32_t slot) {
    return m->classes > 256 ? zge_get16(m->anchor_labels + 2 * (size_t)slot) : m->anchor_labels[slot];
}

static uint32_t zge_anchors_of(const zge_model *m, uint32_t label, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        count += zge_anchor_label(m, i) == label;
    }
    return count;
}

static zge_tally zge_tally_of(const zge_model *m, uint32_t from, uint32_t n) {
    zge_tally t = {0, 0, 0, 0};
    const uint8_t *flags = m->anchor_flags + from;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t was = flags[i] & 1u;
        const uint32_t is = flags[i] >> 1;
        t.was += was;
        t.is += is;
        t.won += is & ~was;
        t.lost += was & ~is;
    }
    return t;
}

static uint32_t zge_root(uint64_t v) { /* the whole part of the square root, of less than 2^40 */
    uint32_t root = 0;
    for (uint32_t bit = 1u << 20; bit > 0; bit >>= 1) {
        const uint64_t more = root | bit;
        root = more * more <= v ? (uint32_t)more : root;
    }
    return root;
}

/* Anchors that may be lost before a state is no longer accepted: half of what the guard promises, which is a
 * hundredth of them or two standard errors. */
static uint32_t zge_margin(uint32_t n, uint32_t best) {
    const uint32_t errors = zge_root(4ull * best * (n - best) / n);
    const uint32_t point = n / 100;
    return (errors > point ? errors : point) / 2;
}

/* ---- the snapshot ---- */

/* Copy what learns into the snapshot, or back. In both: biases, indices, weights, residual section, each of
 * all layers. */
static void zge_copy_state(const zge_model *m, int32_t back) {
    uint8_t *p = m->snapshot;
    for (uint32_t i = 0; i < m->layers; i++) {
        const size_t bytes = (size_t)m->layer[i].outputs * 4;
        memcpy(back ? (uint8_t *)m->layer[i].bias : p, back ? p : (uint8_t *)m->layer[i].bias, bytes);
        p += bytes;
    }
    for (uint32_t part = 0; part < 3; part++) {
        for (uint32_t i = 0; i < m->layers; i++) {
            const zge_layer *l = &m->layer[i];
            const size_t weights = (size_t)l->outputs * l->width;
            uint8_t *live = part == 0 ? (uint8_t *)l->indices : part == 1 ? (uint8_t *)l->weights : l->nibbles;
            const size_t bytes = part == 0   ? (size_t)l->outputs * l->per_row * 2
                                 : part == 1 ? weights
                                             : (weights + 1) / 2;
            if (live != NULL && bytes > 0) {
                memcpy(back ? live : p, back ? p : live, bytes);
                p += bytes;
            }
        }
    }
}

/* A layer as the snapshot has it, whatever its pointers were. */
static zge_layer zge_shadow(const zge_model *m, uint32_t which) {
    zge_layer l = m->layer[which];
    uint8_t *p = m->snapshot;
    size_t before[4] = {0, 0, 0, 0};
    size_t all[4] = {0, 0, 0, 0};
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *o = &m->layer[i];
        const size_t weights = (size_t)o->outputs * o->width;
        const size_t bytes[4] = {(size_t)o->outputs * 4, (size_t)o->outputs * o->per_row * 2, weights,
                                 o->residual == ZGE_R_SECTION ? (weights + 1) / 2 : 0};
        for (uint32_t part = 0; part < 4; part++) {
            all[part] += bytes[part];
            before[part] += i < which ? bytes[part] : 0;
        }
    }
    l.bias = (int32_t *)(void *)(p + before[0]);
    p += all[0];
    l.indices = l.kind == ZGE_L_SPARSE ? (uint16_t *)(void *)(p + before[1]) : NULL;
    p += all[1];
    l.weights = (int8_t *)(p + before[2]);
    p += all[2];
    l.nibbles = l.residual == ZGE_R_SECTION ? p + before[3] : NULL;
    return l;
}

uint64_t zge_snapshot_bytes(const zge_model *m) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *l = &m->layer[i];
        const uint64_t weights = (uint64_t)l->outputs * l->width;
        bytes += (uint64_t)l->outputs * 4 + (uint64_t)l->outputs * l->per_row * 2 + weights +
                 (l->residual == ZGE_R_SECTION ? (weights + 1) / 2 : 0);
    }
    return bytes;
}

/* ---- decisions ---- */

/* Whether more changed sides one way than the other by so many standard errors. */
static uint32_t zge_clearly(uint32_t more, uint32_t less, uint32_t errors) {
    const uint64_t apart = more > less ? more - less : 0;
    return apart * apart > (uint64_t)errors * errors * (more + less);
}

/* Caution after a state was accepted. The anchors are scored one after another while the state moves on, so
 * what is accepted may be worse than what they showed, by as much as is learned in a cycle: in a quiet world that
 * is kept small, unless they show that there is something to learn. */
static uint32_t zge_calmed(const uint8_t *w, uint32_t caution, uint32_t quiet, zge_tally t) {
    const uint32_t calm = zge_clearly(t.won, t.lost, 2) ? 0 : zge_get32(w + ZGE_W_CALM);
    if (caution < calm) {
        return quiet ? caution + 1 : caution;
    }
    return caution > calm ? caution - 1 : caution;
}

/* The present state becomes the accepted one. */
static void zge_accept(const zge_model *m, uint32_t best) {
    const uint32_t n = zge_anchors_filled(m);
    for (uint32_t i = 0; i < n; i++) {
        m->anchor_flags[i] = m->anchor_flags[i] & ZGE_G_IS ? ZGE_G_WAS | ZGE_G_IS : 0;
    }
    zge_put32(m->watch + ZGE_W_BEST, best);
    zge_put32(m->watch + ZGE_W_SCORED, 0);
    zge_put32(m->watch + ZGE_W_PATIENCE, 0);
    zge_copy_state(m, 0);
}

/* Back to the accepted state. What was gathered for the row under the cursor belongs to the one left. */
static void zge_rollback(const zge_model *m) {
    const uint32_t n = zge_anchors_filled(m);
    for (uint32_t i = 0; i < n; i++) {
        m->anchor_flags[i] = m->anchor_flags[i] & ZGE_G_WAS ? ZGE_G_WAS | ZGE_G_IS : 0;
    }
    zge_rewire_restart(m);
    zge_put32(m->watch + ZGE_W_SCORED, 0);
    zge_put32(m->watch + ZGE_W_PATIENCE, 0);
    zge_copy_state(m, 1);
}

/* What is clearly lost in the first cycle after a state was accepted or come back was not had by it: anchors were
 * scored while it moved. Else what is scored right after each return would be a loss again. */
static void zge_correct(const zge_model *m, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        m->anchor_flags[i] = m->anchor_flags[i] == ZGE_G_WAS ? 0 : m->anchor_flags[i];
    }
}

/* A new epoch with the anchors that it has so far, in the present state. */
static void zge_open_epoch(const zge_model *m) {
    uint8_t *w = m->watch;
    zge_put32(w + ZGE_W_EPOCH, zge_get32(w + ZGE_W_EPOCH) + 1);
    if (m->anchors > 0) {
        zge_put32(w + ZGE_W_LIMIT, m->anchors);
        zge_put32(m->anchor_head + ZGE_G_CURSOR, 0);
        zge_accept(m, zge_tally_of(m, 0, zge_anchors_filled(m)).is);
    }
}

/* The trial's samples are the anchors from now on. They are fewer than the slots below them. */
static void zge_end_trial(const zge_model *m) {
    const uint32_t n = zge_get32(m->anchor_head + ZGE_G_TRIED);
    const uint32_t from = zge_trial_from(m);
    const uint32_t wide = m->classes > 256 ? 2 : 1;
    memcpy(m->anchor_labels, m->anchor_labels + (size_t)from * wide, (size_t)n * wide);
    memcpy(m->anchor_flags, m->anchor_flags + from, n);
    memcpy(m->anchor_data, m->anchor_data + (size_t)from * m->replay_stride, (size_t)n * m->replay_stride);
    zge_put32(m->anchor_head + ZGE_G_FILLED, n);
    zge_put32(m->anchor_head + ZGE_G_TRIED, 0);
    zge_put16(m->watch + ZGE_W_TRIAL, 0);
    zge_open_epoch(m);
}

/* The old state and the anchors of its world that are left; no sample of this world becomes one. */
static void zge_reject(const zge_model *m) {
    const uint32_t n = zge_anchors_filled(m);
    zge_put32(m->anchor_head + ZGE_G_TRIED, 0);
    zge_put32(m->anchor_head + ZGE_G_CURSOR, 0);
    zge_put16(m->watch + ZGE_W_TRIAL, 0);
    zge_put32(m->watch + ZGE_W_LIMIT, n);
    zge_put32(m->watch + ZGE_W_BEST, zge_tally_of(m, 0, n).was);
    zge_rollback(m);
    zge_watch_quiet(m->watch);
    zge_put16(m->watch + ZGE_W_CAUTION, (uint16_t)(n < ZGE_G_FEWEST ? 0 : zge_get32(m->watch + ZGE_W_CALM)));
    zge_count(m->watch + ZGE_W_REJECTED);
}

/* Drift is confirmed. With anchors enough what is learned from here on is a trial: it has to show that it
 * serves the new world better than the accepted state does. Else there is nothing to lose. */
static void zge_drift(const zge_model *m) {
    uint8_t *w = m->watch;
    const uint32_t n = m->anchors > 0 ? zge_anchors_filled(m) : 0;
    if (m->anchors > 0 && zge_in_trial(m)) {
        return;
    }
    const uint32_t strange = zge_watch_strange(w);
    const uint32_t some = strange && zge_get32(w + ZGE_W_ERROR + ZGE_D_HELD) == 0;
    zge_watch_start(w, some ? ZGE_W_NOVEL : 0);
    if (n < ZGE_G_FEWEST) {
        if (m->anchors > 0) {
            zge_put32(m->anchor_head + ZGE_G_FILLED, 0);
        }
        zge_open_epoch(m);
        return;
    }
    zge_put16(w + ZGE_W_TRIAL, strange ? 2 : 1);
    zge_put32(w + ZGE_W_SCORED, 0);
    zge_put32(w + ZGE_W_PATIENCE, 0);
    zge_put32(m->anchor_head + ZGE_G_TRIED, 0);
    zge_put32(m->anchor_head + ZGE_G_CURSOR, 0);
    if (n > zge_trial_from(m)) {
        const uint32_t left = zge_trial_from(m);
        /* The best of all anchors, as a share of those that are left. */
        const uint64_t best = (uint64_t)zge_get32(w + ZGE_W_BEST) * left / n;
        zge_put32(m->anchor_head + ZGE_G_FILLED, left);
        zge_put32(w + ZGE_W_BEST, (uint32_t)best);
    }
}

/* 0, 1 accepted, 2 rolled back. */
static uint32_t zge_judge(const zge_model *m) {
    uint8_t *w = m->watch;
    const uint32_t n = zge_get32(m->anchor_head + ZGE_G_TRIED);
    const uint32_t over = zge_get32(w + ZGE_W_AGE) == ZGE_W_LENGTH;
    if (n < ZGE_G_JUDGED && !over) {
        return 0;
    }
    const zge_tally t = zge_tally_of(m, zge_trial_from(m), n);
    /* Half as good as the best of the old world, a quarter at the end: what learns from wrong labels that it
     * answers them less wrongly has no share worth having. */
    const uint64_t least = (uint64_t)n * zge_get32(w + ZGE_W_BEST) / (over ? 4 : 2);
    /* Where inputs are strange no wrong labels began the trial, and the accepted state is of a world that is gone:
     * at the end the better one stays. */
    const uint32_t better = over && zge_in_trial(m) == 2 ? t.won > t.lost : zge_clearly(t.won, t.lost, 3);
    if (n >= ZGE_G_JUDGED && better && (uint64_t)t.is * zge_anchors_filled(m) >= least) {
        zge_end_trial(m);
        zge_count(w + ZGE_W_ACCEPTED);
        return 1;
    }
    if (over || zge_clearly(t.lost, t.won, 3)) {
        zge_reject(m);
        return 2;
    }
    return 0;
}

static uint32_t zge_decide(const zge_model *m) {
    uint8_t *w = m->watch;
    const uint32_t n = zge_anchors_filled(m);
    const uint32_t best = zge_get32(w + ZGE_W_BEST);
    const uint32_t cycled = zge_get32(w + ZGE_W_SCORED) >= (n < ZGE_G_FEWEST ? ZGE_G_FEWEST : n);
    const zge_tally t = zge_tally_of(m, 0, n);
    if (n < ZGE_G_FEWEST) { /* too few to see anything: the state of each cycle is the accepted one */
        if (cycled) {
            zge_accept(m, t.is);
        }
        return 0;
    }
    const uint32_t quiet = zge_get32(w + ZGE_W_AGE) == ZGE_W_LENGTH;
    const uint32_t margin = quiet ? 0 : zge_margin(n, best);
    const uint32_t caution = zge_get16(w + ZGE_W_CAUTION);
    const uint32_t below = t.is + margin < best;
    if (cycled && !below) {
        zge_accept(m, t.is > best ? t.is : best);
        zge_put16(w + ZGE_W_CAUTION, (uint16_t)zge_calmed(w, caution, quiet, t));
        zge_count(w + ZGE_W_ACCEPTED);
        return 1;
    }
    uint32_t patience = zge_get32(w + ZGE_W_PATIENCE);
    if (cycled) {
        patience += 1;
        zge_put32(w + ZGE_W_SCORED, 0);
        zge_put32(w + ZGE_W_PATIENCE, patience);
    }
    if (below && (zge_clearly(t.lost, t.won, 2) || patience == ZGE_W_PATIENT)) {
        if (!quiet && patience == 0 && zge_get32(w + ZGE_W_CALM) > 0) {
            zge_correct(m, n);
        }
        zge_rollback(m);
        if (quiet) { /* a plastic rate falls by itself */
            zge_put16(w + ZGE_W_CAUTION, (uint16_t)(caution < ZGE_W_CAREFUL ? caution + 1 : caution));
        }
        zge_count(w + ZGE_W_ROLLED_BACK);
        return 2;
    }
    return 0;
}

/* ---- the tick ---- */

/* The first slot of the class with most anchors, among the first n, from a random one on. */
static uint32_t zge_dispensable(const zge_model *m, uint32_t n, uint32_t random) {
    uint32_t fullest = 0;
    uint32_t most = 0;
    for (uint32_t i = 0; i < m->classes; i++) {
        const uint32_t count = zge_anchors_of(m, i, n);
        fullest = count > most ? i : fullest;
        most = count > most ? count : most;
    }
    uint32_t slot = zge_below(random, n);
    while (zge_anchor_label(m, slot) != fullest) {
        slot = slot + 1 == n ? 0 : slot + 1;
    }
    return slot;
}

/* Whether n anchors have fewer of a class than half of its share, or too few to show it. */
static uint32_t zge_lacks(const zge_model *m, uint32_t label, uint32_t n) {
    const uint32_t share = n / m->classes < 2 * ZGE_G_SHOW ? n / m->classes : 2 * ZGE_G_SHOW;
    return 2 * zge_anchors_of(m, label, n) < share;
}

/* Whether a class that this tick held samples of has its anchors now, of which the accepted state has less than half
 * right. */
static uint32_t zge_novel(const zge_model *m, const uint16_t *y, uint32_t n, uint64_t lacked) {
    const uint32_t filled = zge_anchors_filled(m);
    for (uint32_t c = 0; c < n; c++) {
        if (!(lacked >> c & 1u) || zge_lacks(m, y[c], filled)) {
            continue;
        }
        uint32_t known = 0;
        for (uint32_t i = 0; i < filled; i++) {
            known += zge_anchor_label(m, i) == y[c] && (m->anchor_flags[i] & ZGE_G_WAS);
        }
        if (2 * known < zge_anchors_of(m, y[c], filled)) {
            return 1;
        }
    }
    return 0;
}

/* Anchors that lack a class neither defend it nor show what there is to learn: of such a class every other sample
 * is held back, in place of one of the class with most where there is no room. A class that the accepted state
 * does not know is a change of the world that needs no trial, since the other anchors are still of it. */
void zge_hold(const zge_model *m, const uint16_t *y, uint32_t n, zge_held *held) {
    if (m->anchors == 0) {
        return;
    }
    uint8_t *w = m->watch;
    const uint32_t base = zge_stream(zge_get32(m->learner + ZGE_K_KEY), zge_get64(m->learner + ZGE_K_STEP), ZGE_R_HOLD);
    const uint32_t trial = zge_in_trial(m);
    uint32_t from;
    const uint32_t before = zge_range(m, &from);
    const uint32_t most = trial ? m->anchors - from : zge_get32(w + ZGE_W_LIMIT);
    const uint32_t balanced = !trial && before >= ZGE_G_FEWEST && zge_get32(w + ZGE_W_CALM) > 0;
    uint32_t have = before;
    for (uint32_t c = 0; c < n; c++) {
        const uint32_t lacks = balanced && zge_lacks(m, y[c], have);
        if ((have >= most && !lacks) || zge_below(zge_random(base, c), lacks ? 2 : ZGE_G_SHARE) != 0) {
            continue;
        }
        uint32_t slot = from + have;
        if (have < most) {
            have += 1;
        } else {
            slot = zge_dispensable(m, before, zge_random(base, ZGE_MAX_BATCH + c));
            const uint32_t best = zge_get32(w + ZGE_W_BEST);
            zge_put32(w + ZGE_W_BEST, best - (best > 0 && (m->anchor_flags[slot] & ZGE_G_WAS)));
        }
        if (m->classes > 256) {
            zge_put16(m->anchor_labels + 2 * (size_t)slot, y[c]);
        } else {
            m->anchor_labels[slot] = (uint8_t)y[c];
        }
        m->anchor_flags[slot] = 0;
        held->mask |= 1ull << c;
        held->lacked |= (uint64_t)lacks << c;
        held->slot[c] = slot;
    }
    zge_put32(m->anchor_head + (trial ? ZGE_G_TRIED : ZGE_G_FILLED), have);
}

uint8_t *zge_anchor_at(const zge_model *m, uint32_t slot) { return m->anchor_data + (size_t)slot * m->replay_stride; }

/* What the accepted and the present state make of the samples that this tick held back. */
static void zge_score_held(zge_model *m, uint32_t s, uint32_t n, const zge_held *held) {
    zge_layer live[ZGE_MAX_LAYERS];
    memcpy(live, m->layer, sizeof live);
    for (uint32_t state = 0; state < 2; state++) { /* the present one, then the accepted one */
        if (state == 1) {
            for (uint32_t i = 0; i < m->layers; i++) {
                m->layer[i] = zge_shadow(m, i);
            }
        }
        zge_forward(m, s);
        for (uint32_t c = 0; c < n; c++) {
            if (held->mask >> c & 1u) {
                uint32_t best;
                zge_softmax(m, s, c, &best, NULL);
                if (best == zge_anchor_label(m, held->slot[c])) {
                    m->anchor_flags[held->slot[c]] |= state == 0 ? ZGE_G_IS : ZGE_G_WAS;
                    const uint32_t right = zge_get32(m->watch + ZGE_W_BEST);
                    if (state == 1 && !zge_in_trial(m) && right < zge_anchors_filled(m)) {
                        zge_put32(m->watch + ZGE_W_BEST, right + 1);
                    }
                }
            }
        }
    }
    memcpy(m->layer, live, sizeof live);
}

/* The next anchors side by side through the layers. */
static void zge_score_some(const zge_model *m) {
    uint8_t *w = m->watch;
    uint32_t from;
    const uint32_t have = zge_range(m, &from);
    uint32_t n = m->batch < ZGE_G_SIDE ? m->batch : ZGE_G_SIDE;
    n = n < have ? n : have;
    if (n == 0) {
        return;
    }
    zge_column columns[ZGE_G_SIDE];
    uint32_t slots[ZGE_G_SIDE];
    uint32_t cursor = zge_get32(m->anchor_head + ZGE_G_CURSOR);
    for (uint32_t c = 0; c < n; c++) {
        cursor = cursor < have ? cursor : 0;
        slots[c] = from + cursor;
        columns[c].kind = ZGE_C_REPLAY;
        columns[c].data = m->anchor_data + (size_t)slots[c] * m->replay_stride;
        cursor += 1;
    }
    const uint32_t s = zge_side(m, n);
    uint32_t sure = 0;
    zge_take(m, columns, n, s);
    zge_forward(m, s);
    for (uint32_t c = 0; c < n; c++) {
        uint32_t best;
        sure += 2 * zge_score(zge_softmax(m, s, c, &best, NULL));
        uint8_t *flags = m->anchor_flags + slots[c];
        *flags = (uint8_t)((*flags & ZGE_G_WAS) | (best == zge_anchor_label(m, slots[c]) ? ZGE_G_IS : 0));
    }
    zge_put32(m->anchor_head + ZGE_G_CURSOR, cursor < have ? cursor : 0);
    const uint32_t scored = zge_get32(w + ZGE_W_SCORED) + n;
    zge_put32(w + ZGE_W_SCORED, scored < ZGE_G_MOST ? scored : ZGE_G_MOST);
    const int32_t was = (int32_t)zge_get32(w + ZGE_W_CERTAINTY);
    const int32_t now = (int32_t)(sure / n);
    zge_put32(w + ZGE_W_CERTAINTY, (uint32_t)(was == 0 ? now : was + (now - was) / 16));
}

void zge_guard_tick(zge_model *m, uint32_t s, const uint16_t *y, uint32_t n, const zge_held *held,
                    uint32_t clamped, zge_tick *tick) {
    uint8_t *w = m->watch;
    if (w == NULL) {
        return;
    }
    uint32_t drift = 0;
    uint32_t novel = 0;
    for (uint32_t c = 0; c < n; c++) {
        tick->anchored += (uint32_t)(held->mask >> c & 1u);
    }
    const uint32_t share = zge_share_of(clamped, n * m->inputs);
    for (uint32_t c = 0; c < n; c++) { /* the logits of this tick's prediction are still there */
        uint32_t best;
        const uint32_t score = zge_score(zge_softmax(m, s, c, &best, NULL));
        const uint32_t found = zge_watch_label(w, best == y[c], score, share);
        drift = found > drift ? found : drift;
    }
    zge_watch_age(w);
    if (m->anchors > 0) {
        if (held->mask != 0) {
            zge_score_held(m, s, n, held);
            /* A world that changed less time ago is plastic longer as it is. */
            if (zge_get32(w + ZGE_W_AGE) > ZGE_W_NOVEL && zge_novel(m, y, n, held->lacked)) {
                novel = 1;
                zge_watch_start(w, ZGE_W_NOVEL);
            }
        }
        zge_score_some(m);
        tick->guard = zge_in_trial(m) ? zge_judge(m) : zge_decide(m);
    }
    if (drift == 2) {
        if (m->anchors > 0 && zge_in_trial(m)) {
            drift = 0; /* known already */
        } else {
            zge_drift(m);
        }
    }
    tick->drift = novel ? 2 : drift;
}

/* ---- by hand ---- */

static zge_status zge_by_hand(const zge_model *m) {
    if (m == NULL || m->arena == NULL) {
        return ZGE_E_ARGUMENT;
    }
    return !m->learning ? ZGE_E_NO_LEARNING : m->anchors == 0 ? ZGE_E_NO_GUARD : ZGE_OK;
}

zge_status zge_learner_accept(zge_model *m) {
    const zge_status st = zge_by_hand(m);
    if (st != ZGE_OK) {
        return st;
    }
    if (zge_in_trial(m)) {
        zge_end_trial(m);
    } else {
        zge_accept(m, zge_tally_of(m, 0, zge_anchors_filled(m)).is);
    }
    zge_count(m->watch + ZGE_W_ACCEPTED);
    return ZGE_OK;
}

zge_status zge_learner_rollback(zge_model *m) {
    const zge_status st = zge_by_hand(m);
    if (st != ZGE_OK) {
        return st;
    }
    if (zge_in_trial(m)) {
        zge_reject(m);
    } else {
        zge_rollback(m);
        zge_count(m->watch + ZGE_W_ROLLED_BACK);
    }
    return ZGE_OK;
}

/* ---- opening ---- */

static zge_status zge_guard_bad(const zge_model *m, const uint8_t *p, zge_fault *f) {
    if (f != NULL) {
        f->status = ZGE_E_STATE;
        f->section = ZGE_S_ANCHORS;
        f->offset = (uint32_t)(p - m->arena);
    }
    return ZGE_E_STATE;
}

zge_status zge_guard_check(const zge_model *m, zge_fault *f) {
    const uint8_t *h = m->anchor_head;
    const uint32_t trial = zge_in_trial(m);
    const uint32_t filled = zge_get32(h + ZGE_G_FILLED);
    const uint32_t tried = zge_get32(h + ZGE_G_TRIED);
    const uint32_t from = zge_trial_from(m);
    const uint32_t cursor = zge_get32(h + ZGE_G_CURSOR);
    const uint32_t looked = trial ? tried : filled;
    if (filled > (trial ? from : m->anchors) || tried > (trial ? m->anchors - from : 0) ||
        (cursor > 0 && cursor >= looked) || zge_get32(m->watch + ZGE_W_BEST) > filled) {
        return zge_guard_bad(m, h, f);
    }
    for (uint32_t i = 0; i < filled + tried; i++) {
        const uint32_t slot = i < filled ? i : from + i - filled;
        if (zge_anchor_label(m, slot) >= m->classes || m->anchor_flags[slot] > (ZGE_G_WAS | ZGE_G_IS)) {
            return zge_guard_bad(m, m->anchor_flags + slot, f);
        }
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer shadow = zge_shadow(m, i);
        const zge_status st = zge_check_layer(m, &shadow, m->trunk + i, f);
        if (st != ZGE_OK) {
            if (f != NULL) {
                f->section = ZGE_S_SNAPSHOT;
            }
            return st;
        }
    }
    return ZGE_OK;
}
