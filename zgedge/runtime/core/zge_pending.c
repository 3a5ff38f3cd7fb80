/* zge_pending.c: samples that wait for their label, by id, in a table of fixed length. */
#include "zge_impl.h"

static uint8_t *zge_entry(const zge_model *m, uint32_t i) {
    return m->pending + ZGE_WAIT_SIZE + (size_t)i * ZGE_WAITING_SIZE;
}

static uint8_t *zge_waiting(const zge_model *m, uint32_t i) {
    return m->pending + ZGE_WAIT_SIZE + (size_t)m->pending_entries * ZGE_WAITING_SIZE + (size_t)i * m->replay_stride;
}

/* The entry of an id; the number of entries where none has it. */
static uint32_t zge_find(const zge_model *m, uint64_t id) {
    uint32_t i = 0;
    while (i < m->pending_entries && (zge_get64(zge_entry(m, i) + ZGE_WAITING_ORDER) == 0 ||
                                      zge_get64(zge_entry(m, i) + ZGE_WAITING_ID) != id)) {
        i++;
    }
    return i;
}

zge_status zge_pending_check(const zge_model *m, uint32_t *offset) {
    const uint64_t held = zge_get64(m->pending + ZGE_WAIT_HELD);
    *offset = (uint32_t)(m->pending - m->arena);
    if (zge_get32(m->pending + ZGE_WAIT_RESERVED) != 0) {
        return ZGE_E_STATE;
    }
    for (uint32_t i = 0; i < m->pending_entries; i++) {
        const uint8_t *p = zge_entry(m, i);
        const uint64_t order = zge_get64(p + ZGE_WAITING_ORDER);
        *offset = (uint32_t)(p - m->arena);
        if (order > held || (order == 0 && zge_get64(p + ZGE_WAITING_ID) != 0)) {
            return ZGE_E_STATE;
        }
        for (uint32_t k = 0; k < i && order != 0; k++) {
            const uint8_t *q = zge_entry(m, k);
            const uint64_t other = zge_get64(q + ZGE_WAITING_ORDER);
            if (other == order || (other != 0 && zge_get64(p + ZGE_WAITING_ID) == zge_get64(q + ZGE_WAITING_ID))) {
                return ZGE_E_STATE;
            }
        }
    }
    return ZGE_OK;
}

static zge_status zge_pending_usable(const zge_model *m) {
    if (m == NULL || m->arena == NULL) {
        return ZGE_E_ARGUMENT;
    }
    if (!m->learning) {
        return ZGE_E_NO_LEARNING;
    }
    return m->pending == NULL ? ZGE_E_ARGUMENT : ZGE_OK;
}

static zge_status zge_hold_any(zge_model *m, uint64_t id, uint32_t kind, const void *x, int32_t *class_) {
    const zge_status st = zge_pending_usable(m);
    if (st != ZGE_OK || x == NULL) {
        return st != ZGE_OK ? st : ZGE_E_ARGUMENT;
    }
    if (kind == ZGE_C_F32 && zge_check_finite(m, x, 1) != ZGE_OK) {
        return ZGE_E_INPUT;
    }
    const zge_column column = {kind, x};
    zge_take(m, &column, 1, 1);
    uint32_t place = zge_find(m, id);
    if (place == m->pending_entries) { /* a free place, else the oldest one: the first of least order */
        place = 0;
        for (uint32_t i = 1; i < m->pending_entries; i++) {
            const uint64_t order = zge_get64(zge_entry(m, i) + ZGE_WAITING_ORDER);
            place = order < zge_get64(zge_entry(m, place) + ZGE_WAITING_ORDER) ? i : place;
        }
        if (zge_get64(zge_entry(m, place) + ZGE_WAITING_ORDER) != 0) {
            zge_count(m->pending + ZGE_WAIT_DROPPED);
        }
    }
    zge_count(m->pending + ZGE_WAIT_HELD);
    zge_put64(zge_entry(m, place) + ZGE_WAITING_ORDER, zge_get64(m->pending + ZGE_WAIT_HELD));
    zge_put64(zge_entry(m, place) + ZGE_WAITING_ID, id);
    uint8_t *to[1] = {zge_waiting(m, place)};
    zge_kernels_now()->pack(m, 1, 1, to);
    zge_forward(m, 1);
    uint32_t best;
    const uint32_t sum = zge_softmax(m, 1, 0, &best, NULL);
    if (class_ != NULL) {
        *class_ = (32768u * 32768u + sum / 2) / sum < m->unknown ? -1 : (int32_t)best;
    }
    return ZGE_OK;
}

zge_status zge_learner_hold_f32(zge_model *m, uint64_t id, const float *x, int32_t *class_) {
    return zge_hold_any(m, id, ZGE_C_F32, x, class_);
}

zge_status zge_learner_hold_u8(zge_model *m, uint64_t id, const uint8_t *x, int32_t *class_) {
    return zge_hold_any(m, id, ZGE_C_U8, x, class_);
}

zge_status zge_learner_settle(zge_model *m, uint64_t id, uint16_t y, uint32_t replay, int32_t *class_,
                              zge_tick *tick) {
    zge_status st = zge_pending_usable(m);
    if (st != ZGE_OK) {
        return st;
    }
    const uint32_t place = zge_find(m, id);
    if (place == m->pending_entries) {
        zge_count(m->pending + ZGE_WAIT_UNKNOWN);
        return ZGE_E_ID;
    }
    st = zge_step_any(m, ZGE_C_REPLAY, zge_waiting(m, place), &y, 1, replay, class_, tick);
    if (st == ZGE_OK) { /* a place that is free holds nothing of anyone */
        memset(zge_entry(m, place), 0, ZGE_WAITING_SIZE);
        memset(zge_waiting(m, place), 0, m->replay_stride);
    }
    return st;
}
