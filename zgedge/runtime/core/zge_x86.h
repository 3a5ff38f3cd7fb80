/* zge_x86.h: vector paths for x86-64. Included by zge_kernels.c when it is compiled for AVX2, or for
 * AVX-512 with VNNI and VBMI. Each function leaves the bytes that the plain loop leaves: they only
 * regroup integer sums. No u8 x s8 product is ever added in 16 bits (that saturates): AVX2 widens to
 * 16 bits first, VNNI sums in 32. */
#ifndef ZGE_X86_H
#define ZGE_X86_H

#include "zge_impl.h"

#include <cpuid.h>
#include <immintrin.h>

/* What the processor has and the system saves at a switch of threads (XCR0). */
static inline uint32_t zge_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
static inline int32_t zge_x86_has(uint32_t ebx7, uint32_t ecx7, uint32_t xcr0) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0 || (zge_xcr0() & xcr0) != xcr0) {
        return 0;
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    return (b & ebx7) == ebx7 && (c & ecx7) == ecx7;
}

static inline int32_t zge_word(const int8_t *w) {
    int32_t v;
    memcpy(&v, w, sizeof v);
    return v;
}

static inline uint32_t zge_log(const zge_layer *l) { return (uint32_t)__builtin_ctz(l->block); }

/* 16 samples of 16 bytes to 16 inputs of 16 samples. */
#define ZGE_HAVE_TRANSPOSE 1
static inline void zge_transpose16(const uint8_t *in, uint8_t *out) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; i++) {
        a[i] = _mm_loadu_si128((const __m128i *)(const void *)(in + 16 * i));
    }
    for (int round = 0; round < 2; round++) { /* two rounds of a perfect shuffle by rows, twice */
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 8; i++) {
            a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]);
            a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]);
        }
    }
    for (int i = 0; i < 16; i++) {
        _mm_storeu_si128((__m128i *)(void *)(out + 16 * i), a[i]);
    }
}

/* Sum of 16 signed bytes: sums of absolute differences of them, raised by 128, to zero. */
#define ZGE_HAVE_ERROR_SUM16 1
static inline int32_t zge_error_sum16(const int8_t *d) {
    const __m128i v = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)d), _mm_set1_epi8((char)0x80));
    const __m128i sad = _mm_sad_epu8(v, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sad) + _mm_extract_epi32(sad, 2) - 16 * 128;
}

#define ZGE_HAVE_REQUANTIZE16 1

#if defined(__AVX512VNNI__)

#define ZGE_NEEDS                                                                                            \
    zge_x86_has(bit_AVX2 | bit_AVX512F | bit_AVX512BW | bit_AVX512VL, bit_AVX512VNNI | bit_AVX512VBMI, 0xe6)

/* [4 inputs][16 samples] to [16 samples][4 inputs]. */
static inline __m512i zge_by_sample(__m512i v) {
    const __m512i order = _mm512_set_epi32(
        0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a, 0x39291909, 0x38281808,
        0x37271707, 0x36261606, 0x35251505, 0x34241404, 0x33231303, 0x32221202, 0x31211101, 0x30201000);
    return _mm512_permutexvar_epi8(order, v);
}

/* Four inputs of 16 samples each, whichever they are. `log` is that of the block size. */
static inline __m512i zge_load_four(const zge_layer *l, const uint16_t *index, uint32_t log, uint32_t at) {
    if (index == NULL) {
        return _mm512_loadu_si512(l->x + (size_t)at * 16);
    }
    if (log >= 2) {
        const size_t input = ((size_t)(index[at >> log] & l->index_mask) << log) + (at & (l->block - 1u));
        return _mm512_loadu_si512(l->x + input * 16);
    }
    const uint32_t mask = l->index_mask;
    const uint8_t *x = l->x;
    const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(x + 16 * (size_t)(index[at] & mask)));
    const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(x + 16 * (size_t)(index[at + 1] & mask)));
    const __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(x + 16 * (size_t)(index[at + 2] & mask)));
    const __m128i d = _mm_loadu_si128((const __m128i *)(const void *)(x + 16 * (size_t)(index[at + 3] & mask)));
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 16 sums to activations; bias and multiplier of each where `apart`, else one for all. */
static inline void zge_requantize16(const int32_t *acc, const int32_t *bias, const float *multiplier,
                                    int32_t apart, uint8_t *y) {
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    const __m512i b = apart ? _mm512_loadu_si512(bias) : _mm512_set1_epi32(bias[0]);
    const __m512 m = apart ? _mm512_loadu_ps(multiplier) : _mm512_set1_ps(multiplier[0]);
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(acc), b)), m);
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(255.0f));
    v = _mm512_sub_ps(_mm512_add_ps(v, magic), magic);
    _mm_storeu_si128((__m128i *)(void *)y, _mm512_cvtusepi32_epi8(_mm512_cvttps_epi32(v)));
}

/* 16 vectors to the vector of their sums. */
static inline __m512i zge_sum16(const __m512i *v) {
    __m512i t[8], u[4];
    for (int i = 0; i < 8; i++) {
        t[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    for (int i = 0; i < 4; i++) {
        u[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm512_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    }
    const __m512i a = _mm512_add_epi32(_mm512_shuffle_i32x4(u[0], u[1], 0x88), _mm512_shuffle_i32x4(u[0], u[1], 0xdd));
    const __m512i b = _mm512_add_epi32(_mm512_shuffle_i32x4(u[2], u[3], 0x88), _mm512_shuffle_i32x4(u[2], u[3], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* Convolutions: windows laid out as bytes, a whole number of registers each. */
#define ZGE_HAVE_PATCHES 1
typedef uint8_t zge_patch;
enum { ZGE_PATCH_VALUES = 4 * ZGE_MAX_TAPS, ZGE_PATCH_TILE = 32 };
static inline uint32_t zge_patch_stride(uint32_t taps) { return (taps + 63u) & ~63u; }

static inline void zge_patch_run(const uint8_t *from, uint32_t n, zge_patch *to) {
    for (uint32_t i = 0; i < n; i += 64) {
        const __mmask64 live = n - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (n - i)) - 1;
        _mm512_mask_storeu_epi8(to + i, live, _mm512_maskz_loadu_epi8(live, from + i));
    }
}

/* sums [count][apart] of `count` windows (a multiple of 4) and channels c .. c + n - 1. */
static inline void zge_patch_sums(const zge_conv *l, const zge_patch *patches, uint32_t count, uint32_t c, uint32_t n,
                                  uint32_t apart, int32_t *sums) {
    const uint32_t stride = zge_patch_stride(l->taps);
    for (uint32_t r = 0; r < n; r += 4) {
        const int8_t *w[4];
        for (uint32_t k = 0; k < 4; k++) { /* past the last channel: that one again, never used */
            w[k] = l->weights + (size_t)(c + (r + k < n ? r + k : n - 1)) * l->taps;
        }
        for (uint32_t p = 0; p < count; p += 4) {
            const zge_patch *x = patches + (size_t)p * stride;
            __m512i acc[16];
            for (uint32_t k = 0; k < 16; k++) {
                acc[k] = _mm512_setzero_si512();
            }
            for (uint32_t i = 0; i < l->taps; i += 64) {
                const uint32_t left = l->taps - i;
                const __mmask64 live = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
                __m512i wi[4];
                for (uint32_t k = 0; k < 4; k++) {
                    wi[k] = _mm512_maskz_loadu_epi8(live, w[k] + i);
                }
                for (uint32_t k = 0; k < 16; k++) {
                    const __m512i xi = _mm512_loadu_si512(x + (size_t)(k / 4) * stride + i);
                    acc[k] = _mm512_dpbusd_epi32(acc[k], xi, wi[k % 4]);
                }
            }
            int32_t all[16];
            _mm512_storeu_si512(all, zge_sum16(acc));
            for (uint32_t k = 0; k < 4; k++) {
                memcpy(sums + (size_t)(p + k) * apart + r, all + 4 * k, 4 * sizeof *all);
            }
        }
    }
}

/* Partial sums of one row for one sample; *weight_sum gains partial sums of its weights. */
static inline __m512i zge_row_partial(const zge_layer *l, uint32_t row, int32_t with_zero, __m512i *weight_sum) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i acc = _mm512_setzero_si512();
    if (l->indices == NULL) {
        for (uint32_t i = 0; i < l->width; i += 64) {
            const uint32_t left = l->width - i;
            const __mmask64 live = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
            const __m512i wi = _mm512_maskz_loadu_epi8(live, w + i);
            acc = _mm512_dpbusd_epi32(acc, _mm512_maskz_loadu_epi8(live, l->x + i), wi);
            if (with_zero) {
                *weight_sum = _mm512_dpbusd_epi32(*weight_sum, ones, wi);
            }
        }
        return acc;
    }
    const uint16_t *index = l->indices + (size_t)row * l->per_row;
    if (l->block == 1) {
        const __m512i low = _mm512_set1_epi32(255);
        const __m512i mask = _mm512_set1_epi32((int32_t)l->index_mask);
        for (uint32_t i = 0; i < l->width; i += 16) {
            const uint32_t left = l->width - i;
            const __mmask16 live = left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1u);
            const __m512i at =
                _mm512_and_si512(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, index + i)), mask);
            /* Reads up to 3 bytes behind an input: the arena goes on there. */
            const __m512i x = _mm512_and_si512(
                _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), live, at, l->x, 1), low);
            const __m512i wi = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(live, w + i));
            acc = _mm512_add_epi32(acc, _mm512_mullo_epi32(x, wi));
            if (with_zero) {
                *weight_sum = _mm512_add_epi32(*weight_sum, wi);
            }
        }
        return acc;
    }
    for (uint32_t i = 0; i < l->width; i += 64) {
        const uint32_t left = l->width - i;
        const __mmask64 live = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        const __m512i wi = _mm512_maskz_loadu_epi8(live, w + i);
        __m512i x;
        if (l->block == 4) {
            const __mmask16 some = left >= 64 ? (__mmask16)0xffff : (__mmask16)((1u << (left / 4)) - 1u);
            const __m512i at = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, index + i / 4));
            x = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), some, at, l->x, 4);
        } else if (l->block == 8) {
            const __mmask8 some = left >= 64 ? (__mmask8)0xff : (__mmask8)((1u << (left / 8)) - 1u);
            const __m512i at = _mm512_cvtepu16_epi64(_mm_maskz_loadu_epi16(some, index + i / 8));
            x = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), some, at, l->x, 8);
        } else {
            const uint16_t *k = index + i / 16;
            const __m128i *from = (const __m128i *)(const void *)l->x;
            x = _mm512_castsi128_si512(_mm_loadu_si128(from + k[0]));
            x = left > 16 ? _mm512_inserti32x4(x, _mm_loadu_si128(from + k[1]), 1) : x;
            x = left > 32 ? _mm512_inserti32x4(x, _mm_loadu_si128(from + k[2]), 2) : x;
            x = left > 48 ? _mm512_inserti32x4(x, _mm_loadu_si128(from + k[3]), 3) : x;
        }
        acc = _mm512_dpbusd_epi32(acc, x, wi);
        if (with_zero) {
            *weight_sum = _mm512_dpbusd_epi32(*weight_sum, ones, wi);
        }
    }
    return acc;
}

/* Sums of rows row .. row + 15 for one sample. */
#define ZGE_HAVE_ROWS 1
static inline void zge_rows_vector(const zge_layer *l, uint32_t row, int32_t *sums) {
    __m512i part[16], weight_part[16];
    __m512i out;
    if (l->z_in == 0) {
        for (uint32_t i = 0; i < 16; i++) {
            part[i] = zge_row_partial(l, row + i, 0, NULL);
        }
        out = zge_sum16(part);
    } else {
        for (uint32_t i = 0; i < 16; i++) {
            weight_part[i] = _mm512_setzero_si512();
            part[i] = zge_row_partial(l, row + i, 1, &weight_part[i]);
        }
        out = _mm512_sub_epi32(zge_sum16(part),
                               _mm512_mullo_epi32(zge_sum16(weight_part), _mm512_set1_epi32(l->z_in)));
    }
    _mm512_storeu_si512(sums, out);
}

/* The inputs of one sample in registers' worth of tables, 128 bytes each, so that single inputs are picked
 * by byte permutes; some three times faster than gathers. */
#define ZGE_HAVE_TABLES 1
enum { ZGE_TABLES = 8 };
typedef struct zge_tables {
    __m512i half[2 * ZGE_TABLES];
    uint32_t count;
} zge_tables;

/* Fill the tables; none are filled (count 0) for layers that are served better by other paths. */
static inline void zge_fill_tables(const zge_layer *l, zge_tables *t) {
    t->count = 0;
    if (l->indices == NULL || l->block != 1 || l->z_in != 0 || l->inputs > 128 * ZGE_TABLES) {
        return;
    }
    t->count = (l->inputs + 127) / 128;
    for (uint32_t i = 0; i < 2 * t->count; i++) {
        const uint32_t at = i * 64;
        const uint32_t left = l->inputs > at ? l->inputs - at : 0;
        const __mmask64 live = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        t->half[i] = _mm512_maskz_loadu_epi8(live, l->x + at);
    }
}

/* The inputs at 64 indices; those that `live` leaves out give anything. */
static inline __m512i zge_pick(const zge_tables *t, const uint16_t *index, __mmask64 live, __m512i mask) {
    const __m512i even = _mm512_set_epi8(
        126, 124, 122, 120, 118, 116, 114, 112, 110, 108, 106, 104, 102, 100, 98, 96, 94, 92, 90, 88, 86, 84, 82,
        80, 78, 76, 74, 72, 70, 68, 66, 64, 62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28,
        26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i a = _mm512_and_si512(_mm512_maskz_loadu_epi16((__mmask32)live, index), mask);
    const __m512i b = _mm512_and_si512(_mm512_maskz_loadu_epi16((__mmask32)(live >> 32), index + 32), mask);
    const __m512i table =
        _mm512_permutex2var_epi8(_mm512_srli_epi16(a, 7), even, _mm512_srli_epi16(b, 7));
    /* A permute under a mask leaves the other bytes as they are: indices that wait for their table. */
    __m512i out = _mm512_permutex2var_epi8(a, even, b);
#define ZGE_PICK(k)                                                                                          \
    if (t->count > (k)) {                                                                                    \
        out = _mm512_mask2_permutex2var_epi8(t->half[2 * (k)], out,                                          \
                                             _mm512_cmpeq_epi8_mask(table, _mm512_set1_epi8(k)),             \
                                             t->half[2 * (k) + 1]);                                          \
    }
    ZGE_PICK(0) ZGE_PICK(1) ZGE_PICK(2) ZGE_PICK(3) ZGE_PICK(4) ZGE_PICK(5) ZGE_PICK(6) ZGE_PICK(7)
#undef ZGE_PICK
    return out;
}

/* As zge_row_partial, inputs picked from tables. */
static inline __m512i zge_row_picked(const zge_layer *l, const zge_tables *t, uint32_t row) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    const uint16_t *index = l->indices + (size_t)row * l->per_row;
    const __m512i mask = _mm512_set1_epi16((int16_t)l->index_mask);
    __m512i acc = _mm512_setzero_si512();
    for (uint32_t i = 0; i < l->width; i += 64) {
        const uint32_t left = l->width - i;
        const __mmask64 live = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        acc = _mm512_dpbusd_epi32(acc, zge_pick(t, index + i, live, mask), _mm512_maskz_loadu_epi8(live, w + i));
    }
    return acc;
}

/* Sums of rows row .. row + 15 of 32 weights each. */
static inline __m512i zge_rows_of_32(const zge_layer *l, const zge_tables *t, uint32_t row) {
    const int8_t *w = l->weights + (size_t)row * 32;
    const uint16_t *index = l->indices + (size_t)row * 32;
    const __m512i mask = _mm512_set1_epi16((int16_t)l->index_mask);
    __m512i v[8], u[4];
    for (int i = 0; i < 8; i++) { /* rows 2i and 2i + 1 in the halves */
        v[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), zge_pick(t, index + 64 * i, ~(__mmask64)0, mask),
                                   _mm512_loadu_si512(w + 64 * i));
    }
    for (int i = 0; i < 4; i++) {
        u[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        v[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(u[2 * i], u[2 * i + 1]),
                                _mm512_unpackhi_epi64(u[2 * i], u[2 * i + 1]));
    }
    const __m512i sums =
        _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
    const __m512i order = _mm512_set_epi32(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
    return _mm512_permutexvar_epi32(order, sums);
}

/* Sums of rows row .. row + 15 of fewer than 64 weights each: inputs are picked for all of them first, so
 * that no pick is half empty. */
static inline __m512i zge_rows_short(const zge_layer *l, const zge_tables *t, uint32_t row) {
    uint8_t x[16 * 64];
    __m512i part[16];
    const uint16_t *index = l->indices + (size_t)row * l->width;
    const int8_t *w = l->weights + (size_t)row * l->width;
    const __m512i mask = _mm512_set1_epi16((int16_t)l->index_mask);
    const __mmask64 live = ((__mmask64)1 << l->width) - 1;
    for (uint32_t i = 0; i < 16 * l->width; i += 64) {
        const uint32_t left = 16 * l->width - i;
        const __mmask64 some = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        _mm512_storeu_si512(x + i, zge_pick(t, index + i, some, mask));
    }
    for (uint32_t i = 0; i < 16; i++) {
        part[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_maskz_loadu_epi8(live, x + i * l->width),
                                      _mm512_maskz_loadu_epi8(live, w + i * l->width));
    }
    return zge_sum16(part);
}

/* As zge_rows_vector, inputs picked from tables. */
static inline void zge_rows_picked(const zge_layer *l, const zge_tables *t, uint32_t row, int32_t *sums) {
    __m512i out;
    if (l->width == 32) {
        out = zge_rows_of_32(l, t, row);
    } else if (l->width < 64) {
        out = zge_rows_short(l, t, row);
    } else {
        __m512i part[16];
        for (uint32_t i = 0; i < 16; i++) {
            part[i] = zge_row_picked(l, t, row + i);
        }
        out = zge_sum16(part);
    }
    _mm512_storeu_si512(sums, out);
}

/* Sums of one row for 1 or 16 samples; 0 where this shape is left to the plain loop. */
#define ZGE_HAVE_SUMS 1
static inline int32_t zge_sums_vector(const zge_layer *l, uint32_t row, uint32_t s, int32_t *acc) {
    if (s == 1) {
        __m512i weight_sum = _mm512_setzero_si512();
        const __m512i sum = zge_row_partial(l, row, l->z_in != 0, &weight_sum);
        acc[0] = _mm512_reduce_add_epi32(sum) - l->z_in * _mm512_reduce_add_epi32(weight_sum);
        return 1;
    }
    if (s != 16 || l->width % 4 != 0) {
        return 0;
    }
    const int8_t *w = l->weights + (size_t)row * l->width;
    const uint16_t *index = l->indices == NULL ? NULL : l->indices + (size_t)row * l->per_row;
    __m512i sum = _mm512_setzero_si512();
    __m512i weight_sum = _mm512_setzero_si512();
    const __m512i ones = _mm512_set1_epi8(1);
    const uint32_t log = zge_log(l);
    for (uint32_t i = 0; i < l->width; i += 4) {
        const __m512i wi = _mm512_set1_epi32(zge_word(w + i));
        sum = _mm512_dpbusd_epi32(sum, zge_by_sample(zge_load_four(l, index, log, i)), wi);
        if (l->z_in != 0) {
            weight_sum = _mm512_dpbusd_epi32(weight_sum, ones, wi);
        }
    }
    sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(weight_sum, _mm512_set1_epi32(l->z_in)));
    _mm512_storeu_si512(acc, sum);
    return 1;
}

/* Four vectors of four inputs (a 128-bit lane each) to 16 sums in order. */
static inline __m512i zge_sum_lanes(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i v = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, v);
}

/* Gradients of n weights of a row from `at` on, for 16 samples of error d; n a multiple of 4. */
#define ZGE_HAVE_GRADIENTS 1
static inline void zge_gradients_vector(const zge_layer *l, const uint16_t *index, uint32_t at, uint32_t n,
                                        const int8_t *d, int32_t base, int32_t *g) {
    const __m512i error = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)d));
    const __m512i zero = _mm512_setzero_si512();
    const __m512i start = _mm512_set1_epi32(base);
    const uint32_t log = zge_log(l);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i a = _mm512_dpbusd_epi32(zero, zge_load_four(l, index, log, at + i), error);
        const __m512i b = _mm512_dpbusd_epi32(zero, zge_load_four(l, index, log, at + i + 4), error);
        const __m512i c = _mm512_dpbusd_epi32(zero, zge_load_four(l, index, log, at + i + 8), error);
        const __m512i e = _mm512_dpbusd_epi32(zero, zge_load_four(l, index, log, at + i + 12), error);
        _mm512_storeu_si512(g + i, _mm512_add_epi32(zge_sum_lanes(a, b, c, e), start));
    }
    for (; i < n; i += 4) {
        const __m512i a = _mm512_dpbusd_epi32(zero, zge_load_four(l, index, log, at + i), error);
        const __m512i sums = _mm512_add_epi32(zge_sum_lanes(a, zero, zero, zero), start);
        _mm_storeu_si128((__m128i *)(void *)(g + i), _mm512_castsi512_si128(sums));
    }
}

/* Gradients of n weights of a sparse row from `at` on for one sample; n a multiple of 16, blocks of 1. */
#define ZGE_HAVE_GRADIENTS_ONE 1
static inline void zge_gradients_one(const zge_layer *l, const uint16_t *index, uint32_t n, int32_t d, int32_t base,
                                     int32_t *g) {
    const __m512i mask = _mm512_set1_epi32((int32_t)l->index_mask);
    const __m512i low = _mm512_set1_epi32(255);
    for (uint32_t i = 0; i < n; i += 16) {
        const __m512i at = _mm512_and_si512(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(index + i))), mask);
        const __m512i x = _mm512_and_si512(_mm512_i32gather_epi32(at, l->x, 1), low);
        _mm512_storeu_si512(g + i, _mm512_add_epi32(_mm512_mullo_epi32(x, _mm512_set1_epi32(d)),
                                                    _mm512_set1_epi32(base)));
    }
}

/* zge_random of 16 numbers that follow each other: the hash's inputs, and a turn of the generator. */
static inline __m512i zge_counters(uint32_t noise, uint32_t at) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const uint32_t golden = 0x9e3779b9u;
    return _mm512_add_epi32(_mm512_set1_epi32((int32_t)(noise + at * golden)),
                            _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int32_t)golden)));
}
static inline __m512i zge_random16(__m512i *counter) {
    __m512i r = _mm512_xor_si512(*counter, _mm512_srli_epi32(*counter, 16));
    r = _mm512_mullo_epi32(r, _mm512_set1_epi32(0x7feb352d));
    r = _mm512_xor_si512(r, _mm512_srli_epi32(r, 15));
    *counter = _mm512_add_epi32(*counter, _mm512_set1_epi32((int32_t)(16u * 0x9e3779b9u)));
    return _mm512_mullo_epi32(r, _mm512_set1_epi32((int32_t)0x846ca68bu));
}

/* As the end of zge_error, for n errors, a multiple of 16: where x is above 0, what flows back, in int8. */
#define ZGE_HAVE_ERROR 1
static inline uint32_t zge_error_vector(const uint8_t *x, uint32_t n, uint32_t noise, int32_t *back, int8_t *delta) {
    __m512i most = _mm512_setzero_si512();
    for (uint32_t i = 0; i < n; i += 16) {
        const __m128i xi = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
        const __m512i b = _mm512_maskz_loadu_epi32(_mm_test_epi8_mask(xi, xi), back + i);
        _mm512_storeu_si512(back + i, b);
        most = _mm512_max_epu32(most, _mm512_abs_epi32(b));
    }
    uint32_t shift = 0;
    while ((_mm512_reduce_max_epu32(most) >> shift) > 126u) { /* rounding up may add one */
        shift++;
    }
    /* Shifted by 32, the noise is gone. */
    const __m128i down = _mm_cvtsi32_si128((int32_t)(32u - shift));
    const __m128i cut = _mm_cvtsi32_si128((int32_t)shift);
    __m512i counter = zge_counters(noise, 0);
    for (uint32_t i = 0; i < n; i += 16) {
        const __m512i up = _mm512_srl_epi32(zge_random16(&counter), down);
        const __m512i v = _mm512_sra_epi32(_mm512_add_epi32(_mm512_loadu_si512(back + i), up), cut);
        _mm_storeu_si128((__m128i *)(void *)(delta + i), _mm512_cvtepi32_epi8(v));
    }
    return shift;
}

/* zge_move of n weights, a multiple of 16, from weight `at` of the layer on, residuals included. Returns 0
 * where the residuals lie so that the plain loop must do it. */
#define ZGE_HAVE_MOVE 1
static inline int32_t zge_move_vector(const zge_layer *l, size_t at, uint32_t n, const int32_t *g, zge_rate rate,
                                      uint32_t noise) {
    if (n % 16 != 0 || (l->residual != ZGE_R_INDEX && at % 2 != 0)) {
        return 0;
    }
    const __m512i mantissa = _mm512_set1_epi32(rate.mantissa);
    const __m128i shift = _mm_cvtsi32_si128((int32_t)rate.shift);
    const __m128i down = _mm_cvtsi32_si128(rate.shift > 0 ? (int32_t)(32u - rate.shift) : 32); /* 32: all gone */
    const __m512i most = _mm512_set1_epi32(ZGE_V_MAX);
    const __m512i least = _mm512_set1_epi32(-ZGE_V_MAX);
    __m512i counter = zge_counters(noise, (uint32_t)at);
    for (uint32_t i = 0; i < n; i += 16) {
        const __m512i r = zge_random16(&counter);
        __m128i *w = (__m128i *)(void *)(l->weights + at + i);
        __m512i e;
        if (l->residual == ZGE_R_INDEX) {
            const __m256i *p = (const __m256i *)(const void *)(l->indices + at + i);
            e = _mm512_srai_epi32(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p)), 12);
        } else {
            const __m128i p = _mm_loadl_epi64((const __m128i *)(const void *)(l->nibbles + (at + i) / 2));
            const __m128i low = _mm_set1_epi8(15);
            const __m128i halves = _mm_unpacklo_epi8(_mm_and_si128(p, low), _mm_and_si128(_mm_srli_epi16(p, 4), low));
            const __m128i eight = _mm_set1_epi8(8);
            e = _mm512_cvtepi8_epi32(_mm_sub_epi8(_mm_xor_si128(halves, eight), eight));
        }
        const __m512i moved = _mm512_sra_epi32(
            _mm512_add_epi32(_mm512_mullo_epi32(_mm512_loadu_si512(g + i), mantissa), _mm512_srl_epi32(r, down)), shift);
        __m512i v = _mm512_slli_epi32(_mm512_cvtepi8_epi32(_mm_loadu_si128(w)), 4);
        v = _mm512_sub_epi32(_mm512_add_epi32(v, e), moved);
        v = _mm512_max_epi32(_mm512_min_epi32(v, most), least);
        const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(8)), 4);
        _mm_storeu_si128(w, _mm512_cvtepi32_epi8(high));
        if (l->residual == ZGE_R_INDEX) {
            /* The four low bits of v are those of its residual. */
            __m256i *p = (__m256i *)(void *)(l->indices + at + i);
            const __m256i bits = _mm256_slli_epi16(_mm512_cvtepi32_epi16(v), 12);
            _mm256_storeu_si256(
                p, _mm256_or_si256(_mm256_and_si256(_mm256_loadu_si256(p), _mm256_set1_epi16(0x0fff)), bits));
        } else {
            const __m128i bits = _mm_and_si128(_mm512_cvtepi32_epi8(v), _mm_set1_epi8(15));
            const __m128i pairs = _mm_maddubs_epi16(bits, _mm_set1_epi16(0x1001));
            _mm_storel_epi64((__m128i *)(void *)(l->nibbles + (at + i) / 2), _mm_packus_epi16(pairs, pairs));
        }
    }
    return 1;
}

/* back [n][16] = error [rows][16] times weights [rows][n], of a dense layer. */
#define ZGE_HAVE_DENSE_BACK 1
static inline void zge_dense_back_vector(const zge_layer *l, int32_t *back) {
    for (uint32_t r = 0; r < l->outputs; r += 2) {
        const int32_t two = r + 1 < l->outputs;
        const __m128i d0 = _mm_loadu_si128((const __m128i *)(const void *)(l->delta + (size_t)r * 16));
        const __m128i d1 = two ? _mm_loadu_si128((const __m128i *)(const void *)(l->delta + (size_t)(r + 1) * 16))
                               : _mm_setzero_si128();
        /* Samples in order, the two rows of each side by side, in 16 bits. */
        const __m512i low = _mm512_cvtepi8_epi16(_mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_unpacklo_epi8(d0, d1)), _mm_unpackhi_epi8(d0, d1), 1));
        const int8_t *w0 = l->weights + (size_t)r * l->width;
        const int8_t *w1 = two ? w0 + l->width : w0;
        for (uint32_t i = 0; i < l->width; i++) {
            const __m512i pair = _mm512_set1_epi32((int32_t)((uint32_t)(uint16_t)w0[i] | (uint32_t)(uint16_t)w1[i] << 16));
            const __m512i product = _mm512_madd_epi16(low, pair);
            int32_t *to = back + (size_t)i * 16;
            _mm512_storeu_si512(to, r == 0 ? product : _mm512_add_epi32(_mm512_loadu_si512(to), product));
        }
    }
}

/* 16 input codes; *clamped gains how many were clamped. */
#define ZGE_HAVE_CODES 1
static inline void zge_codes16(__m512 x, __m512 center, __m512 scale, __m512 z, uint8_t *out, uint32_t *clamped) {
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __m512 v = _mm512_mul_ps(_mm512_sub_ps(x, center), scale);
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-512.0f)), _mm512_set1_ps(512.0f));
    v = _mm512_add_ps(_mm512_sub_ps(_mm512_add_ps(v, magic), magic), z);
    const __m512i code = _mm512_cvttps_epi32(v);
    const __mmask16 outside = _mm512_cmpgt_epu32_mask(code, _mm512_set1_epi32(255));
    *clamped += (uint32_t)__builtin_popcount(outside);
    _mm_storeu_si128((__m128i *)(void *)out,
                     _mm512_cvtusepi32_epi8(_mm512_max_epi32(code, _mm512_setzero_si512())));
}

#else /* AVX2 */

#define ZGE_NEEDS zge_x86_has(bit_AVX2, 0, 0x6)

static inline __m256i zge_requantize8(__m256i acc, __m256i bias, __m256 multiplier) {
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(acc, bias)), multiplier);
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(255.0f));
    return _mm256_cvttps_epi32(_mm256_sub_ps(_mm256_add_ps(v, magic), magic));
}

/* 16 sums to activations; bias and multiplier of each where `apart`, else one for all. */
static inline void zge_requantize16(const int32_t *acc, const int32_t *bias, const float *multiplier,
                                    int32_t apart, uint8_t *y) {
    __m256i half[2];
    for (uint32_t i = 0; i < 2; i++) {
        half[i] = zge_requantize8(
            _mm256_loadu_si256((const __m256i *)(const void *)(acc + 8 * i)),
            apart ? _mm256_loadu_si256((const __m256i *)(const void *)(bias + 8 * i)) : _mm256_set1_epi32(bias[0]),
            apart ? _mm256_loadu_ps(multiplier + 8 * i) : _mm256_set1_ps(multiplier[0]));
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(half[0], half[1]), 0xd8);
    _mm_storeu_si128((__m128i *)(void *)y,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static inline __m256i zge_widen(const uint8_t *p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Eight vectors to the vector of their sums. */
static inline __m256i zge_sum8(const __m256i *v) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* Convolutions: windows laid out as 16-bit numbers, a whole number of registers each. */
#define ZGE_HAVE_PATCHES 1
typedef int16_t zge_patch;
enum { ZGE_PATCH_VALUES = 4 * ZGE_MAX_TAPS, ZGE_PATCH_TILE = 32 };
static inline uint32_t zge_patch_stride(uint32_t taps) { return (taps + 15u) & ~15u; }

/* n bytes, signed or not, to 16 bits; the last 16 of a longer run once more instead of one by one. */
#define ZGE_WIDEN(name, type, convert)                                                                       \
    static inline void name(const type *from, uint32_t n, int16_t *to) {                                    \
        uint32_t i = 0;                                                                                      \
        for (; n >= 16 && i < n; i = i + 32 > n && i + 16 < n ? n - 16 : i + 16) {                           \
            const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(from + i));                    \
            _mm256_storeu_si256((__m256i *)(void *)(to + i), convert(v));                                    \
        }                                                                                                    \
        for (; i < n; i++) {                                                                                 \
            to[i] = from[i];                                                                                 \
        }                                                                                                    \
    }
ZGE_WIDEN(zge_patch_run, uint8_t, _mm256_cvtepu8_epi16)
ZGE_WIDEN(zge_patch_weights, int8_t, _mm256_cvtepi8_epi16)

/* Weights of 8 channels, of taps .. taps + 15 each: to runs of two taps of channel 0, of channel 1, and so on. */
static inline void zge_pairs(const int8_t *const *rows, uint32_t at, uint32_t left, int8_t *to) {
    __m128i a[8], b[8];
    for (uint32_t k = 0; k < 8; k++) {
        if (left >= 16) {
            a[k] = _mm_loadu_si128((const __m128i *)(const void *)(rows[k] + at));
        } else {
            int8_t tail[16] = {0};
            memcpy(tail, rows[k] + at, left);
            a[k] = _mm_loadu_si128((const __m128i *)(const void *)tail);
        }
    }
    for (int round = 0; round < 3; round++) { /* a perfect shuffle by rows is a third of a transpose */
        for (int k = 0; k < 4; k++) {
            b[2 * k] = _mm_unpacklo_epi16(a[k], a[k + 4]);
            b[2 * k + 1] = _mm_unpackhi_epi16(a[k], a[k + 4]);
        }
        memcpy(a, b, sizeof a);
    }
    for (uint32_t k = 0; k < 8; k++) {
        _mm_storeu_si128((__m128i *)(void *)(to + 16 * k), a[k]);
    }
}

/* As zge_patch_sums, for short windows: channels lie across a register, two taps of a window go to all of them,
 * and nothing is left to add up at the end. */
enum { ZGE_SHORT_TAPS = 256 };
static inline void zge_short_sums(const zge_conv *l, const zge_patch *patches, uint32_t count, uint32_t c, uint32_t n,
                                  uint32_t apart, int32_t *sums) {
    const uint32_t stride = zge_patch_stride(l->taps);
    int8_t pairs[2][ZGE_SHORT_TAPS * 8];
    for (uint32_t r = 0; r < n; r += 16) {
        const uint32_t groups = n - r > 8 ? 2 : 1;
        for (uint32_t g = 0; g < groups; g++) {
            const int8_t *rows[8];
            for (uint32_t k = 0; k < 8; k++) { /* past the last channel: that one again, never used */
                const uint32_t row = r + 8 * g + k;
                rows[k] = l->weights + (size_t)(c + (row < n ? row : n - 1)) * l->taps;
            }
            for (uint32_t i = 0; i < l->taps; i += 16) {
                zge_pairs(rows, i, l->taps - i, pairs[g] + 8 * i);
            }
        }
        for (uint32_t p = 0; p < count; p += 4) {
            const zge_patch *x = patches + (size_t)p * stride;
            __m256i acc[8];
            for (uint32_t k = 0; k < 8; k++) {
                acc[k] = _mm256_setzero_si256();
            }
            for (uint32_t i = 0; i < l->taps; i += 2) {
                const __m256i w0 =
                    _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(pairs[0] + 8 * i)));
                const __m256i w1 =
                    _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(pairs[groups - 1] + 8 * i)));
                for (uint32_t k = 0; k < 4; k++) {
                    int32_t two;
                    memcpy(&two, x + (size_t)k * stride + i, sizeof two);
                    const __m256i xi = _mm256_set1_epi32(two);
                    acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(xi, w0));
                    acc[4 + k] = _mm256_add_epi32(acc[4 + k], _mm256_madd_epi16(xi, w1));
                }
            }
            for (uint32_t k = 0; k < 4; k++) {
                int32_t *to = sums + (size_t)(p + k) * apart + r;
                _mm256_storeu_si256((__m256i *)(void *)to, acc[k]);
                if (groups > 1) {
                    _mm256_storeu_si256((__m256i *)(void *)(to + 8), acc[4 + k]);
                }
            }
        }
    }
}

/* sums [count][apart] of `count` windows (a multiple of 4) and channels c .. c + n - 1. */
static inline void zge_patch_sums(const zge_conv *l, const zge_patch *patches, uint32_t count, uint32_t c, uint32_t n,
                                  uint32_t apart, int32_t *sums) {
    const uint32_t stride = zge_patch_stride(l->taps);
    int16_t w[2 * ZGE_MAX_TAPS];
    if (l->taps <= ZGE_SHORT_TAPS && count >= 8) {
        zge_short_sums(l, patches, count, c, n, apart, sums);
        return;
    }
    for (uint32_t r = 0; r < n; r += 2) {
        for (uint32_t k = 0; k < 2; k++) { /* past the last channel: that one again, never used */
            zge_patch_weights(l->weights + (size_t)(c + (r + k < n ? r + k : n - 1)) * l->taps, l->taps,
                              w + k * stride);
            memset(w + k * stride + l->taps, 0, (stride - l->taps) * sizeof *w);
        }
        for (uint32_t p = 0; p < count; p += 4) {
            const zge_patch *x = patches + (size_t)p * stride;
            __m256i acc[8];
            for (uint32_t k = 0; k < 8; k++) {
                acc[k] = _mm256_setzero_si256();
            }
            for (uint32_t i = 0; i < stride; i += 16) {
                const __m256i w0 = _mm256_loadu_si256((const __m256i *)(const void *)(w + i));
                const __m256i w1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + stride + i));
                for (uint32_t k = 0; k < 4; k++) {
                    const __m256i xi =
                        _mm256_loadu_si256((const __m256i *)(const void *)(x + (size_t)k * stride + i));
                    acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(xi, w0));
                    acc[4 + k] = _mm256_add_epi32(acc[4 + k], _mm256_madd_epi16(xi, w1));
                }
            }
            int32_t all[8];
            _mm256_storeu_si256((__m256i *)(void *)all, zge_sum8(acc));
            for (uint32_t k = 0; k < 4; k++) {
                sums[(size_t)(p + k) * apart + r] = all[k];
                sums[(size_t)(p + k) * apart + r + 1] = all[4 + k];
            }
        }
    }
}

/* Partial sums of one row for one sample over what fits whole vectors; the rest in *tail. */
static inline __m256i zge_row_partial(const zge_layer *l, uint32_t row, int32_t *tail) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    const uint16_t *index = l->indices == NULL ? NULL : l->indices + (size_t)row * l->per_row;
    const __m256i z = _mm256_set1_epi16((int16_t)l->z_in);
    __m256i acc = _mm256_setzero_si256();
    uint32_t i = 0;
    if (index != NULL && l->block == 1) {
        const __m256i mask = _mm256_set1_epi32((int32_t)l->index_mask);
        const __m256i low = _mm256_set1_epi32(255);
        const __m256i z32 = _mm256_set1_epi32(l->z_in);
        for (; i + 8 <= l->width; i += 8) {
            const __m256i at = _mm256_and_si256(
                _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(index + i))), mask);
            /* Reads up to 3 bytes behind an input: the arena goes on there. */
            const __m256i x =
                _mm256_and_si256(_mm256_i32gather_epi32((const int32_t *)(const void *)l->x, at, 1), low);
            const __m256i wi = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(w + i)));
            acc = _mm256_add_epi32(acc, _mm256_mullo_epi32(_mm256_sub_epi32(x, z32), wi));
        }
    } else {
        for (; i + 16 <= l->width; i += 16) {
            __m128i x;
            if (index == NULL) {
                x = _mm_loadu_si128((const __m128i *)(const void *)(l->x + i));
            } else if (l->block == 4) {
                const uint16_t *k = index + i / 4;
                const int8_t *from = (const int8_t *)l->x;
                x = _mm_set_epi32(zge_word(from + 4 * (size_t)k[3]), zge_word(from + 4 * (size_t)k[2]),
                                  zge_word(from + 4 * (size_t)k[1]), zge_word(from + 4 * (size_t)k[0]));
            } else if (l->block == 8) {
                const uint16_t *k = index + i / 8;
                x = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(l->x + 8 * (size_t)k[0])),
                                       _mm_loadl_epi64((const __m128i *)(const void *)(l->x + 8 * (size_t)k[1])));
            } else {
                x = _mm_loadu_si128((const __m128i *)(const void *)(l->x + 16 * (size_t)index[i / 16]));
            }
            const __m256i wi = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + i)));
            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_sub_epi16(_mm256_cvtepu8_epi16(x), z), wi));
        }
    }
    int32_t rest = 0;
    for (; i < l->width; i++) {
        rest += w[i] * ((int32_t)l->x[zge_input_of(l, row, i)] - l->z_in);
    }
    *tail = rest;
    return acc;
}

/* Sums of rows row .. row + 15 for one sample. */
#define ZGE_HAVE_ROWS 1
static inline void zge_rows_vector(const zge_layer *l, uint32_t row, int32_t *sums) {
    for (uint32_t half = 0; half < 16; half += 8) {
        __m256i part[8];
        int32_t tail[8];
        for (uint32_t i = 0; i < 8; i++) {
            part[i] = zge_row_partial(l, row + half + i, &tail[i]);
        }
        const __m256i all = _mm256_add_epi32(zge_sum8(part), _mm256_loadu_si256((const __m256i *)(const void *)tail));
        _mm256_storeu_si256((__m256i *)(void *)(sums + half), all);
    }
}

/* Sums of one row for 1 or 16 samples; 0 where this shape is left to the plain loop. */
#define ZGE_HAVE_SUMS 1
static inline int32_t zge_sums_vector(const zge_layer *l, uint32_t row, uint32_t s, int32_t *acc) {
    if (s == 1) {
        int32_t tail;
        int32_t part[8];
        _mm256_storeu_si256((__m256i *)(void *)part, zge_row_partial(l, row, &tail));
        for (uint32_t i = 0; i < 8; i++) {
            tail += part[i];
        }
        acc[0] = tail;
        return 1;
    }
    if (s != 16 || l->width % 2 != 0) {
        return 0;
    }
    const int8_t *w = l->weights + (size_t)row * l->width;
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
    int32_t weight_sum = 0;
    for (uint32_t i = 0; i < l->width; i += 2) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(l->x + 16 * (size_t)zge_input_of(l, row, i)));
        const __m128i b =
            _mm_loadu_si128((const __m128i *)(const void *)(l->x + 16 * (size_t)zge_input_of(l, row, i + 1)));
        const __m256i pair =
            _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)w[i] | (uint32_t)(uint16_t)w[i + 1] << 16));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)), pair));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)), pair));
        weight_sum += w[i] + w[i + 1];
    }
    const __m256i z = _mm256_set1_epi32(l->z_in * weight_sum);
    _mm256_storeu_si256((__m256i *)(void *)acc, _mm256_sub_epi32(low, z));
    _mm256_storeu_si256((__m256i *)(void *)(acc + 8), _mm256_sub_epi32(high, z));
    return 1;
}

/* Gradients of n weights of a row from `at` on, for 16 samples of error d; n a multiple of 4. */
#define ZGE_HAVE_GRADIENTS 1
static inline void zge_gradients_vector(const zge_layer *l, const uint16_t *index, uint32_t at, uint32_t n,
                                        const int8_t *d, int32_t base, int32_t *g) {
    const __m256i error = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)d));
    const uint32_t log = zge_log(l);
    for (uint32_t i = 0; i < n; i += 4) {
        const uint8_t *x[4];
        for (uint32_t k = 0; k < 4; k++) {
            const uint32_t w = at + i + k;
            const size_t input =
                index == NULL ? w : ((size_t)(index[w >> log] & l->index_mask) << log) + (w & (l->block - 1u));
            x[k] = l->x + 16 * input;
        }
        const __m256i ab = _mm256_hadd_epi32(_mm256_madd_epi16(zge_widen(x[0]), error),
                                             _mm256_madd_epi16(zge_widen(x[1]), error));
        const __m256i cd = _mm256_hadd_epi32(_mm256_madd_epi16(zge_widen(x[2]), error),
                                             _mm256_madd_epi16(zge_widen(x[3]), error));
        const __m256i all = _mm256_hadd_epi32(ab, cd);
        const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        _mm_storeu_si128((__m128i *)(void *)(g + i), _mm_add_epi32(sum, _mm_set1_epi32(base)));
    }
}

#endif
#endif
