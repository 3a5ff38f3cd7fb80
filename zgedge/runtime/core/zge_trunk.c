/* zge_trunk.c: the picture layers before the layers that learn. They run row by row, each holding only the
 * rows that those after it still need, so a picture is never whole in memory. */
#include "zge_impl.h"

static uint32_t zge_out_size(uint32_t size, uint32_t kernel, uint32_t stride, uint32_t same) {
    return same ? (size + stride - 1) / stride : (size - kernel) / stride + 1;
}

/* What same padding puts before the picture. */
static uint32_t zge_before(uint32_t size, uint32_t out, uint32_t kernel, uint32_t stride) {
    const uint32_t covered = (out - 1) * stride + kernel;
    return covered > size ? (covered - size) / 2 : 0;
}

/* Sizes that follow from a record; false where it is outside the format. */
static int32_t zge_trunk_shape(zge_conv *l, uint32_t same) {
    const int32_t has_taps = l->kind == ZGE_L_CONV || l->kind == ZGE_L_DEPTHWISE;
    if (l->stride < 1 || l->stride > 4 || same > 1) {
        return 0;
    }
    if (l->kind == ZGE_L_MEAN_POOL) {
        l->out_height = l->out_width = 1;
        return l->kernel == 1 && l->stride == 1 && same == 1 && l->add == 0;
    }
    if (has_taps ? l->kernel % 2 == 0 || l->kernel > 7 : l->kernel < 2 || l->kernel > 8 || l->add != 0) {
        return 0;
    }
    if (!same && (l->kernel > l->height || l->kernel > l->width)) {
        return 0;
    }
    l->out_height = zge_out_size(l->height, l->kernel, l->stride, same);
    l->out_width = zge_out_size(l->width, l->kernel, l->stride, same);
    l->top = same ? zge_before(l->height, l->out_height, l->kernel, l->stride) : 0;
    l->left = same ? zge_before(l->width, l->out_width, l->kernel, l->stride) : 0;
    return 1;
}

zge_status zge_trunk_read(zge_model *m, const uint8_t *p, uint32_t i) {
    zge_conv *l = &m->conv[i];
    const uint32_t outputs = zge_get32(p + ZGE_P_OUTPUTS);
    l->kind = p[ZGE_P_KIND];
    l->kernel = p[ZGE_P_KERNEL];
    l->stride = p[ZGE_P_STRIDE];
    l->add = p[ZGE_P_ADD];
    l->taps = zge_get32(p + ZGE_P_TAPS);
    l->s_in = zge_getf(p + ZGE_P_S_IN);
    l->s_w = zge_getf(p + ZGE_P_S_W);
    l->s_out = zge_getf(p + ZGE_P_S_OUT);
    if (!zge_trunk_shape(l, p[ZGE_P_SAME]) || p[ZGE_P_RESIDUAL] != ZGE_R_NONE || p[ZGE_P_Z_IN] != 0 ||
        p[ZGE_P_ZERO] != 0 || zge_get32(p + ZGE_P_INPUTS) != l->height * l->width * l->channels ||
        outputs < 1 || outputs > ZGE_MAX_INPUTS || outputs % (l->out_height * l->out_width) != 0 ||
        (i > 0 && m->conv[i - 1].kind == ZGE_L_MEAN_POOL)) {
        return ZGE_E_SHAPE;
    }
    l->out_channels = outputs / (l->out_height * l->out_width);
    const uint64_t window = (uint64_t)l->kernel * l->kernel;
    const uint64_t taps = l->kind == ZGE_L_CONV ? window * l->channels : l->kind == ZGE_L_DEPTHWISE ? window : 0;
    if (l->taps != taps || taps > ZGE_MAX_TAPS || l->out_channels > ZGE_MAX_CHANNELS ||
        (l->kind != ZGE_L_CONV && l->out_channels != l->channels)) {
        return ZGE_E_SHAPE;
    }
    if (l->add > i + 1) {
        return ZGE_E_SHAPE;
    }
    const zge_conv *from = l->add != 0 ? &m->conv[l->add - 1] : NULL;
    if (from != NULL && (from->height != l->out_height || from->width != l->out_width ||
                         from->channels != l->out_channels)) {
        return ZGE_E_SHAPE;
    }
    if (!zge_good_scale(l->s_in) || !zge_good_scale(l->s_w) || !zge_good_scale(l->s_out) ||
        (from != NULL && from->s_in != l->s_out) ||
        (l->kind == ZGE_L_MEAN_POOL && !zge_good_scale(l->s_in * l->s_w / l->s_out))) {
        return ZGE_E_SCALE;
    }
    if (i + 1 < ZGE_MAX_TRUNK) {
        m->conv[i + 1].height = l->out_height;
        m->conv[i + 1].width = l->out_width;
        m->conv[i + 1].channels = l->out_channels;
    }
    return ZGE_OK;
}

/* ---- the order of rows ---- */

/* How often a layer is asked for a row: a mean pool takes in one at a time and gives one at the end. */
static uint32_t zge_turns(const zge_conv *l) { return l->kind == ZGE_L_MEAN_POOL ? l->height : l->out_height; }

/* First row of layer t's input that `user`, which is t or a layer that adds it, still needs. */
static uint32_t zge_first(const zge_model *m, const uint32_t *made, uint32_t user, uint32_t t) {
    const zge_conv *l = &m->conv[t];
    const uint32_t row = made[user + 1];
    if (row == zge_turns(&m->conv[user])) {
        return l->height;
    }
    if (user != t) {
        return row;
    }
    return row * l->stride > l->top ? row * l->stride - l->top : 0;
}

/* The deepest layer, from `i` on upwards, whose next row can be made; -1: the picture's next row is due.
 * made[t] counts rows of layer t's input, made[trunk] those of the features. */
static int32_t zge_next(const zge_model *m, const uint32_t *made, int32_t i) {
    for (; i >= 0; i--) {
        const zge_conv *l = &m->conv[i];
        const uint32_t row = made[i + 1];
        if (row < zge_turns(l)) {
            const uint32_t last = row * l->stride + l->kernel - l->top; /* may be beyond the picture */
            if ((last < l->height ? last : l->height) <= made[i]) {
                break;
            }
        }
    }
    return i;
}

uint64_t zge_trunk_plan(zge_model *m) {
    uint32_t made[ZGE_MAX_TRUNK + 1];
    memset(made, 0, sizeof made);
    const zge_conv *last = &m->conv[m->trunk - 1];
    const int32_t deepest = (int32_t)m->trunk - 1;
    int32_t i = deepest;
    while (made[m->trunk] < zge_turns(last)) {
        i = zge_next(m, made, i) + 1;
        const uint32_t t = (uint32_t)i; /* whose input gains a row */
        made[t]++;
        if (t == m->trunk) {
            i = deepest;
            continue;
        }
        uint32_t oldest = zge_first(m, made, t, t);
        for (uint32_t user = t; user < m->trunk; user++) {
            const uint32_t first = m->conv[user].add == t + 1 ? zge_first(m, made, user, t) : oldest;
            oldest = first < oldest ? first : oldest;
        }
        if (made[t] > oldest && made[t] - oldest > m->conv[t].held) {
            m->conv[t].held = made[t] - oldest;
        }
    }
    uint64_t bytes = last->kind == ZGE_L_MEAN_POOL ? 4ull * last->channels : 0;
    for (uint32_t t = 0; t < m->trunk; t++) {
        bytes += (uint64_t)m->conv[t].held * m->conv[t].width * m->conv[t].channels;
    }
    return bytes + (m->batch > 1 && last->kind != ZGE_L_MEAN_POOL ? (uint64_t)last->out_width * last->out_channels : 0);
}

void zge_trunk_place(zge_model *m, uint8_t *at) {
    if (m->trunk == 0) {
        return;
    }
    const zge_conv *last = &m->conv[m->trunk - 1];
    if (last->kind == ZGE_L_MEAN_POOL) {
        m->sums = (int32_t *)(void *)at;
        at += (size_t)last->channels * 4;
    }
    for (uint32_t t = 0; t < m->trunk; t++) {
        zge_conv *l = &m->conv[t];
        l->rows = at;
        at += (size_t)l->held * l->width * l->channels;
    }
    m->row = m->batch > 1 && last->kind != ZGE_L_MEAN_POOL ? at : NULL;
}

/* ---- running it ---- */

static uint8_t *zge_slot_of(const zge_conv *l, uint32_t row) {
    return l->rows + (size_t)(row % l->held) * l->width * l->channels;
}

/* One more row into the sums of a mean pool; after the last one, the means into column c of x [channels][S]. */
static void zge_mean_row(const zge_model *m, const zge_conv *l, uint32_t y, uint8_t *x, uint32_t s) {
    const uint8_t *row = zge_slot_of(l, y);
    int32_t *sums = m->sums;
    if (y == 0) {
        memset(sums, 0, (size_t)l->channels * sizeof *sums);
    }
    for (uint32_t at = 0; at < l->width; at++) {
        for (uint32_t c = 0; c < l->channels; c++) {
            sums[c] += row[(size_t)at * l->channels + c];
        }
    }
    if (y + 1 == l->height) {
        const float multiplier = l->s_in * l->s_w / l->s_out;
        for (uint32_t c = 0; c < l->channels; c++) {
            x[(size_t)c * s] = zge_requantize(sums[c], multiplier);
        }
    }
}

/* One sample through the trunk, its features into column c of layer 0's x. Returns how many of its values
 * were clamped. */
static uint32_t zge_trunk_run(const zge_model *m, const zge_column *column, uint32_t s, uint32_t c) {
    const zge_kernels *k = zge_kernels_now();
    const zge_conv *first = &m->conv[0];
    const zge_conv *last = &m->conv[m->trunk - 1];
    const uint32_t width = first->width * first->channels;
    const int32_t deepest = (int32_t)m->trunk - 1;
    uint8_t *x = m->layer[0].x + c;
    uint32_t made[ZGE_MAX_TRUNK + 1];
    uint32_t clamped = 0;
    int32_t i = deepest;
    memset(made, 0, (m->trunk + 1) * sizeof *made);
    while (made[m->trunk] < zge_turns(last)) {
        i = zge_next(m, made, i);
        if (i < 0) {
            clamped += k->fetch(m, column, made[0] * width, width, zge_slot_of(first, made[0]));
            made[0]++;
            i = 0;
            continue;
        }
        const zge_conv *l = &m->conv[i];
        const uint32_t y = made[i + 1];
        if (l->kind == ZGE_L_MEAN_POOL) {
            zge_mean_row(m, l, y, x, s);
        } else {
            const uint32_t values = l->out_width * l->out_channels;
            uint8_t *out = l != last ? zge_slot_of(l + 1, y) : s == 1 ? x + (size_t)y * values : m->row;
            k->picture(l, y, l->add != 0 ? zge_slot_of(&m->conv[l->add - 1], y) : NULL, out);
            for (uint32_t j = 0; l == last && s > 1 && j < values; j++) {
                x[((size_t)y * values + j) * s] = out[j];
            }
        }
        made[i + 1]++;
        i = i < deepest ? i + 1 : deepest;
    }
    return clamped;
}

static int32_t zge_is_input(const zge_column *column) { return column->kind <= ZGE_C_CODES; }

static uint32_t zge_take_pictures(const zge_model *m, const zge_column *columns, uint32_t n, uint32_t s) {
    uint32_t clamped = 0;
    if (s > 1 || !zge_is_input(&columns[0])) { /* the remembered ones are features already */
        zge_column rest[ZGE_MAX_BATCH];
        rest[0] = columns[0]; /* a compiler cannot know that there is one at least, and warns */
        for (uint32_t c = 0; c < n; c++) {
            rest[c] = columns[c];
            rest[c].kind = zge_is_input(&columns[c]) ? ZGE_C_NONE : columns[c].kind;
        }
        zge_kernels_now()->quantize(m, rest, n, s);
    }
    for (uint32_t c = 0; c < n; c++) {
        if (zge_is_input(&columns[c])) {
            clamped += zge_trunk_run(m, &columns[c], s, c);
        }
    }
    return clamped;
}

uint32_t zge_take(const zge_model *m, const zge_column *columns, uint32_t n, uint32_t s) {
#if !defined(ZGE_NO_TRUNK) /* a program that carries one network without a trunk leaves it out */
    if (m->trunk > 0) {
        return zge_take_pictures(m, columns, n, s);
    }
#endif
    return zge_kernels_now()->quantize(m, columns, n, s);
}
