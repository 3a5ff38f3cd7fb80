/* zge_arm.h: vector paths for aarch64. Included by zge_kernels.c when it is compiled for NEON, or for
 * NEON with the dot product instructions (Armv8.2). Each function leaves the bytes that the plain loop
 * leaves: they only regroup integer sums.
 *
 * The dot product is of signed bytes. An activation x (uint8) enters as x - 128, by XOR 0x80, and the
 * difference, 128 times the sum of the other operand, is added back. */
#ifndef ZGE_ARM_H
#define ZGE_ARM_H

#include "zge_impl.h"

#include <arm_neon.h>

static inline uint32_t zge_log(const zge_layer *l) { return (uint32_t)__builtin_ctz(l->block); }

/* Where the four inputs of weights at .. at + 3 lie, 16 samples each, or one sample where s is 1. */
static inline const uint8_t *zge_inputs_at(const zge_layer *l, const uint16_t *index, uint32_t log, uint32_t at,
                                           uint32_t s) {
    if (index == NULL) {
        return l->x + (size_t)at * s;
    }
    return l->x + (((size_t)(index[at >> log] & l->index_mask) << log) + (at & (l->block - 1u))) * s;
}

/* 16 samples of 16 bytes to 16 inputs of 16 samples. */
#define ZGE_HAVE_TRANSPOSE 1
static inline void zge_transpose16(const uint8_t *in, uint8_t *out) {
    uint8x16_t a[16], b[16];
    for (int i = 0; i < 16; i++) {
        a[i] = vld1q_u8(in + 16 * i);
    }
    for (int round = 0; round < 2; round++) { /* two rounds of a perfect shuffle by rows, twice */
        for (int i = 0; i < 8; i++) {
            b[2 * i] = vzip1q_u8(a[i], a[i + 8]);
            b[2 * i + 1] = vzip2q_u8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 8; i++) {
            a[2 * i] = vzip1q_u8(b[i], b[i + 8]);
            a[2 * i + 1] = vzip2q_u8(b[i], b[i + 8]);
        }
    }
    for (int i = 0; i < 16; i++) {
        vst1q_u8(out + 16 * i, a[i]);
    }
}

#if defined(__ARM_FEATURE_DOTPROD)

/* The C library's word on the processor, where there is one: the core does without it. */
extern unsigned long getauxval(unsigned long type) __attribute__((weak));
static inline int32_t zge_has_dotprod(void) {
    const unsigned long hwcap = 16;          /* AT_HWCAP */
    const unsigned long asimddp = 1ul << 20; /* HWCAP_ASIMDDP */
    return getauxval != NULL && (getauxval(hwcap) & asimddp) != 0;
}
#define ZGE_NEEDS zge_has_dotprod()

static inline int32x4_t zge_dot(int32x4_t acc, uint8x16_t x, int8x16_t w) {
    return vdotq_s32(acc, vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80))), w);
}
/* What zge_dot leaves out, for a zero point z: (128 - z) times the sum of w, four partial sums. */
static inline int32x4_t zge_dot_rest(int32x4_t acc, int8x16_t w, int32_t z) {
    return vmlaq_n_s32(acc, vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), w), 128 - z);
}

#else

static inline int32x4_t zge_dot(int32x4_t acc, uint8x16_t x, int8x16_t w) {
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
    const int16x8_t w_low = vmovl_s8(vget_low_s8(w));
    const int16x8_t w_high = vmovl_s8(vget_high_s8(w));
    acc = vmlal_s16(acc, vget_low_s16(low), vget_low_s16(w_low));
    acc = vmlal_s16(acc, vget_high_s16(low), vget_high_s16(w_low));
    acc = vmlal_s16(acc, vget_low_s16(high), vget_low_s16(w_high));
    return vmlal_s16(acc, vget_high_s16(high), vget_high_s16(w_high));
}
/* What a zero point z takes away: z times the sum of w, four partial sums. */
static inline int32x4_t zge_dot_rest(int32x4_t acc, int8x16_t w, int32_t z) {
    return vmlsq_n_s32(acc, vpaddlq_s16(vpaddlq_s8(w)), z);
}

#endif

/* Sums of one row for 1 or 16 samples; 0 where this shape is left to the plain loop. */
#define ZGE_HAVE_SUMS 1
static inline int32_t zge_sums_vector(const zge_layer *l, uint32_t row, uint32_t s, int32_t *acc) {
    const int8_t *w = l->weights + (size_t)row * l->width;
    const uint16_t *index = l->indices == NULL ? NULL : l->indices + (size_t)row * l->per_row;
    const uint32_t log = zge_log(l);
    if (s == 1 && (index == NULL || log >= 2)) {
        int32x4_t sum = vdupq_n_s32(0);
        uint32_t i = 0;
        for (; i + 16 <= l->width; i += 16) {
            uint8x16_t x;
            if (index == NULL || log == 4) {
                x = vld1q_u8(zge_inputs_at(l, index, log, i, 1));
            } else if (log == 3) {
                x = vcombine_u8(vld1_u8(zge_inputs_at(l, index, log, i, 1)),
                                vld1_u8(zge_inputs_at(l, index, log, i + 8, 1)));
            } else {
                uint32_t four[4];
                for (uint32_t k = 0; k < 4; k++) {
                    memcpy(&four[k], zge_inputs_at(l, index, log, i + 4 * k, 1), 4);
                }
                x = vreinterpretq_u8_u32(vld1q_u32(four));
            }
            const int8x16_t wi = vld1q_s8(w + i);
            sum = zge_dot_rest(zge_dot(sum, x, wi), wi, l->z_in);
        }
        int32_t total = vaddvq_s32(sum);
        for (; i < l->width; i++) {
            total += w[i] * ((int32_t)l->x[zge_input_of(l, row, i)] - l->z_in);
        }
        acc[0] = total;
        return 1;
    }
    if (s != 16) {
        return 0;
    }
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    const uint8x8_t z = vdup_n_u8((uint8_t)l->z_in);
    for (uint32_t i = 0; i < l->width; i++) {
        const uint8x16_t x = vld1q_u8(zge_inputs_at(l, index, log, i, 16));
        const int16x8_t low = vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(x), z));
        const int16x8_t high = vreinterpretq_s16_u16(vsubl_u8(vget_high_u8(x), z));
        sum[0] = vmlal_n_s16(sum[0], vget_low_s16(low), w[i]);
        sum[1] = vmlal_n_s16(sum[1], vget_high_s16(low), w[i]);
        sum[2] = vmlal_n_s16(sum[2], vget_low_s16(high), w[i]);
        sum[3] = vmlal_n_s16(sum[3], vget_high_s16(high), w[i]);
    }
    for (uint32_t k = 0; k < 4; k++) {
        vst1q_s32(acc + 4 * k, sum[k]);
    }
    return 1;
}

/* Gradients of n weights of a row from `at` on, for 16 samples of error d; n a multiple of 4. */
#define ZGE_HAVE_GRADIENTS 1
static inline void zge_gradients_vector(const zge_layer *l, const uint16_t *index, uint32_t at, uint32_t n,
                                        const int8_t *d, int32_t base, int32_t *g) {
    const int8x16_t error = vld1q_s8(d);
    const int32x4_t rest = zge_dot_rest(vdupq_n_s32(0), error, 0); /* once a row: the errors are the w here */
    const uint32_t log = zge_log(l);
    for (uint32_t i = 0; i < n; i += 4) {
        int32x4_t part[4];
        for (uint32_t k = 0; k < 4; k++) {
            part[k] = zge_dot(rest, vld1q_u8(zge_inputs_at(l, index, log, at + i + k, 16)), error);
        }
        const int32x4_t sum = vpaddq_s32(vpaddq_s32(part[0], part[1]), vpaddq_s32(part[2], part[3]));
        vst1q_s32(g + i, vaddq_s32(sum, vdupq_n_s32(base)));
    }
}

#if defined(__ARM_FEATURE_DOTPROD)

/* Convolutions: windows laid out as bytes, a whole number of registers each. */
#define ZGE_HAVE_PATCHES 1
typedef uint8_t zge_patch;
enum { ZGE_PATCH_VALUES = 4 * ZGE_MAX_TAPS, ZGE_PATCH_TILE = 32 };
static inline uint32_t zge_patch_stride(uint32_t taps) { return (taps + 15u) & ~15u; }

static inline void zge_patch_run(const uint8_t *from, uint32_t n, zge_patch *to) {
    uint32_t i = 0;
    for (; n >= 16 && i < n; i = i + 32 > n && i + 16 < n ? n - 16 : i + 16) { /* the last 16 once more */
        vst1q_u8(to + i, vld1q_u8(from + i));
    }
    for (; i < n; i++) {
        to[i] = from[i];
    }
}

/* sums [count][apart] of `count` windows (a multiple of 4) and channels c .. c + n - 1. */
static inline void zge_patch_sums(const zge_conv *l, const zge_patch *patches, uint32_t count, uint32_t c, uint32_t n,
                                  uint32_t apart, int32_t *sums) {
    const uint32_t stride = zge_patch_stride(l->taps);
    const uint32_t whole = l->taps & ~15u;
    for (uint32_t r = 0; r < n; r += 4) {
        int8_t tail[4][16];
        const int8_t *w[4];
        memset(tail, 0, sizeof tail);
        for (uint32_t k = 0; k < 4; k++) { /* past the last channel: that one again, never used */
            w[k] = l->weights + (size_t)(c + (r + k < n ? r + k : n - 1)) * l->taps;
            memcpy(tail[k], w[k] + whole, l->taps - whole);
        }
        int32x4_t rest[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (uint32_t i = 0; i < stride; i += 16) {
            for (uint32_t k = 0; k < 4; k++) {
                rest[k] = zge_dot_rest(rest[k], vld1q_s8(i < whole ? w[k] + i : tail[k]), 0);
            }
        }
        for (uint32_t p = 0; p < count; p += 4) {
            const zge_patch *x = patches + (size_t)p * stride;
            int32x4_t acc[16];
            for (uint32_t k = 0; k < 16; k++) {
                acc[k] = rest[k % 4];
            }
            for (uint32_t i = 0; i < stride; i += 16) {
                int8x16_t wi[4];
                for (uint32_t k = 0; k < 4; k++) {
                    wi[k] = vld1q_s8(i < whole ? w[k] + i : tail[k]);
                }
                for (uint32_t k = 0; k < 16; k++) {
                    acc[k] = zge_dot(acc[k], vld1q_u8(x + (size_t)(k / 4) * stride + i), wi[k % 4]);
                }
            }
            for (uint32_t k = 0; k < 4; k++) {
                const int32x4_t all = vpaddq_s32(vpaddq_s32(acc[4 * k], acc[4 * k + 1]),
                                                 vpaddq_s32(acc[4 * k + 2], acc[4 * k + 3]));
                vst1q_s32(sums + (size_t)(p + k) * apart + r, all);
            }
        }
    }
}

#else

/* Convolutions: windows laid out as 16-bit numbers, a whole number of registers each. */
#define ZGE_HAVE_PATCHES 1
typedef int16_t zge_patch;
enum { ZGE_PATCH_VALUES = 4 * ZGE_MAX_TAPS, ZGE_PATCH_TILE = 32 };
static inline uint32_t zge_patch_stride(uint32_t taps) { return (taps + 7u) & ~7u; }

/* n bytes, signed or not, to 16 bits; the last 8 of a longer run once more instead of one by one. */
#define ZGE_WIDEN(name, type, widened)                                                                       \
    static inline void name(const type *from, uint32_t n, int16_t *to) {                                    \
        uint32_t i = 0;                                                                                      \
        for (; n >= 8 && i < n; i = i + 16 > n && i + 8 < n ? n - 8 : i + 8) {                               \
            vst1q_s16(to + i, widened);                                                                      \
        }                                                                                                    \
        for (; i < n; i++) {                                                                                 \
            to[i] = from[i];                                                                                 \
        }                                                                                                    \
    }
ZGE_WIDEN(zge_patch_run, uint8_t, vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from + i))))
ZGE_WIDEN(zge_patch_weights, int8_t, vmovl_s8(vld1_s8(from + i)))

/* sums [count][apart] of `count` windows (a multiple of 4) and channels c .. c + n - 1. */
static inline void zge_patch_sums(const zge_conv *l, const zge_patch *patches, uint32_t count, uint32_t c, uint32_t n,
                                  uint32_t apart, int32_t *sums) {
    const uint32_t stride = zge_patch_stride(l->taps);
    int16_t w[2 * ZGE_MAX_TAPS];
    for (uint32_t r = 0; r < n; r += 2) {
        for (uint32_t k = 0; k < 2; k++) { /* past the last channel: that one again, never used */
            zge_patch_weights(l->weights + (size_t)(c + (r + k < n ? r + k : n - 1)) * l->taps, l->taps,
                              w + k * stride);
            memset(w + k * stride + l->taps, 0, (stride - l->taps) * sizeof *w);
        }
        for (uint32_t p = 0; p < count; p += 4) {
            const zge_patch *x = patches + (size_t)p * stride;
            int32x4_t acc[8];
            for (uint32_t k = 0; k < 8; k++) {
                acc[k] = vdupq_n_s32(0);
            }
            for (uint32_t i = 0; i < stride; i += 8) {
                const int16x8_t w0 = vld1q_s16(w + i);
                const int16x8_t w1 = vld1q_s16(w + stride + i);
                for (uint32_t k = 0; k < 4; k++) {
                    const int16x8_t xi = vld1q_s16(x + (size_t)k * stride + i);
                    acc[k] = vmlal_s16(acc[k], vget_low_s16(xi), vget_low_s16(w0));
                    acc[k] = vmlal_s16(acc[k], vget_high_s16(xi), vget_high_s16(w0));
                    acc[4 + k] = vmlal_s16(acc[4 + k], vget_low_s16(xi), vget_low_s16(w1));
                    acc[4 + k] = vmlal_s16(acc[4 + k], vget_high_s16(xi), vget_high_s16(w1));
                }
            }
            for (uint32_t k = 0; k < 4; k++) {
                sums[(size_t)(p + k) * apart + r] = vaddvq_s32(acc[k]);
                sums[(size_t)(p + k) * apart + r + 1] = vaddvq_s32(acc[4 + k]);
            }
        }
    }
}

#endif

#endif
