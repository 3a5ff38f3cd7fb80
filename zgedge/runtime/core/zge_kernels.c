/* zge_kernels.c: the loops that take the time. Compiled once for each variant, with that variant's
 * instructions allowed and ZGE_VARIANT set to its name; the plain C here is the reference, and the
 * vector paths below it must leave the same bytes.
 *
 * Every sum is of integers, so its order does not matter. Floats appear element by element only.
 */
#include "zge_impl.h"

#ifndef ZGE_VARIANT
#define ZGE_VARIANT portable
#endif
#define ZGE_JOIN2(a, b) a##b
#define ZGE_JOIN(a, b) ZGE_JOIN2(a, b)
#define ZGE_TEXT2(a) #a
#define ZGE_TEXT(a) ZGE_TEXT2(a)

#if defined(ZGE_SIMD_X86)
#include "zge_x86.h"
#elif defined(ZGE_SIMD_ARM)
#include "zge_arm.h"
#endif

#if defined(__GNUC__) && !defined(__OPTIMIZE_SIZE__)
#define ZGE_INLINE static inline __attribute__((always_inline))
#else
#define ZGE_INLINE static inline
#endif

enum { ZGE_CHUNK = 64 }; /* weights worked on at a time; a multiple of every block size */

/* ---- input ---- */

ZGE_INLINE int32_t zge_code(float x, float center, float scale, float z) {
    float v = (x - center) * scale;
    v = v > -512.0f ? v : -512.0f;
    v = v < 512.0f ? v : 512.0f;
    return (int32_t)(zge_rne(v) + z);
}

ZGE_INLINE uint8_t zge_clamp_u8(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

#if defined(ZGE_HAVE_CODES)
ZGE_INLINE __m512 zge_load16_float(const float *x) { return _mm512_loadu_ps(x); }
ZGE_INLINE __m512 zge_load16_uint8_t(const uint8_t *x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x)));
}
#define ZGE_CODES_VECTOR(type)                                                                               \
    for (; i + 16 <= count; i += 16) {                                                                       \
        zge_codes16(zge_load16_##type(x + i), shared ? _mm512_set1_ps(center[0]) : _mm512_loadu_ps(center + i), \
                    shared ? _mm512_set1_ps(scale[0]) : _mm512_loadu_ps(scale + i), _mm512_set1_ps(z), out + i, \
                    &clamped);                                                                               \
    }
#else
#define ZGE_CODES_VECTOR(type)
#endif

/* Codes of `count` raw values; a group's scale serves all of them where `shared`. */
#define ZGE_CODES(type)                                                                                      \
    ZGE_INLINE uint32_t zge_codes_##type(const type *x, const float *center, const float *scale,             \
                                         int32_t shared, float z, uint32_t count, uint8_t *out) {            \
        uint32_t clamped = 0;                                                                                \
        uint32_t i = 0;                                                                                      \
        ZGE_CODES_VECTOR(type)                                                                               \
        for (; i < count; i++) {                                                                             \
            int32_t code = zge_code((float)x[i], center[shared ? 0 : i], scale[shared ? 0 : i], z);          \
            clamped += (uint32_t)code > 255u;                                                                \
            out[i] = zge_clamp_u8(code);                                                                     \
        }                                                                                                    \
        return clamped;                                                                                      \
    }
ZGE_CODES(float)
ZGE_CODES(uint8_t)

/* ---- remembered codes: the nearest of 2^bits evenly spaced levels, several to a byte, low bits first ---- */

ZGE_INLINE uint32_t zge_level_step(uint32_t bits) { return 255u / ((1u << bits) - 1u); }

/* The level of code q: round(q / step). */
ZGE_INLINE uint32_t zge_level(uint32_t q, uint32_t bits) {
    const uint32_t step = zge_level_step(bits);
    return (q + step / 2) / step;
}

ZGE_INLINE uint8_t zge_unpack(const uint8_t *p, uint32_t i, uint32_t bits) {
    const uint32_t at = i * bits;
    return (uint8_t)((((uint32_t)p[at / 8] >> (at % 8)) & ((1u << bits) - 1u)) * zge_level_step(bits));
}

/* The same for a number of bits that the compiler knows. */
ZGE_INLINE void zge_unpack_bits(const uint8_t *p, uint32_t count, uint32_t bits, uint8_t *restrict out) {
    const uint32_t each = 8 / bits;
    const uint32_t whole = count / each;
    for (uint32_t i = 0; i < whole; i++) {
        for (uint32_t k = 0; k < each; k++) {
            out[i * each + k] = zge_unpack(p, i * each + k, bits);
        }
    }
    for (uint32_t i = whole * each; i < count; i++) {
        out[i] = zge_unpack(p, i, bits);
    }
}

ZGE_INLINE void zge_unpack_run(const uint8_t *p, uint32_t count, uint32_t bits, uint8_t *restrict out) {
    switch (bits) {
    case 1: zge_unpack_bits(p, count, 1, out); break;
    case 2: zge_unpack_bits(p, count, 2, out); break;
    case 4: zge_unpack_bits(p, count, 4, out); break;
    default: memcpy(out, p, count); break;
    }
}

/* Values of a picture from input `from` on, of which the means of 2 x 2 places are remembered: each place
 * has the mean. */
static void zge_unpack_places(const zge_model *m, const uint8_t *p, uint32_t from, uint32_t count,
                                           uint8_t *out) {
    const uint32_t width = m->conv[0].width;
    const uint32_t channels = m->conv[0].channels;
    const uint32_t cells = (width + 1) / 2;
    uint32_t y = from / (width * channels);
    uint32_t x = from / channels % width;
    uint32_t c = from % channels;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = zge_unpack(p, ((y / 2) * cells + x / 2) * channels + c, m->replay_bits);
        if (++c == channels) {
            c = 0;
            if (++x == width) {
                x = 0;
                y++;
            }
        }
    }
}

/* `count` values of one sample from input `from` (a multiple of 16) on, contiguous. */
ZGE_INLINE uint32_t zge_fetch(const zge_model *m, const zge_column *c, uint32_t from, uint32_t count,
                              uint8_t *restrict out) {
    const float z = (float)m->layer[0].z_in;
    if (c->kind == ZGE_C_F32 || c->kind == ZGE_C_U8) {
        const int32_t shared = m->groups == 1;
        const float *scale = m->input_scale + (shared ? 0 : from);
        const float *center = m->input_center + (shared ? 0 : from);
        if (c->kind == ZGE_C_F32) {
            const float *x = (const float *)c->data + from;
            return shared ? zge_codes_float(x, center, scale, 1, z, count, out)
                          : zge_codes_float(x, center, scale, 0, z, count, out);
        }
        const uint8_t *x = (const uint8_t *)c->data + from;
        return shared ? zge_codes_uint8_t(x, center, scale, 1, z, count, out)
                      : zge_codes_uint8_t(x, center, scale, 0, z, count, out);
    }
    if (c->kind == ZGE_C_NONE) {
        memset(out, m->layer[0].z_in, count);
        return 0;
    }
    const uint8_t *p = (const uint8_t *)c->data;
    if (c->kind == ZGE_C_CODES) {
        memcpy(out, p + from, count);
    } else if (m->replay_pool != 0) {
        zge_unpack_places(m, p, from, count, out);
    } else {
        zge_unpack_run(p + (size_t)from * m->replay_bits / 8, count, m->replay_bits, out);
    }
    return 0;
}

static uint32_t zge_fetch_run(const zge_model *m, const zge_column *c, uint32_t from, uint32_t count, uint8_t *out) {
    return zge_fetch(m, c, from, count, out);
}

static uint32_t zge_quantize_columns(const zge_model *m, const zge_column *columns, uint32_t n, uint32_t s) {
    uint8_t *x = m->layer[0].x;
    uint32_t clamped = 0;
    if (s == 1) {
        return zge_fetch(m, columns, 0, m->features, x);
    }
    uint8_t part[ZGE_MAX_BATCH][16];
    for (uint32_t c = n; c < s; c++) {
        memset(part[c], m->layer[0].z_in, 16);
    }
    for (uint32_t i0 = 0; i0 < m->features; i0 += 16) {
        uint32_t count = m->features - i0 < 16 ? m->features - i0 : 16;
        for (uint32_t c = 0; c < n; c++) {
            clamped += count == 16 ? zge_fetch(m, &columns[c], i0, 16, part[c])
                                   : zge_fetch(m, &columns[c], i0, count, part[c]);
        }
#if defined(ZGE_HAVE_TRANSPOSE)
        if (s == 16 && count == 16) {
            zge_transpose16(part[0], x + (size_t)i0 * 16);
            continue;
        }
#endif
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t c = 0; c < s; c++) {
                x[(size_t)(i0 + i) * s + c] = part[c][i];
            }
        }
    }
    return clamped;
}

ZGE_INLINE void zge_pack_bits(const uint8_t *q, uint32_t count, uint32_t bits, uint8_t *out) {
    const uint32_t each = 8 / bits;
    for (uint32_t i = 0; i < count; i += each) {
        uint32_t byte = 0;
        for (uint32_t k = 0; k < each && i + k < count; k++) {
            byte |= zge_level(q[i + k], bits) << (k * bits);
        }
        out[i / each] = (uint8_t)byte;
    }
}

ZGE_INLINE void zge_pack_run(const uint8_t *q, uint32_t count, uint32_t bits, uint8_t *out) {
    switch (bits) {
    case 1: zge_pack_bits(q, count, 1, out); break;
    case 2: zge_pack_bits(q, count, 2, out); break;
    case 4: zge_pack_bits(q, count, 4, out); break;
    default: memcpy(out, q, count); break;
    }
}

/* Column c of pictures x [features][S] as the means of 2 x 2 places (fewer at the lower and right edges of odd
 * ones), rounded half up. */
static void zge_pack_places(const zge_model *m, const uint8_t *x, uint32_t s, uint8_t *out) {
    const uint32_t height = m->conv[0].height;
    const uint32_t width = m->conv[0].width;
    const uint32_t channels = m->conv[0].channels;
    const uint32_t bits = m->replay_bits;
    uint32_t at = 0;
    memset(out, 0, m->replay_stride);
    for (uint32_t y = 0; y < height; y += 2) {
        for (uint32_t i = 0; i < width; i += 2) {
            const uint32_t rows = y + 1 < height ? 2 : 1;
            const uint32_t columns = i + 1 < width ? 2 : 1;
            for (uint32_t c = 0; c < channels; c++) {
                uint32_t sum = rows * columns / 2;
                for (uint32_t k = 0; k < rows * columns; k++) {
                    const size_t place = (size_t)(y + k / columns) * width + i + k % columns;
                    sum += x[(place * channels + c) * s];
                }
                const uint32_t level = zge_level(sum / (rows * columns), bits);
                out[at / 8] = (uint8_t)(out[at / 8] | level << (at % 8));
                at += bits;
            }
        }
    }
}

static void zge_pack(const zge_model *m, uint32_t s, uint32_t n, uint8_t *const *out) {
    const uint8_t *x = m->layer[0].x;
    const uint32_t bits = m->replay_bits;
    if (m->replay_pool != 0) {
        for (uint32_t c = 0; c < n; c++) {
            zge_pack_places(m, x + c, s, out[c]);
        }
        return;
    }
    if (s == 1) {
        zge_pack_run(x, m->features, bits, out[0]);
        return;
    }
    uint8_t part[ZGE_MAX_BATCH][16];
    for (uint32_t i0 = 0; i0 < m->features; i0 += 16) {
        const uint32_t count = m->features - i0 < 16 ? m->features - i0 : 16;
#if defined(ZGE_HAVE_TRANSPOSE)
        if (s == 16 && count == 16 && n > 1) {
            zge_transpose16(x + (size_t)i0 * 16, part[0]);
        } else
#endif
        {
            for (uint32_t c = 0; c < n; c++) {
                for (uint32_t i = 0; i < count; i++) {
                    part[c][i] = x[(size_t)(i0 + i) * s + c];
                }
            }
        }
        for (uint32_t c = 0; c < n; c++) {
            uint8_t *to = out[c] + (size_t)i0 * bits / 8;
            if (count == 16 && bits == 4) {
                zge_pack_run(part[c], 16, 4, to);
            } else {
                zge_pack_run(part[c], count, bits, to);
            }
        }
    }
}

/* ---- forward ---- */

/* acc[s] of one row, products only. */
ZGE_INLINE void zge_row_sums(const zge_layer *l, uint32_t row, uint32_t s, int32_t *acc) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    const int32_t z = l->z_in;
    for (uint32_t c = 0; c < s; c++) {
        acc[c] = 0;
    }
    if (l->indices == NULL) {
        const uint8_t *x = l->x;
        for (uint32_t i = 0; i < l->width; i++) {
            const int32_t wi = w[i];
            for (uint32_t c = 0; c < s; c++) {
                acc[c] += wi * ((int32_t)x[(size_t)i * s + c] - z);
            }
        }
        return;
    }
    const uint16_t *index = l->indices + (size_t)row * l->per_row;
    const uint32_t block = l->block;
    for (uint32_t k = 0; k < l->per_row; k++) {
        const uint8_t *x = l->x + (size_t)(index[k] & l->index_mask) * block * s;
        for (uint32_t b = 0; b < block; b++) {
            const int32_t wi = *w++;
            for (uint32_t c = 0; c < s; c++) {
                acc[c] += wi * ((int32_t)x[(size_t)b * s + c] - z);
            }
        }
    }
}

ZGE_INLINE void zge_sums(const zge_layer *l, uint32_t row, uint32_t s, int32_t *acc) {
#if defined(ZGE_HAVE_SUMS)
    if (zge_sums_vector(l, row, s, acc)) {
        return;
    }
#endif
    if (s == 1) {
        zge_row_sums(l, row, 1, acc);
    } else if (s == 16) {
        zge_row_sums(l, row, 16, acc);
    } else {
        zge_row_sums(l, row, s, acc);
    }
}

/* y[i] of sums that have a bias and a multiplier each. */
ZGE_INLINE void zge_requantize_rows(const int32_t *restrict acc, const int32_t *restrict bias,
                                    const float *restrict multiplier, uint32_t n, uint8_t *restrict y) {
#if defined(ZGE_HAVE_REQUANTIZE16)
    if (n == 16) {
        zge_requantize16(acc, bias, multiplier, 1, y);
        return;
    }
#endif
    for (uint32_t i = 0; i < n; i++) {
        y[i] = zge_requantize(acc[i] + bias[i], multiplier[i]);
    }
}

/* y[i] of the sums of one row. */
ZGE_INLINE void zge_requantize_samples(const int32_t *restrict acc, const int32_t *bias, const float *multiplier,
                                       uint32_t n, uint8_t *restrict y) {
#if defined(ZGE_HAVE_REQUANTIZE16)
    if (n == 16) {
        zge_requantize16(acc, bias, multiplier, 0, y);
        return;
    }
#endif
    for (uint32_t i = 0; i < n; i++) {
        y[i] = zge_requantize(acc[i] + *bias, *multiplier);
    }
}

static void zge_hidden(const zge_layer *l, uint32_t s, uint8_t *y) {
    int32_t acc[ZGE_MAX_BATCH];
    uint32_t r = 0;
#if defined(ZGE_HAVE_TABLES)
    zge_tables tables;
    tables.count = 0;
    if (s == 1) {
        zge_fill_tables(l, &tables);
    }
    for (; tables.count > 0 && r + 16 <= l->outputs; r += 16) {
        zge_rows_picked(l, &tables, r, acc);
        zge_requantize_rows(acc, l->bias + r, l->multiplier + r, 16, y + r);
    }
#endif
    for (; s == 1 && r + 16 <= l->outputs; r += 16) {
#if defined(ZGE_HAVE_ROWS)
        zge_rows_vector(l, r, acc);
#else
        for (uint32_t i = 0; i < 16; i++) {
            zge_sums(l, r + i, 1, acc + i);
        }
#endif
        zge_requantize_rows(acc, l->bias + r, l->multiplier + r, 16, y + r);
    }
    for (; r < l->outputs; r++) {
        zge_sums(l, r, s, acc);
        zge_requantize_samples(acc, l->bias + r, l->multiplier + r, s, y + (size_t)r * s);
    }
}

static void zge_head(const zge_layer *l, uint32_t s, int32_t *logits) {
    int32_t acc[ZGE_MAX_BATCH];
    for (uint32_t r = 0; r < l->outputs; r++) {
        zge_sums(l, r, s, acc);
        for (uint32_t c = 0; c < s; c++) {
            logits[(size_t)r * s + c] = acc[c] + l->bias[r];
        }
    }
}

/* ---- pictures ---- */

enum { ZGE_CHANNELS = 64 }; /* channels worked on at a time */

/* Of a window that starts `before` the picture at `at`, the first place inside it, and the one behind the last. */
ZGE_INLINE uint32_t zge_from(uint32_t at, uint32_t before) { return at < before ? before - at : 0; }
ZGE_INLINE uint32_t zge_to(uint32_t at, uint32_t before, uint32_t kernel, uint32_t size) {
    return at + kernel > size + before ? size + before - at : kernel;
}

/* Values of held row `row` from column `x` on. */
ZGE_INLINE const uint8_t *zge_values(const zge_conv *l, uint32_t row, uint32_t x) {
    return l->rows + ((size_t)(row % l->held) * l->width + x) * l->channels;
}

/* n sums of neighbouring channels to outputs; `added` may be null. */
ZGE_INLINE void zge_finish(const zge_conv *l, const int32_t *restrict acc, uint32_t channel, uint32_t n,
                           const uint8_t *restrict added, uint8_t *restrict out) {
    const int32_t *bias = l->bias + channel;
    const float *multiplier = l->multiplier + channel;
    if (added == NULL) {
        for (uint32_t i = 0; i < n; i++) {
            out[i] = zge_requantize(acc[i] + bias[i], multiplier[i]);
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        float v = (float)(acc[i] + bias[i]) * multiplier[i];
        v = v > -128.0f ? v : -128.0f;
        v = v < 127.0f ? v : 127.0f;
        out[i] = zge_clamp_u8((int32_t)zge_rne(v) + added[i]);
    }
}

#if defined(ZGE_HAVE_PATCHES)

/* Windows are laid out one after the other, zeros where they leave the picture, so that each output is one
 * product of two runs. */
static void zge_conv_row(const zge_conv *l, uint32_t y, const uint8_t *added, uint8_t *out) {
    zge_patch patches[ZGE_PATCH_VALUES];
    int32_t sums[ZGE_PATCH_TILE * ZGE_CHANNELS];
    const uint32_t run = l->kernel * l->channels;
    const uint32_t stride = zge_patch_stride(l->taps);
    uint32_t tile = ZGE_PATCH_VALUES / stride / 4 * 4;
    tile = tile < ZGE_PATCH_TILE ? tile : ZGE_PATCH_TILE;
    const uint32_t y0 = zge_from(y * l->stride, l->top);
    const uint32_t y1 = zge_to(y * l->stride, l->top, l->kernel, l->height);
    for (uint32_t from = 0; from < l->out_width; from += tile) {
        const uint32_t count = l->out_width - from < tile ? l->out_width - from : tile;
        for (uint32_t p = 0; p < count; p++) {
            const uint32_t x = (from + p) * l->stride;
            const uint32_t x0 = zge_from(x, l->left);
            const uint32_t x1 = zge_to(x, l->left, l->kernel, l->width);
            zge_patch *patch = patches + (size_t)p * stride;
            if (x1 - x0 < l->kernel || y1 - y0 < l->kernel) {
                memset(patch, 0, stride * sizeof *patch);
            } else {
                memset(patch + l->taps, 0, (stride - l->taps) * sizeof *patch);
            }
            for (uint32_t ky = y0; ky < y1; ky++) {
                zge_patch_run(zge_values(l, y * l->stride + ky - l->top, x + x0 - l->left), (x1 - x0) * l->channels,
                              patch + ky * run + x0 * l->channels);
            }
        }
        for (uint32_t p = count; p % 4 != 0; p++) { /* computed, never used */
            memset(patches + (size_t)p * stride, 0, stride * sizeof *patches);
        }
        for (uint32_t c = 0; c < l->out_channels; c += ZGE_CHANNELS) {
            const uint32_t n = l->out_channels - c < ZGE_CHANNELS ? l->out_channels - c : ZGE_CHANNELS;
            zge_patch_sums(l, patches, (count + 3) / 4 * 4, c, n, ZGE_CHANNELS, sums);
            for (uint32_t p = 0; p < count; p++) {
                const size_t at = (size_t)(from + p) * l->out_channels + c;
                zge_finish(l, sums + (size_t)p * ZGE_CHANNELS, c, n, added == NULL ? NULL : added + at, out + at);
            }
        }
    }
}

#else

static void zge_conv_row(const zge_conv *l, uint32_t y, const uint8_t *added, uint8_t *out) {
    const uint32_t y0 = zge_from(y * l->stride, l->top);
    const uint32_t y1 = zge_to(y * l->stride, l->top, l->kernel, l->height);
    int32_t acc[ZGE_CHANNELS];
    for (uint32_t at = 0; at < l->out_width; at++) {
        const uint32_t x = at * l->stride;
        const uint32_t x0 = zge_from(x, l->left);
        const uint32_t n = (zge_to(x, l->left, l->kernel, l->width) - x0) * l->channels;
        for (uint32_t from = 0; from < l->out_channels; from += ZGE_CHANNELS) {
            const uint32_t count = l->out_channels - from < ZGE_CHANNELS ? l->out_channels - from : ZGE_CHANNELS;
            for (uint32_t c = 0; c < count; c++) {
                int32_t sum = 0;
                for (uint32_t ky = y0; ky < y1; ky++) {
                    const uint8_t *q = zge_values(l, y * l->stride + ky - l->top, x + x0 - l->left);
                    const int8_t *w =
                        l->weights + (size_t)(from + c) * l->taps + (size_t)(ky * l->kernel + x0) * l->channels;
                    for (uint32_t i = 0; i < n; i++) {
                        sum += (int32_t)w[i] * (int32_t)q[i];
                    }
                }
                acc[c] = sum;
            }
            const size_t to = (size_t)at * l->out_channels + from;
            zge_finish(l, acc, from, count, added == NULL ? NULL : added + to, out + to);
        }
    }
}

#endif

static void zge_depthwise_row(const zge_conv *l, uint32_t y, const uint8_t *added, uint8_t *out) {
    const uint32_t y0 = zge_from(y * l->stride, l->top);
    const uint32_t y1 = zge_to(y * l->stride, l->top, l->kernel, l->height);
    int32_t acc[ZGE_CHANNELS];
    for (uint32_t at = 0; at < l->out_width; at++) {
        const uint32_t x = at * l->stride;
        const uint32_t x0 = zge_from(x, l->left);
        const uint32_t x1 = zge_to(x, l->left, l->kernel, l->width);
        for (uint32_t from = 0; from < l->channels; from += ZGE_CHANNELS) {
            const uint32_t n = l->channels - from < ZGE_CHANNELS ? l->channels - from : ZGE_CHANNELS;
            memset(acc, 0, n * sizeof *acc);
            for (uint32_t ky = y0; ky < y1; ky++) {
                for (uint32_t kx = x0; kx < x1; kx++) {
                    const uint8_t *restrict q = zge_values(l, y * l->stride + ky - l->top, x + kx - l->left) + from;
                    const int8_t *restrict w = l->weights + (size_t)(ky * l->kernel + kx) * l->channels + from;
                    for (uint32_t c = 0; c < n; c++) {
                        acc[c] += (int32_t)w[c] * (int32_t)q[c];
                    }
                }
            }
            const size_t to = (size_t)at * l->channels + from;
            zge_finish(l, acc, from, n, added == NULL ? NULL : added + to, out + to);
        }
    }
}

static void zge_max_row(const zge_conv *l, uint32_t y, uint8_t *out) {
    const uint32_t y0 = zge_from(y * l->stride, l->top);
    const uint32_t y1 = zge_to(y * l->stride, l->top, l->kernel, l->height);
    for (uint32_t at = 0; at < l->out_width; at++) {
        const uint32_t x = at * l->stride;
        const uint32_t x0 = zge_from(x, l->left);
        const uint32_t x1 = zge_to(x, l->left, l->kernel, l->width);
        uint8_t *restrict to = out + (size_t)at * l->channels;
        memset(to, 0, l->channels);
        for (uint32_t ky = y0; ky < y1; ky++) {
            for (uint32_t kx = x0; kx < x1; kx++) {
                const uint8_t *restrict q = zge_values(l, y * l->stride + ky - l->top, x + kx - l->left);
                for (uint32_t c = 0; c < l->channels; c++) {
                    to[c] = q[c] > to[c] ? q[c] : to[c];
                }
            }
        }
    }
}

static void zge_picture(const zge_conv *l, uint32_t y, const uint8_t *added, uint8_t *out) {
    if (l->kind == ZGE_L_CONV) {
        zge_conv_row(l, y, added, out);
    } else if (l->kind == ZGE_L_DEPTHWISE) {
        zge_depthwise_row(l, y, added, out);
    } else {
        zge_max_row(l, y, out);
    }
}

/* ---- backward ---- */

ZGE_INLINE void zge_row_back(const zge_layer *l, uint32_t row, uint32_t s, int32_t *back) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    int32_t d[ZGE_MAX_BATCH];
    int32_t any = 0;
    for (uint32_t c = 0; c < s; c++) {
        d[c] = l->delta[(size_t)row * s + c];
        any |= d[c];
    }
    if (any == 0) {
        return;
    }
    if (l->indices == NULL) {
        for (uint32_t i = 0; i < l->width; i++) {
            for (uint32_t c = 0; c < s; c++) {
                back[(size_t)i * s + c] += (int32_t)w[i] * d[c];
            }
        }
        return;
    }
    const uint16_t *index = l->indices + (size_t)row * l->per_row;
    for (uint32_t k = 0; k < l->per_row; k++) {
        int32_t *to = back + (size_t)(index[k] & l->index_mask) * l->block * s;
        for (uint32_t b = 0; b < l->block; b++) {
            for (uint32_t c = 0; c < s; c++) {
                to[(size_t)b * s + c] += (int32_t)w[k * l->block + b] * d[c];
            }
        }
    }
}

static void zge_backward(const zge_layer *l, uint32_t s, int32_t *back) {
#if defined(ZGE_HAVE_DENSE_BACK)
    if (s == 16 && l->indices == NULL) {
        zge_dense_back_vector(l, back);
        return;
    }
#endif
    memset(back, 0, (size_t)l->inputs * s * sizeof *back);
    for (uint32_t r = 0; r < l->outputs; r++) {
        if (s == 16) {
            zge_row_back(l, r, 16, back);
        } else if (s == 1) {
            zge_row_back(l, r, 1, back);
        } else {
            zge_row_back(l, r, s, back);
        }
    }
}

/* Error of the units below layer `l`: where a unit was active, what flows back to it, scaled to int8 by
 * the least power of two that fits the batch and rounded stochastically. Returns that power. */
static uint32_t zge_error(const zge_layer *l, uint32_t s, uint32_t noise, int32_t *back, int8_t *delta) {
    const uint32_t n = l->inputs * s;
    zge_backward(l, s, back);
#if defined(ZGE_HAVE_ERROR)
    if (n % 16 == 0) {
        return zge_error_vector(l->x, n, noise, back, delta);
    }
#endif
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t b = l->x[i] != 0 ? back[i] : 0;
        uint32_t size = (uint32_t)(b < 0 ? -b : b);
        back[i] = b;
        most = size > most ? size : most;
    }
    uint32_t shift = 0;
    while ((most >> shift) > 126u) { /* rounding up may add one */
        shift++;
    }
    if (shift == 0) {
        for (uint32_t i = 0; i < n; i++) {
            delta[i] = (int8_t)back[i];
        }
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        int32_t up = (int32_t)(zge_random(noise, i) >> (32u - shift));
        delta[i] = (int8_t)((back[i] + up) >> shift);
    }
    return shift;
}

/* ---- update ---- */

/* g[i] = sum over samples of error times input, for inputs that follow each other. */
ZGE_INLINE void zge_run_gradient(const uint8_t *x, const int8_t *d, uint32_t n, uint32_t s, int32_t base,
                                 int32_t *g) {
    for (uint32_t i = 0; i < n; i++) {
        int32_t sum = base;
        for (uint32_t c = 0; c < s; c++) {
            sum += (int32_t)d[c] * (int32_t)x[(size_t)i * s + c];
        }
        g[i] = sum;
    }
}

ZGE_INLINE void zge_run(const uint8_t *x, const int8_t *d, uint32_t n, uint32_t s, int32_t base, int32_t *g) {
    if (s == 16) {
        zge_run_gradient(x, d, n, 16, base, g);
    } else if (s == 1) {
        zge_run_gradient(x, d, n, 1, base, g);
    } else {
        zge_run_gradient(x, d, n, s, base, g);
    }
}

/* What the zero point of the inputs takes from every gradient of a row. */
ZGE_INLINE int32_t zge_error_sum(const int8_t *d, uint32_t s) {
#if defined(ZGE_HAVE_ERROR_SUM16)
    if (s == 16) {
        return zge_error_sum16(d);
    }
#endif
    int32_t sum = 0;
    for (uint32_t c = 0; c < s; c++) {
        sum += d[c];
    }
    return sum;
}

ZGE_INLINE int32_t zge_any(const int8_t *d, uint32_t s) {
    if (s == 16) {
        uint64_t half[2];
        memcpy(half, d, sizeof half);
        return (half[0] | half[1]) != 0;
    }
    int32_t any = 0;
    for (uint32_t c = 0; c < s; c++) {
        any |= d[c];
    }
    return any;
}

/* Gradients of weights at .. at + n - 1 of a row. */
ZGE_INLINE void zge_weight_gradients(const zge_layer *l, uint32_t row, uint32_t at, uint32_t n, uint32_t s,
                                     int32_t base, int32_t *g) {
    const int8_t *d = l->delta + (size_t)row * s;
#if defined(ZGE_HAVE_GRADIENTS)
    if (s == 16 && n % 4 == 0) {
        zge_gradients_vector(l, l->indices == NULL ? NULL : l->indices + (size_t)row * l->per_row, at, n, d, base,
                             g);
        return;
    }
#endif
    if (l->indices == NULL) {
        zge_run(l->x + (size_t)at * s, d, n, s, base, g);
        return;
    }
    const uint16_t *index = l->indices + (size_t)row * l->per_row + at / l->block;
    if (s == 1 && l->block == 1) {
        const int32_t error = d[0];
#if defined(ZGE_HAVE_GRADIENTS_ONE)
        if (n % 16 == 0) {
            zge_gradients_one(l, index, n, error, base, g);
            return;
        }
#endif
        for (uint32_t i = 0; i < n; i++) {
            g[i] = base + error * (int32_t)l->x[index[i] & l->index_mask];
        }
        return;
    }
    for (uint32_t k = 0; k * l->block < n; k++) {
        zge_run(l->x + (size_t)(index[k] & l->index_mask) * l->block * s, d, l->block, s, base,
                g + (size_t)k * l->block);
    }
}

/* Read n residuals, each -8 .. 7. `at` is the weight's number in its layer. */
ZGE_INLINE void zge_load_residuals(const zge_layer *l, size_t at, uint32_t n, int32_t *e) {
    if (l->residual == ZGE_R_INDEX) {
        const uint16_t *p = l->indices + at;
        for (uint32_t i = 0; i < n; i++) {
            e[i] = (int16_t)p[i] >> 12;
        }
        return;
    }
    if (at % 2 == 0 && n % 2 == 0) {
        const uint8_t *p = l->nibbles + at / 2;
        for (uint32_t i = 0; i < n / 2; i++) {
            e[2 * i] = (int32_t)((p[i] & 15u) ^ 8u) - 8;
            e[2 * i + 1] = (int32_t)((uint32_t)(p[i] >> 4) ^ 8u) - 8;
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        e[i] = zge_residual(l, at + i);
    }
}

ZGE_INLINE void zge_store_residuals(const zge_layer *l, size_t at, uint32_t n, const int32_t *e) {
    if (l->residual == ZGE_R_INDEX) {
        uint16_t *p = l->indices + at;
        for (uint32_t i = 0; i < n; i++) {
            p[i] = (uint16_t)((p[i] & 0x0fffu) | ((uint32_t)e[i] & 15u) << 12);
        }
        return;
    }
    if (at % 2 == 0 && n % 2 == 0) {
        uint8_t *p = l->nibbles + at / 2;
        for (uint32_t i = 0; i < n / 2; i++) {
            p[i] = (uint8_t)(((uint32_t)e[2 * i] & 15u) | ((uint32_t)e[2 * i + 1] & 15u) << 4);
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *p = &l->nibbles[(at + i) / 2];
        uint32_t half = (uint32_t)e[i] & 15u;
        *p = (uint8_t)((at + i) & 1u ? (*p & 0x0fu) | half << 4 : (*p & 0xf0u) | half);
    }
}

ZGE_INLINE int32_t zge_step(int32_t g, zge_rate rate, uint32_t random) {
    int32_t moved = g * rate.mantissa;
    if (rate.shift > 0) {
        moved = (moved + (int32_t)(random >> (32u - rate.shift))) >> rate.shift;
    }
    return moved;
}

/* Step n weights: w and e are the two parts of v = 16 w + e. */
ZGE_INLINE void zge_move(int8_t *restrict w, int32_t *restrict e, const int32_t *restrict g, uint32_t n,
                         zge_rate rate, uint32_t noise, uint32_t at) {
    const int32_t mantissa = rate.mantissa;
    const uint32_t shift = rate.shift;
    const uint32_t down = shift > 0 ? 32u - shift : 31u;
    const uint32_t keep = shift > 0 ? ~0u : 0u; /* no noise where nothing is cut off */
    for (uint32_t i = 0; i < n; i++) {
        const int32_t up = (int32_t)((zge_random(noise, at + i) & keep) >> down);
        int32_t v = (int32_t)w[i] * 16 + e[i] - ((g[i] * mantissa + up) >> shift);
        v = v > ZGE_V_MAX ? ZGE_V_MAX : v;
        v = v < -ZGE_V_MAX ? -ZGE_V_MAX : v;
        const int32_t high = (v + 8) >> 4;
        w[i] = (int8_t)high;
        e[i] = v - high * 16;
    }
}

static void zge_update_layer(const zge_layer *l, uint32_t s, const zge_update *u) {
    int32_t g[ZGE_CHUNK];
    int32_t e[ZGE_CHUNK];
    const int64_t most = (int64_t)INT32_MAX - (int64_t)l->width * 255 * 127;
    for (uint32_t r = 0; r < l->outputs; r++) {
        const int8_t *d = l->delta + (size_t)r * s;
        if (zge_any(d, s) == 0) {
            continue; /* rounding noise is below one step: nothing would move */
        }
        const int32_t sum = zge_error_sum(d, s);
        const int32_t base = -l->z_in * sum;
        for (uint32_t i = 0; i < l->width; i += ZGE_CHUNK) {
            uint32_t n = l->width - i < ZGE_CHUNK ? l->width - i : ZGE_CHUNK;
            size_t at = (size_t)r * l->width + i;
            zge_weight_gradients(l, r, i, n, s, base, g);
#if defined(ZGE_HAVE_MOVE)
            if (zge_move_vector(l, at, n, g, u->weight, u->noise)) {
                continue;
            }
#endif
            zge_load_residuals(l, at, n, e);
            zge_move(l->weights + at, e, g, n, u->weight, u->noise, (uint32_t)at);
            zge_store_residuals(l, at, n, e);
        }
        int64_t b = (int64_t)l->bias[r] - zge_step(sum, u->bias, zge_random(u->bias_noise, r));
        b = b > most ? most : b < -most ? -most : b;
        l->bias[r] = (int32_t)b;
    }
}

static void zge_gradient(const zge_layer *l, uint32_t row, uint32_t s, int32_t *grad) {
    int32_t g[ZGE_CHUNK];
    const int8_t *d = l->delta + (size_t)row * s;
    if (zge_any(d, s) == 0) {
        return;
    }
    const int32_t base = -l->z_in * zge_error_sum(d, s);
    for (uint32_t i = 0; i < l->inputs; i += ZGE_CHUNK) {
        uint32_t n = l->inputs - i < ZGE_CHUNK ? l->inputs - i : ZGE_CHUNK;
#if defined(ZGE_HAVE_GRADIENTS)
        if (s == 16 && n % 4 == 0) {
            zge_gradients_vector(l, NULL, i, n, d, base, g);
        } else
#endif
        {
            zge_run(l->x + (size_t)i * s, d, n, s, base, g);
        }
        for (uint32_t k = 0; k < n; k++) {
            grad[i + k] += g[k];
        }
    }
}

/* ---- the table of this variant ---- */

static int32_t zge_usable(void) {
#if defined(ZGE_NEEDS)
    return ZGE_NEEDS;
#else
    return 1;
#endif
}

const zge_kernels ZGE_JOIN(zge_kernels_, ZGE_VARIANT) = {
    ZGE_TEXT(ZGE_VARIANT), zge_usable, zge_fetch_run, zge_picture, zge_quantize_columns, zge_hidden,
    zge_head,              zge_error,  zge_update_layer, zge_gradient, zge_pack,
};
