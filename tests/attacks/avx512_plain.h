/* The AVX-512 intrinsics that zge_x86.h calls, in plain C by the pseudocode of Intel's guide, so that the
 * VNNI kernels run, slowly, on a processor without it. Included before zge_kernels.c, which is then compiled
 * for AVX2. A masked load or gather touches what its mask names, as the instruction does. */
#ifndef AVX512_PLAIN_H
#define AVX512_PLAIN_H
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef union lanes {
    __m512i i;
    __m512 f;
    int8_t b[64];
    uint8_t ub[64];
    int16_t w[32];
    uint16_t uw[32];
    int32_t d[16];
    uint32_t ud[16];
    int64_t q[8];
    float s[16];
} lanes;

#define PLAIN static inline __attribute__((unused))
#define EACH(n) for (int j = 0; j < (n); j++)
#define OF_TWO(name, n, expression)                                                                          \
    PLAIN __m512i plain_##name(__m512i va, __m512i vb) {                                                      \
        lanes a = {.i = va}, b = {.i = vb}, r;                                                               \
        EACH(n) { expression; }                                                                              \
        return r.i;                                                                                          \
    }
OF_TWO(add_epi32, 16, r.ud[j] = a.ud[j] + b.ud[j])
OF_TWO(sub_epi32, 16, r.ud[j] = a.ud[j] - b.ud[j])
OF_TWO(mullo_epi32, 16, r.ud[j] = a.ud[j] * b.ud[j])
OF_TWO(and_si512, 16, r.ud[j] = a.ud[j] & b.ud[j])
OF_TWO(xor_si512, 16, r.ud[j] = a.ud[j] ^ b.ud[j])
OF_TWO(max_epi32, 16, r.d[j] = a.d[j] > b.d[j] ? a.d[j] : b.d[j])
OF_TWO(min_epi32, 16, r.d[j] = a.d[j] < b.d[j] ? a.d[j] : b.d[j])
OF_TWO(max_epu32, 16, r.ud[j] = a.ud[j] > b.ud[j] ? a.ud[j] : b.ud[j])
OF_TWO(madd_epi16, 16, r.d[j] = a.w[2 * j] * b.w[2 * j] + a.w[2 * j + 1] * b.w[2 * j + 1])
OF_TWO(permutexvar_epi32, 16, r.d[j] = b.d[a.d[j] & 15])
OF_TWO(permutexvar_epi8, 64, r.b[j] = b.b[a.b[j] & 63])
OF_TWO(unpacklo_epi32, 16, r.d[j] = (j & 1 ? b.d : a.d)[(j & 12) + (j & 3) / 2])
OF_TWO(unpackhi_epi32, 16, r.d[j] = (j & 1 ? b.d : a.d)[(j & 12) + 2 + (j & 3) / 2])
OF_TWO(unpacklo_epi64, 8, r.q[j] = (j & 1 ? b.q : a.q)[j & 6])
OF_TWO(unpackhi_epi64, 8, r.q[j] = (j & 1 ? b.q : a.q)[(j & 6) + 1])
PLAIN __m512i plain_dpbusd_epi32(__m512i src, __m512i va, __m512i vb) {
    lanes r = {.i = src}, a = {.i = va}, b = {.i = vb};
    EACH(64) { r.ud[j / 4] += (uint32_t)((int32_t)a.ub[j] * b.b[j]); }
    return r.i;
}
PLAIN __m512i plain_permutex2var_epi8(__m512i va, __m512i index, __m512i vb) {
    lanes a = {.i = va}, n = {.i = index}, b = {.i = vb}, r;
    EACH(64) { r.b[j] = (n.b[j] & 64 ? b.b : a.b)[n.b[j] & 63]; }
    return r.i;
}
PLAIN __m512i plain_mask2_permutex2var_epi8(__m512i va, __m512i index, __mmask64 k, __m512i vb) {
    lanes n = {.i = index}, r = {.i = plain_permutex2var_epi8(va, index, vb)};
    EACH(64) { r.b[j] = k >> j & 1 ? r.b[j] : n.b[j]; }
    return r.i;
}
PLAIN __m512i plain_shuffle_i32x4(__m512i va, __m512i vb, int k) {
    lanes a = {.i = va}, b = {.i = vb}, r;
    EACH(16) { r.d[j] = (j < 8 ? a.d : b.d)[4 * (k >> (j / 4 * 2) & 3) + j % 4]; }
    return r.i;
}
PLAIN __m512i plain_abs_epi32(__m512i v) {
    lanes a = {.i = v};
    EACH(16) { a.ud[j] = a.d[j] < 0 ? 0u - a.ud[j] : a.ud[j]; }
    return a.i;
}
#define SHIFT(name, n, out, count, limit, all, expression)                                                   \
    PLAIN __m512i plain_##name(__m512i v, count) {                                                            \
        lanes a = {.i = v}, r;                                                                               \
        EACH(n) { r.out[j] = by > (limit) ? (all) : (expression); }                                          \
        return r.i;                                                                                          \
    }
SHIFT(slli_epi32, 16, ud, unsigned by, 31, 0, a.ud[j] << by)
SHIFT(srli_epi32, 16, ud, unsigned by, 31, 0, a.ud[j] >> by)
SHIFT(srli_epi16, 32, uw, unsigned by, 15, 0, (uint16_t)(a.uw[j] >> by))
SHIFT(srai_epi32, 16, d, unsigned by, 31, a.d[j] >> 31, a.d[j] >> by)
PLAIN __m512i plain_srl_epi32(__m512i v, __m128i n) {
    uint64_t by = (uint64_t)_mm_cvtsi128_si64(n);
    return plain_srli_epi32(v, by > 32 ? 32 : (unsigned)by);
}
PLAIN __m512i plain_sra_epi32(__m512i v, __m128i n) {
    uint64_t by = (uint64_t)_mm_cvtsi128_si64(n);
    return plain_srai_epi32(v, by > 32 ? 32 : (unsigned)by);
}
#define FLOATS(name, expression)                                                                             \
    PLAIN __m512 plain_##name(__m512 va, __m512 vb) {                                                         \
        lanes a = {.f = va}, b = {.f = vb}, r;                                                               \
        EACH(16) { r.s[j] = expression; }                                                                    \
        return r.f;                                                                                          \
    }
FLOATS(add_ps, a.s[j] + b.s[j])
FLOATS(sub_ps, a.s[j] - b.s[j])
FLOATS(mul_ps, a.s[j] *b.s[j])
FLOATS(max_ps, a.s[j] > b.s[j] ? a.s[j] : b.s[j])
FLOATS(min_ps, a.s[j] < b.s[j] ? a.s[j] : b.s[j])
PLAIN __m512 plain_cvtepi32_ps(__m512i v) {
    lanes a = {.i = v}, r;
    EACH(16) { r.s[j] = (float)a.d[j]; }
    return r.f;
}
PLAIN __m512i plain_cvttps_epi32(__m512 v) {
    lanes a = {.f = v}, r;
    EACH(16) { r.d[j] = a.s[j] >= -2147483648.0f && a.s[j] < 2147483648.0f ? (int32_t)a.s[j] : INT32_MIN; }
    return r.i;
}
#define WIDEN(name, vector, type, count, out)                                                                \
    PLAIN __m512i plain_##name(vector v) {                                                                    \
        type from[sizeof v / sizeof(type)];                                                                  \
        lanes r;                                                                                             \
        memcpy(from, &v, sizeof v);                                                                          \
        EACH(count) { r.out[j] = from[j]; }                                                                  \
        return r.i;                                                                                          \
    }
WIDEN(cvtepi8_epi16, __m256i, int8_t, 32, w)
WIDEN(cvtepi8_epi32, __m128i, int8_t, 16, d)
WIDEN(cvtepu8_epi32, __m128i, uint8_t, 16, d)
WIDEN(cvtepi16_epi32, __m256i, int16_t, 16, d)
WIDEN(cvtepu16_epi32, __m256i, uint16_t, 16, d)
WIDEN(cvtepu16_epi64, __m128i, uint16_t, 8, q)
#define NARROW(name, vector, type, expression)                                                               \
    PLAIN vector plain_##name(__m512i v) {                                                                    \
        lanes a = {.i = v};                                                                                  \
        type to[16];                                                                                         \
        vector r;                                                                                            \
        EACH(16) { to[j] = (type)(expression); }                                                             \
        memcpy(&r, to, sizeof r);                                                                            \
        return r;                                                                                            \
    }
NARROW(cvtepi32_epi16, __m256i, int16_t, a.d[j])
NARROW(cvtepi32_epi8, __m128i, int8_t, a.d[j])
NARROW(cvtusepi32_epi8, __m128i, uint8_t, a.ud[j] > 255 ? 255 : a.ud[j])
#define SPREAD(name, type, n, out)                                                                           \
    PLAIN __m512i plain_##name(type v) {                                                                      \
        lanes r;                                                                                             \
        EACH(n) { r.out[j] = v; }                                                                            \
        return r.i;                                                                                          \
    }
SPREAD(set1_epi8, int8_t, 64, b)
SPREAD(set1_epi16, int16_t, 32, w)
SPREAD(set1_epi32, int32_t, 16, d)
PLAIN __m512i plain_setzero_si512(void) { return plain_set1_epi32(0); }
PLAIN __m512 plain_set1_ps(float v) {
    lanes r;
    EACH(16) { r.s[j] = v; }
    return r.f;
}
PLAIN __m512 plain_setzero_ps(void) { return plain_set1_ps(0.0f); }
#define plain_set_epi32(...) plain_backwards32((const int32_t[16]){__VA_ARGS__})
PLAIN __m512i plain_backwards32(const int32_t *v) {
    lanes r;
    EACH(16) { r.d[j] = v[15 - j]; }
    return r.i;
}
#define plain_set_epi8(...) plain_backwards8((const int8_t[64]){__VA_ARGS__})
PLAIN __m512i plain_backwards8(const int8_t *v) {
    lanes r;
    EACH(64) { r.b[j] = v[63 - j]; }
    return r.i;
}
PLAIN __m512i plain_castsi128_si512(__m128i v) {
    lanes r;
    memset(&r, 0xa5, sizeof r); /* what is above is undefined */
    memcpy(&r, &v, sizeof v);
    return r.i;
}
PLAIN __m512i plain_castsi256_si512(__m256i v) {
    lanes r;
    memset(&r, 0xa5, sizeof r);
    memcpy(&r, &v, sizeof v);
    return r.i;
}
PLAIN __m128i plain_castsi512_si128(__m512i v) {
    __m128i r;
    memcpy(&r, &v, sizeof r);
    return r;
}
PLAIN __m512i plain_broadcast_i32x4(__m128i v) {
    lanes r;
    EACH(4) { memcpy(&r.d[4 * j], &v, sizeof v); }
    return r.i;
}
PLAIN __m512i plain_inserti32x4(__m512i v, __m128i part, int k) {
    lanes r = {.i = v};
    memcpy(&r.d[4 * (k & 3)], &part, sizeof part);
    return r.i;
}
PLAIN __m512i plain_inserti64x4(__m512i v, __m256i part, int k) {
    lanes r = {.i = v};
    memcpy(&r.q[4 * (k & 1)], &part, sizeof part);
    return r.i;
}
PLAIN __mmask64 plain_cmpeq_epi8_mask(__m512i va, __m512i vb) {
    lanes a = {.i = va}, b = {.i = vb};
    __mmask64 r = 0;
    EACH(64) { r |= (__mmask64)(a.b[j] == b.b[j]) << j; }
    return r;
}
PLAIN __mmask16 plain_cmpgt_epu32_mask(__m512i va, __m512i vb) {
    lanes a = {.i = va}, b = {.i = vb};
    __mmask16 r = 0;
    EACH(16) { r = (__mmask16)(r | (a.ud[j] > b.ud[j]) << j); }
    return r;
}
PLAIN __mmask16 plain_test_epi8_mask(__m128i va, __m128i vb) {
    return (__mmask16)~_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(va, vb), _mm_setzero_si128()));
}
PLAIN int32_t plain_reduce_add_epi32(__m512i v) {
    lanes a = {.i = v};
    uint32_t sum = 0;
    EACH(16) { sum += a.ud[j]; }
    return (int32_t)sum;
}
PLAIN uint32_t plain_reduce_max_epu32(__m512i v) {
    lanes a = {.i = v};
    uint32_t most = 0;
    EACH(16) { most = a.ud[j] > most ? a.ud[j] : most; }
    return most;
}
PLAIN __m512i plain_loadu_si512(const void *p) {
    __m512i r;
    memcpy(&r, p, sizeof r);
    return r;
}
PLAIN __m512 plain_loadu_ps(const void *p) {
    __m512 r;
    memcpy(&r, p, sizeof r);
    return r;
}
PLAIN void plain_storeu_si512(void *p, __m512i v) { memcpy(p, &v, sizeof v); }
PLAIN void plain_mask_storeu_epi8(void *p, __mmask64 k, __m512i v) {
    lanes a = {.i = v};
    EACH(64) {
        if (k >> j & 1) {
            ((int8_t *)p)[j] = a.b[j];
        }
    }
}
#define LOAD(name, vector, type, mask)                                                                       \
    PLAIN vector plain_##name(mask k, const void *p) {                                                        \
        vector r;                                                                                            \
        memset(&r, 0, sizeof r);                                                                             \
        EACH((int)(sizeof r / sizeof(type))) {                                                               \
            if ((uint64_t)k >> j & 1) { /* no other byte is touched */                                       \
                memcpy((uint8_t *)&r + j * sizeof(type), (const uint8_t *)p + j * sizeof(type), sizeof(type)); \
            }                                                                                                \
        }                                                                                                    \
        return r;                                                                                            \
    }
LOAD(maskz_loadu_epi8, __m512i, int8_t, __mmask64)
LOAD(maskz_loadu_epi16, __m512i, int16_t, __mmask32)
LOAD(maskz_loadu_epi32, __m512i, int32_t, __mmask16)
LOAD(maskz_loadu_epi8_128, __m128i, int8_t, __mmask16)
LOAD(maskz_loadu_epi16_128, __m128i, int16_t, __mmask8)
LOAD(maskz_loadu_epi16_256, __m256i, int16_t, __mmask16)
PLAIN __m512i plain_mask_i32gather_epi32(__m512i src, __mmask16 k, __m512i at, const void *p, int scale) {
    lanes r = {.i = src}, n = {.i = at};
    EACH(16) {
        if (k >> j & 1) {
            memcpy(&r.d[j], (const uint8_t *)p + (int64_t)n.d[j] * scale, 4);
        }
    }
    return r.i;
}
PLAIN __m512i plain_i32gather_epi32(__m512i at, const void *p, int scale) {
    return plain_mask_i32gather_epi32(at, 0xffff, at, p, scale);
}
PLAIN __m512i plain_mask_i64gather_epi64(__m512i src, __mmask8 k, __m512i at, const void *p, int scale) {
    lanes r = {.i = src}, n = {.i = at};
    EACH(8) {
        if (k >> j & 1) {
            memcpy(&r.q[j], (const uint8_t *)p + n.q[j] * scale, 8);
        }
    }
    return r.i;
}
#undef _mm512_abs_epi32
#define _mm512_abs_epi32 plain_abs_epi32
#undef _mm512_add_epi32
#define _mm512_add_epi32 plain_add_epi32
#undef _mm512_add_ps
#define _mm512_add_ps plain_add_ps
#undef _mm512_and_si512
#define _mm512_and_si512 plain_and_si512
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 plain_broadcast_i32x4
#undef _mm512_castsi128_si512
#define _mm512_castsi128_si512 plain_castsi128_si512
#undef _mm512_castsi256_si512
#define _mm512_castsi256_si512 plain_castsi256_si512
#undef _mm512_castsi512_si128
#define _mm512_castsi512_si128 plain_castsi512_si128
#undef _mm512_cmpeq_epi8_mask
#define _mm512_cmpeq_epi8_mask plain_cmpeq_epi8_mask
#undef _mm512_cmpgt_epu32_mask
#define _mm512_cmpgt_epu32_mask plain_cmpgt_epu32_mask
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32 plain_cvtepi16_epi32
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 plain_cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 plain_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps plain_cvtepi32_ps
#undef _mm512_cvtepi8_epi16
#define _mm512_cvtepi8_epi16 plain_cvtepi8_epi16
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 plain_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 plain_cvtepu16_epi32
#undef _mm512_cvtepu16_epi64
#define _mm512_cvtepu16_epi64 plain_cvtepu16_epi64
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32 plain_cvttps_epi32
#undef _mm512_cvtusepi32_epi8
#define _mm512_cvtusepi32_epi8 plain_cvtusepi32_epi8
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 plain_dpbusd_epi32
#undef _mm512_i32gather_epi32
#define _mm512_i32gather_epi32 plain_i32gather_epi32
#undef _mm512_inserti32x4
#define _mm512_inserti32x4 plain_inserti32x4
#undef _mm512_inserti64x4
#define _mm512_inserti64x4 plain_inserti64x4
#undef _mm512_loadu_ps
#define _mm512_loadu_ps plain_loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 plain_loadu_si512
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 plain_madd_epi16
#undef _mm512_mask2_permutex2var_epi8
#define _mm512_mask2_permutex2var_epi8 plain_mask2_permutex2var_epi8
#undef _mm512_mask_i32gather_epi32
#define _mm512_mask_i32gather_epi32 plain_mask_i32gather_epi32
#undef _mm512_mask_i64gather_epi64
#define _mm512_mask_i64gather_epi64 plain_mask_i64gather_epi64
#undef _mm512_mask_storeu_epi8
#define _mm512_mask_storeu_epi8 plain_mask_storeu_epi8
#undef _mm512_maskz_loadu_epi16
#define _mm512_maskz_loadu_epi16 plain_maskz_loadu_epi16
#undef _mm512_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi32 plain_maskz_loadu_epi32
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8 plain_maskz_loadu_epi8
#undef _mm512_max_epi32
#define _mm512_max_epi32 plain_max_epi32
#undef _mm512_max_epu32
#define _mm512_max_epu32 plain_max_epu32
#undef _mm512_max_ps
#define _mm512_max_ps plain_max_ps
#undef _mm512_min_epi32
#define _mm512_min_epi32 plain_min_epi32
#undef _mm512_min_ps
#define _mm512_min_ps plain_min_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps plain_mul_ps
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 plain_mullo_epi32
#undef _mm512_permutex2var_epi8
#define _mm512_permutex2var_epi8 plain_permutex2var_epi8
#undef _mm512_permutexvar_epi32
#define _mm512_permutexvar_epi32 plain_permutexvar_epi32
#undef _mm512_permutexvar_epi8
#define _mm512_permutexvar_epi8 plain_permutexvar_epi8
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 plain_reduce_add_epi32
#undef _mm512_reduce_max_epu32
#define _mm512_reduce_max_epu32 plain_reduce_max_epu32
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 plain_set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 plain_set1_epi32
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 plain_set1_epi8
#undef _mm512_set1_ps
#define _mm512_set1_ps plain_set1_ps
#undef _mm512_set_epi32
#define _mm512_set_epi32 plain_set_epi32
#undef _mm512_set_epi8
#define _mm512_set_epi8 plain_set_epi8
#undef _mm512_setzero_ps
#define _mm512_setzero_ps plain_setzero_ps
#undef _mm512_setzero_si512
#define _mm512_setzero_si512 plain_setzero_si512
#undef _mm512_shuffle_i32x4
#define _mm512_shuffle_i32x4 plain_shuffle_i32x4
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 plain_slli_epi32
#undef _mm512_sra_epi32
#define _mm512_sra_epi32 plain_sra_epi32
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 plain_srai_epi32
#undef _mm512_srl_epi32
#define _mm512_srl_epi32 plain_srl_epi32
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 plain_srli_epi16
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 plain_srli_epi32
#undef _mm512_storeu_si512
#define _mm512_storeu_si512 plain_storeu_si512
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 plain_sub_epi32
#undef _mm512_sub_ps
#define _mm512_sub_ps plain_sub_ps
#undef _mm512_unpackhi_epi32
#define _mm512_unpackhi_epi32 plain_unpackhi_epi32
#undef _mm512_unpackhi_epi64
#define _mm512_unpackhi_epi64 plain_unpackhi_epi64
#undef _mm512_unpacklo_epi32
#define _mm512_unpacklo_epi32 plain_unpacklo_epi32
#undef _mm512_unpacklo_epi64
#define _mm512_unpacklo_epi64 plain_unpacklo_epi64
#undef _mm512_xor_si512
#define _mm512_xor_si512 plain_xor_si512
#undef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 plain_maskz_loadu_epi16_256
#undef _mm_maskz_loadu_epi8
#define _mm_maskz_loadu_epi8 plain_maskz_loadu_epi8_128
#undef _mm_maskz_loadu_epi16
#define _mm_maskz_loadu_epi16 plain_maskz_loadu_epi16_128
#undef _mm_test_epi8_mask
#define _mm_test_epi8_mask plain_test_epi8_mask

#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 plain_cvtepu8_epi32
#undef __AVX512VNNI__
#define __AVX512VNNI__ 1
#endif
