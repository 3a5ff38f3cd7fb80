/* zge_model.c: prediction, and the choice of kernels. */
#include "zge_impl.h"

/* round(32768 * exp(-i / 16)): softmax in steps of a sixteenth of a nat. */
static const uint16_t zge_exp[256] = {
    32768, 30783, 28918, 27166, 25520, 23974, 22521, 21157, 19875, 18671, 17539, 16477,
    15479, 14541, 13660, 12832, 12055, 11324, 10638, 9994, 9388, 8819, 8285, 7783,
    7312, 6869, 6452, 6061, 5694, 5349, 5025, 4721, 4435, 4166, 3914, 3676,
    3454, 3244, 3048, 2863, 2690, 2527, 2374, 2230, 2095, 1968, 1849, 1737,
    1631, 1533, 1440, 1352, 1271, 1194, 1121, 1053, 990, 930, 873, 820,
    771, 724, 680, 639, 600, 564, 530, 498, 467, 439, 412, 387,
    364, 342, 321, 302, 283, 266, 250, 235, 221, 207, 195, 183,
    172, 162, 152, 143, 134, 126, 118, 111, 104, 98, 92, 86,
    81, 76, 72, 67, 63, 59, 56, 52, 49, 46, 43, 41,
    38, 36, 34, 32, 30, 28, 26, 25, 23, 22, 21, 19,
    18, 17, 16, 15, 14, 13, 12, 12, 11, 10, 10, 9,
    9, 8, 8, 7, 7, 6, 6, 6, 5, 5, 5, 4,
    4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2,
    2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0,
};

uint32_t zge_exponential(uint32_t i) { return zge_exp[i]; }

extern const zge_kernels zge_kernels_portable;
#if defined(ZGE_WITH_AVX2)
extern const zge_kernels zge_kernels_avx2;
#endif
#if defined(ZGE_WITH_VNNI)
extern const zge_kernels zge_kernels_vnni;
#endif
#if defined(ZGE_WITH_NEON)
extern const zge_kernels zge_kernels_neon;
#endif
#if defined(ZGE_WITH_DOTPROD)
extern const zge_kernels zge_kernels_dotprod;
#endif

/* From the plainest to the fastest. */
static const zge_kernels *const zge_variants[] = {
    &zge_kernels_portable,
#if defined(ZGE_WITH_AVX2)
    &zge_kernels_avx2,
#endif
#if defined(ZGE_WITH_VNNI)
    &zge_kernels_vnni,
#endif
#if defined(ZGE_WITH_NEON)
    &zge_kernels_neon,
#endif
#if defined(ZGE_WITH_DOTPROD)
    &zge_kernels_dotprod,
#endif
};
#define ZGE_VARIANTS ((uint32_t)(sizeof zge_variants / sizeof zge_variants[0]))

static const zge_kernels *zge_chosen;

const zge_kernels *zge_kernels_now(void) {
    if (zge_chosen == NULL) {
        for (uint32_t i = ZGE_VARIANTS; i-- > 0 && zge_chosen == NULL;) {
            if (zge_variants[i]->usable()) {
                zge_chosen = zge_variants[i];
            }
        }
    }
    return zge_chosen;
}

uint32_t zge_variant_count(void) { return ZGE_VARIANTS; }
const char *zge_variant_name(uint32_t i) { return i < ZGE_VARIANTS ? zge_variants[i]->name : NULL; }
int32_t zge_variant_usable(uint32_t i) { return i < ZGE_VARIANTS && zge_variants[i]->usable(); }
const char *zge_variant_current(void) { return zge_kernels_now()->name; }

static int32_t zge_same_text(const char *a, const char *b) {
    while (*a != 0 && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

zge_status zge_variant_select(const char *name) {
    if (name == NULL) {
        return ZGE_E_ARGUMENT;
    }
    for (uint32_t i = 0; i < ZGE_VARIANTS; i++) {
        if (zge_same_text(zge_variants[i]->name, name) && zge_variants[i]->usable()) {
            zge_chosen = zge_variants[i];
            return ZGE_OK;
        }
    }
    return ZGE_E_VARIANT;
}

uint32_t zge_side(const zge_model *m, uint32_t n) {
    uint32_t s = 1;
    while (s < n && s < m->batch) {
        s *= 2;
    }
    return s;
}

zge_status zge_check_finite(const zge_model *m, const float *x, uint32_t n) {
    size_t count = (size_t)n * m->inputs;
    uint32_t carried = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        carried |= (bits & 0x7fffffffu) + 0x00800000u; /* an exponent of all ones carries into the sign */
    }
    return carried >> 31 ? ZGE_E_INPUT : ZGE_OK;
}

void zge_forward(const zge_model *m, uint32_t s) {
    const zge_kernels *k = zge_kernels_now();
    for (uint32_t i = 0; i + 1 < m->layers; i++) {
        k->hidden(&m->layer[i], s, m->layer[i + 1].x);
    }
    k->head(&m->layer[m->layers - 1], s, m->logits);
}

uint32_t zge_softmax(const zge_model *m, uint32_t s, uint32_t column, uint32_t *best, uint16_t *out) {
    const zge_layer *head = &m->layer[m->layers - 1];
    const float to_table = 16.0f * head->s_in * head->s_w;
    const int32_t *logits = m->logits + column;
    uint32_t winner = 0;
    uint32_t sum = 0;
    for (uint32_t c = 1; c < m->known; c++) {
        winner = logits[(size_t)c * s] > logits[(size_t)winner * s] ? c : winner;
    }
    const int32_t top = logits[(size_t)winner * s];
    for (uint32_t c = m->known; c < m->classes && out != NULL; c++) {
        out[c] = 0; /* a class without a name is never predicted */
    }
    for (uint32_t c = 0; c < m->known; c++) {
        float below = (float)((uint32_t)top - (uint32_t)logits[(size_t)c * s]) * to_table;
        below = below < 255.0f ? below : 255.0f;
        uint16_t e = zge_exp[(uint32_t)zge_rne(below)];
        sum += e;
        if (out != NULL) {
            out[c] = e;
        }
    }
    *best = winner;
    return sum;
}

static uint16_t zge_share(uint32_t weight, uint32_t sum) { return (uint16_t)((weight * 32768ull + sum / 2) / sum); }

/* What a prediction writes of each sample; null where it is not asked for. */
typedef struct zge_wanted {
    int32_t *classes;
    uint16_t *scores;
    int32_t *logits;
    uint16_t *all_scores;
} zge_wanted;

static zge_status zge_predict_any(zge_model *m, uint32_t kind, const void *x, uint32_t n, const zge_wanted *want) {
    if (m == NULL || m->arena == NULL || (x == NULL && n > 0)) {
        return ZGE_E_ARGUMENT;
    }
    const size_t stride = (size_t)m->inputs * (kind == ZGE_C_F32 ? sizeof(float) : 1);
    zge_column columns[ZGE_MAX_BATCH];
    uint32_t s = 1;
    for (uint32_t i = 0; i < n; i += s) {
        const uint8_t *at = (const uint8_t *)x + i * stride;
        s = n - i >= m->batch ? m->batch : 1; /* a full batch side by side, what is left one by one */
        if (kind == ZGE_C_F32 && zge_check_finite(m, (const float *)(const void *)at, s) != ZGE_OK) {
            return ZGE_E_INPUT;
        }
        for (uint32_t c = 0; c < s; c++) {
            columns[c].kind = kind;
            columns[c].data = at + c * stride;
        }
        zge_take(m, columns, s, s);
        zge_forward(m, s);
        for (uint32_t c = 0; c < s; c++) {
            uint32_t best;
            uint16_t *all = want->all_scores == NULL ? NULL : want->all_scores + (size_t)(i + c) * m->classes;
            if (want->logits != NULL) {
                for (uint32_t j = 0; j < m->classes; j++) {
                    want->logits[(size_t)(i + c) * m->classes + j] = m->logits[(size_t)j * s + c];
                }
                continue;
            }
            uint32_t sum = zge_softmax(m, s, c, &best, all);
            uint16_t score = zge_share(zge_exp[0], sum);
            if (want->classes != NULL) {
                want->classes[i + c] = score < m->unknown ? -1 : (int32_t)best;
            }
            if (want->scores != NULL) {
                want->scores[i + c] = score;
            }
            for (uint32_t j = 0; all != NULL && j < m->classes; j++) {
                all[j] = zge_share(all[j], sum);
            }
        }
    }
    return ZGE_OK;
}

zge_status zge_model_predict_f32(zge_model *m, const float *x, uint32_t n, int32_t *classes, uint16_t *scores) {
    const zge_wanted want = {classes, scores, NULL, NULL};
    return classes == NULL ? ZGE_E_ARGUMENT : zge_predict_any(m, ZGE_C_F32, x, n, &want);
}

zge_status zge_model_predict_u8(zge_model *m, const uint8_t *x, uint32_t n, int32_t *classes, uint16_t *scores) {
    const zge_wanted want = {classes, scores, NULL, NULL};
    return classes == NULL ? ZGE_E_ARGUMENT : zge_predict_any(m, ZGE_C_U8, x, n, &want);
}

zge_status zge_model_logits_f32(zge_model *m, const float *x, uint32_t n, int32_t *logits) {
    const zge_wanted want = {NULL, NULL, logits, NULL};
    return logits == NULL ? ZGE_E_ARGUMENT : zge_predict_any(m, ZGE_C_F32, x, n, &want);
}

zge_status zge_model_scores_f32(zge_model *m, const float *x, uint32_t n, uint16_t *scores) {
    const zge_wanted want = {NULL, NULL, NULL, scores};
    return scores == NULL ? ZGE_E_ARGUMENT : zge_predict_any(m, ZGE_C_F32, x, n, &want);
}
