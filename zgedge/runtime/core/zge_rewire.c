/* zge_rewire.c: which connections of a row give way, and to which.
 *
 * All strategies drop the smallest weights. Of growth all but one score by a row of numbers, one for each input, that
 * is gathered over the samples of a visit: the sum of a signal of the unit times the input. What the signal is makes
 * the strategy. */
#include "zge_impl.h"

/* ---- whose turn it is ---- */

/* The sparse layer and the row in it that have this number, counted over all sparse layers; 0 past the last. */
static int32_t zge_turn_of(const zge_model *m, uint32_t cursor, zge_turn *turn) {
    turn->cursor = cursor;
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *l = &m->layer[i];
        if (l->kind != ZGE_L_SPARSE) {
            continue;
        }
        if (cursor < l->outputs) {
            turn->layer = l;
            turn->index = i;
            turn->row = cursor;
            return 1;
        }
        cursor -= l->outputs;
    }
    return 0;
}

int32_t zge_rewire_turn(const zge_model *m, const zge_pace *pace, uint64_t held, zge_turn *turn) {
    const uint8_t *k = m->learner;
    turn->swaps = pace->swaps;
    turn->gather = pace->gather;
    turn->held = held;
    return zge_get16(k + ZGE_K_STRATEGY) != ZGE_REWIRE_STATIC && pace->swaps > 0 &&
           zge_turn_of(m, zge_get32(k + ZGE_K_CURSOR), turn);
}

int32_t zge_rewire_can(const zge_model *m, uint32_t strategy) {
    return strategy < ZGE_REWIRE_ATTENTION || (strategy == ZGE_REWIRE_ATTENTION && m->parts > 0);
}

/* ---- signals of a unit, one a sample ---- */

/* Hebbian: activity less its mean over all samples gathered so far, halved. So the sum of signal times input is their
 * covariance, without bias although the mean is still being found. Units of a sparse last layer are as active as
 * their class is right. */
static void zge_activity(const zge_model *m, const zge_turn *t, const uint16_t *labels, uint32_t total, uint32_t s,
                         int8_t *signal) {
    uint8_t *k = m->learner;
    const uint32_t count = zge_get32(k + ZGE_K_GATHERED) + total;
    uint32_t sum = zge_get32(k + ZGE_K_ACTIVITY);
    int32_t y[ZGE_MAX_BATCH];
    for (uint32_t c = 0; c < total; c++) {
        if (t->index + 1 < m->layers) {
            y[c] = m->layer[t->index + 1].x[(size_t)t->row * s + c];
        } else {
            y[c] = labels[c] == t->row ? 255 : 0;
        }
        sum += (uint32_t)y[c];
    }
    const int32_t mean = (int32_t)((sum + count / 2) / count);
    for (uint32_t c = 0; c < total; c++) {
        signal[c] = (int8_t)((y[c] - mean) / 2);
    }
    zge_put32(k + ZGE_K_ACTIVITY, sum);
}

/* Three factors: input and activity, and an error that comes through wires of fixed random sign instead of the
 * network's own weights. The last layer has its error at hand. */
static void zge_modulated(const zge_model *m, const zge_turn *t, uint32_t total, uint32_t s, int8_t *signal) {
    const zge_layer *head = &m->layer[m->layers - 1];
    const uint32_t signs = zge_stream(zge_key(m), UINT64_MAX, ZGE_R_SKETCH);
    int32_t sum[ZGE_MAX_BATCH];
    memset(sum, 0, total * sizeof *sum);
    for (uint32_t j = 0; j < m->classes; j++) {
        const int32_t sign = zge_random(signs, t->cursor * m->classes + j) >> 31 ? -1 : 1;
        for (uint32_t c = 0; c < total; c++) {
            sum[c] += sign * head->delta[(size_t)j * s + c];
        }
    }
    const uint8_t *y = m->layer[t->index + 1].x + (size_t)t->row * s;
    for (uint32_t c = 0; c < total; c++) {
        const int32_t v = sum[c] > 127 ? 127 : sum[c] < -127 ? -127 : sum[c];
        signal[c] = (int8_t)(y[c] > 0 ? v : 0);
    }
}

#if !defined(ZGE_NO_TRACES)
/* In the softmax of attention no product at all is this many sixteenths of a nat below the largest. */
enum { ZGE_NATS_16 = 255 };

/* Attention: a random sign for each sample, the same for all inputs and all units; every unit of the layer adds up its
 * errors with these signs. */
static void zge_sketch(const zge_model *m, const zge_turn *t, uint32_t total, uint32_t s, int8_t *signal) {
    const uint32_t signs = zge_stream(zge_key(m), zge_now(m), ZGE_R_SKETCH);
    for (uint32_t c = 0; c < total; c++) {
        signal[c] = zge_random(signs, c) >> 31 ? -1 : 1;
    }
    for (uint32_t r = 0; r < t->layer->outputs; r++) {
        const int8_t *delta = t->layer->delta + (size_t)r * s;
        int32_t sum = 0;
        for (uint32_t c = 0; c < total; c++) {
            sum += delta[c] * signal[c];
        }
        m->query[r] += sum;
    }
}

/* n sums as int8, divided by the least power of two that fits them all. */
static void zge_pack_part(const int32_t *sums, uint32_t n, int8_t *out) {
    int32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        const int32_t size = sums[i] < 0 ? -sums[i] : sums[i];
        most = size > most ? size : most;
    }
    uint32_t shift = 0;
    while (most >> shift > 126) {
        shift++;
    }
    const int32_t half = (1 << shift) >> 1;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (int8_t)((sums[i] + half) >> shift);
    }
}

static void zge_forget_sketches(const zge_model *m) {
    memset(m->traces + ZGE_A_HELD, 0, m->trace_bytes - ZGE_A_HELD);
}

/* Close the part that was gathered, in the gradient row and the queries' sums; then the gradient row becomes the product
 * of the unit's query with every key. */
static void zge_attend(const zge_model *m, const zge_turn *t) {
    const zge_layer *l = t->layer;
    const uint32_t held = zge_get16(m->traces + ZGE_A_HELD);
    const uint32_t next = zge_get16(m->traces + ZGE_A_NEXT);
    const uint32_t now = held < m->parts ? held + 1 : held;
    zge_pack_part(m->grad, l->inputs, m->keys + (size_t)next * l->inputs);
    zge_pack_part(m->query, l->outputs, m->queries + (size_t)next * l->outputs);
    zge_put16(m->traces + ZGE_A_HELD, (uint16_t)now);
    zge_put16(m->traces + ZGE_A_NEXT, (uint16_t)(next + 1 == m->parts ? 0 : next + 1));
    memset(m->query, 0, l->outputs * sizeof *m->query);
    memset(m->grad, 0, l->inputs * sizeof *m->grad);
    for (uint32_t p = 0; p < now; p++) {
        const int32_t query = m->queries[(size_t)p * l->outputs + t->row];
        const int8_t *key = m->keys + (size_t)p * l->inputs;
        for (uint32_t i = 0; i < l->inputs; i++) {
            m->grad[i] += query * key[i];
        }
    }
}

static uint32_t zge_block_size(const zge_layer *l, const int32_t *grad, uint32_t index) {
    uint32_t sum = 0;
    for (uint32_t b = 0; b < l->block; b++) {
        const int32_t g = grad[index * l->block + b];
        sum += (uint32_t)(g < 0 ? -g : g);
    }
    return sum;
}

/* The weight of a block in the softmax; `scale` nats / 16 for a score of `top`. */
static uint32_t zge_attention(uint32_t size, uint32_t top, float scale) {
    return size == 0 ? 0 : zge_exponential((uint32_t)zge_rne((float)(top - size) * scale));
}

/* An absent block drawn from the softmax of the products' sizes, in which the largest is ZGE_NATS above none. `blocks`
 * where all are 0. */
static uint32_t zge_sample(const zge_layer *l, const int32_t *grad, uint32_t random) {
    const uint32_t blocks = l->inputs / l->block;
    uint32_t top = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t size = zge_block_size(l, grad, i);
        top = size > top ? size : top;
    }
    if (top == 0) {
        return blocks;
    }
    const float scale = (float)ZGE_NATS_16 / (float)top;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        sum += zge_attention(zge_block_size(l, grad, i), top, scale);
    }
    uint32_t left = zge_below(random, sum);
    uint32_t i = 0;
    for (;; i++) {
        const uint32_t weight = zge_attention(zge_block_size(l, grad, i), top, scale);
        if (left < weight) {
            return i;
        }
        left -= weight;
    }
}
#endif

void zge_rewire_gather(const zge_model *m, const zge_turn *t, const uint16_t *labels, uint32_t total, uint32_t s) {
    const uint32_t strategy = zge_get16(m->learner + ZGE_K_STRATEGY);
    zge_layer view = *t->layer; /* a layer of one unit, whose error is the signal */
    int8_t signal[ZGE_MAX_BATCH];
    memset(signal, 0, s);
    if (strategy == ZGE_REWIRE_SET) {
        return;
    }
    if (strategy == ZGE_REWIRE_HEBBIAN) {
        zge_activity(m, t, labels, total, s, signal);
    } else if (strategy == ZGE_REWIRE_THREE_FACTOR && t->index + 1 < m->layers) {
        zge_modulated(m, t, total, s, signal);
#if !defined(ZGE_NO_TRACES)
    } else if (strategy == ZGE_REWIRE_ATTENTION) {
        zge_sketch(m, t, total, s, signal);
#endif
    } else { /* RigL, and three factors in the last layer: the unit's own error */
        memcpy(signal, t->layer->delta + (size_t)t->row * s, s);
    }
    for (uint32_t c = 0; c < total && t->held != 0; c++) {
        signal[c] = (int8_t)(t->held >> c & 1u ? 0 : signal[c]);
    }
    view.delta = signal;
    zge_kernels_now()->gradient(&view, 0, s, m->grad);
}

/* ---- a visit ---- */

/* Drop score of the k-th block of a row: the sum of its weights' sizes, residual bits included. */
static uint32_t zge_drop_score(const zge_layer *l, uint32_t row, uint32_t k) {
    size_t at = (size_t)row * l->width + (size_t)k * l->block;
    uint32_t sum = 0;
    for (uint32_t b = 0; b < l->block; b++) {
        int32_t v = l->weights[at + b] * 16 + zge_residual(l, at + b);
        sum += (uint32_t)(v < 0 ? -v : v);
    }
    return sum;
}

/* Give the k-th block of a row to input block `index`, its weights starting at 0. */
static void zge_rewire_block(const zge_layer *l, uint32_t row, uint32_t k, uint32_t index) {
    size_t at = (size_t)row * l->width + (size_t)k * l->block;
    memset(l->weights + at, 0, l->block);
    l->indices[(size_t)row * l->per_row + k] = (uint16_t)index; /* residual bits, where here, are 0 too */
    for (uint32_t b = 0; b < l->block && l->residual == ZGE_R_SECTION; b++) {
        uint8_t *p = &l->nibbles[(at + b) / 2];
        *p = (uint8_t)((at + b) & 1u ? *p & 0x0fu : *p & 0xf0u);
    }
}

/* The block with the smallest drop score, the lowest place where several are equal, of those that this
 * visit has not taken yet. */
static uint32_t zge_weakest(const zge_layer *l, uint32_t row, const uint8_t *taken) {
    uint32_t place = l->per_row;
    uint32_t least = UINT32_MAX;
    for (uint32_t k = 0; k < l->per_row; k++) {
        if (taken[k / 8] & (1u << (k % 8))) {
            continue;
        }
        uint32_t score = zge_drop_score(l, row, k);
        if (score < least) {
            least = score;
            place = k;
        }
    }
    return place;
}

static int32_t zge_wired(const zge_layer *l, uint32_t row, uint32_t index) {
    const uint16_t *p = l->indices + (size_t)row * l->per_row;
    for (uint32_t k = 0; k < l->per_row; k++) {
        if ((p[k] & l->index_mask) == index) {
            return 1;
        }
    }
    return 0;
}

/* The absent block whose gathered numbers are largest: present ones have been zeroed. `blocks` where all are 0. */
static uint32_t zge_steepest(const zge_layer *l, const int32_t *grad) {
    uint32_t blocks = l->inputs / l->block;
    uint32_t best = blocks;
    uint32_t most = 0;
    if (l->block == 1) { /* the same in two loops without a branch on data, which compilers vectorize */
        int32_t size = 0;
        for (uint32_t i = 0; i < blocks; i++) {
            const int32_t g = grad[i] < 0 ? -grad[i] : grad[i];
            size = g > size ? g : size;
        }
        for (uint32_t i = 0; size > 0 && i < blocks; i++) {
            if (grad[i] == size || grad[i] == -size) {
                return i;
            }
        }
        return blocks;
    }
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t sum = 0;
        for (uint32_t b = 0; b < l->block; b++) {
            int32_t g = grad[i * l->block + b];
            sum += (uint32_t)(g < 0 ? -g : g);
        }
        if (sum > most) {
            most = sum;
            best = i;
        }
    }
    return best;
}

/* SET: an absent block at random; the next absent one where the draws keep missing. */
static uint32_t zge_anywhere(const zge_layer *l, uint32_t row, uint32_t random) {
    uint32_t blocks = l->inputs / l->block;
    uint32_t index = 0;
    for (uint32_t i = 0; i < 16; i++) {
        index = zge_below(zge_random(random, i), blocks);
        if (!zge_wired(l, row, index)) {
            return index;
        }
    }
    while (zge_wired(l, row, index)) {
        index = index + 1 == blocks ? 0 : index + 1;
    }
    return index;
}

static uint32_t zge_visit(const zge_model *m, const zge_turn *t) {
    const zge_layer *l = t->layer;
    const uint32_t strategy = zge_get16(m->learner + ZGE_K_STRATEGY);
    const uint32_t blocks = l->inputs / l->block;
    const uint32_t absent = blocks - l->per_row;
    const uint32_t base = zge_stream(zge_key(m), zge_now(m), ZGE_R_GROW);
    uint32_t swaps = t->swaps;
    uint32_t done = 0;
    uint8_t taken[(ZGE_MAX_INPUTS + 7) / 8];
    swaps = swaps < absent ? swaps : absent;
    swaps = swaps < l->per_row ? swaps : l->per_row;
    memset(taken, 0, (l->per_row + 7) / 8);
#if !defined(ZGE_NO_TRACES)
    if (strategy == ZGE_REWIRE_ATTENTION) {
        zge_attend(m, t);
    }
#endif
    if (strategy != ZGE_REWIRE_SET) {
        for (uint32_t k = 0; k < l->per_row; k++) {
            uint32_t index = l->indices[(size_t)t->row * l->per_row + k] & l->index_mask;
            memset(m->grad + (size_t)index * l->block, 0, l->block * sizeof *m->grad);
        }
    }
    for (; done < swaps; done++) {
        uint32_t grown;
        if (strategy == ZGE_REWIRE_SET) {
            grown = zge_anywhere(l, t->row, zge_random(base, done));
#if !defined(ZGE_NO_TRACES)
        } else if (strategy == ZGE_REWIRE_ATTENTION) {
            grown = zge_sample(l, m->grad, zge_random(base, done));
#endif
        } else {
            grown = zge_steepest(l, m->grad);
        }
        if (grown == blocks) {
            break;
        }
        if (strategy != ZGE_REWIRE_SET) {
            memset(m->grad + (size_t)grown * l->block, 0, l->block * sizeof *m->grad);
        }
        uint32_t place = zge_weakest(l, t->row, taken);
        taken[place / 8] = (uint8_t)(taken[place / 8] | (1u << (place % 8)));
        zge_rewire_block(l, t->row, place, grown);
    }
    return done;
}

uint32_t zge_rewire_end(const zge_model *m, const zge_turn *t, uint32_t total) {
    uint8_t *k = m->learner;
    const uint32_t gathered = zge_get32(k + ZGE_K_GATHERED) + total;
    zge_put32(k + ZGE_K_GATHERED, gathered);
    if (gathered < t->gather) {
        return 0;
    }
    const uint32_t rewired = zge_visit(m, t) * t->layer->block;
    memset(m->grad, 0, (size_t)t->layer->inputs * sizeof *m->grad);
    zge_put32(k + ZGE_K_GATHERED, 0);
    zge_put32(k + ZGE_K_ACTIVITY, 0);
    zge_turn next = *t;
    if (!zge_turn_of(m, t->cursor + 1, &next)) {
        zge_turn_of(m, 0, &next);
    }
    zge_put32(k + ZGE_K_CURSOR, next.cursor);
#if !defined(ZGE_NO_TRACES)
    if (next.layer != t->layer && m->parts > 0) {
        zge_forget_sketches(m); /* they are of this layer's inputs */
    }
#endif
    return rewired;
}

void zge_rewire_restart(const zge_model *m) {
    zge_turn turn = {0};
    /* Below an analytic head nothing is gathered. */
    if (m->grad != NULL && zge_turn_of(m, zge_get32(m->learner + ZGE_K_CURSOR), &turn)) {
        memset(m->grad, 0, (size_t)turn.layer->inputs * sizeof *m->grad);
    }
    zge_put32(m->learner + ZGE_K_GATHERED, 0);
    zge_put32(m->learner + ZGE_K_ACTIVITY, 0);
#if !defined(ZGE_NO_TRACES)
    if (m->parts > 0) {
        zge_forget_sketches(m);
    }
#endif
}
