/* blake2b.c: BLAKE2b of 16 bytes (RFC 7693). */
#include <string.h>

#include "zgn.h"

static const uint64_t start[8] = {
    0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
    0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u,
};
static const uint8_t order[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t turned(uint64_t v, int by) { return v >> by | v << (64 - by); }

static void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x;
    v[d] = turned(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = turned(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = turned(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = turned(v[b] ^ v[c], 63);
}

static void compress(zgn_blake *b, const uint8_t *block, bool last) {
    uint64_t v[16], w[16];
    for (int i = 0; i < 16; i++) {
        w[i] = 0;
        for (int j = 7; j >= 0; j--) {
            w[i] = w[i] << 8 | block[8 * i + j];
        }
    }
    for (int i = 0; i < 8; i++) {
        v[i] = b->h[i];
        v[i + 8] = start[i];
    }
    v[12] ^= b->count;
    v[14] = last ? ~v[14] : v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *o = order[round % 10];
        mix(v, 0, 4, 8, 12, w[o[0]], w[o[1]]);
        mix(v, 1, 5, 9, 13, w[o[2]], w[o[3]]);
        mix(v, 2, 6, 10, 14, w[o[4]], w[o[5]]);
        mix(v, 3, 7, 11, 15, w[o[6]], w[o[7]]);
        mix(v, 0, 5, 10, 15, w[o[8]], w[o[9]]);
        mix(v, 1, 6, 11, 12, w[o[10]], w[o[11]]);
        mix(v, 2, 7, 8, 13, w[o[12]], w[o[13]]);
        mix(v, 3, 4, 9, 14, w[o[14]], w[o[15]]);
    }
    for (int i = 0; i < 8; i++) {
        b->h[i] ^= v[i] ^ v[i + 8];
    }
}

void zgn_blake_start(zgn_blake *b) {
    memcpy(b->h, start, sizeof start);
    b->h[0] ^= 0x01010000u ^ ZGN_DIGEST;
    b->count = 0;
    b->filled = 0;
}

void zgn_blake_add(zgn_blake *b, const void *data, size_t bytes) {
    const uint8_t *p = data;
    while (bytes > 0) {
        if (b->filled == sizeof b->block) { /* not the last block: more comes */
            b->count += sizeof b->block;
            compress(b, b->block, false);
            b->filled = 0;
        }
        const size_t room = sizeof b->block - b->filled, n = bytes < room ? bytes : room;
        memcpy(b->block + b->filled, p, n);
        b->filled += (uint32_t)n;
        p += n;
        bytes -= n;
    }
}

void zgn_blake_end(zgn_blake *b, uint8_t digest[ZGN_DIGEST]) {
    b->count += b->filled;
    memset(b->block + b->filled, 0, sizeof b->block - b->filled);
    compress(b, b->block, true);
    for (int i = 0; i < ZGN_DIGEST; i++) {
        digest[i] = (uint8_t)(b->h[i / 8] >> 8 * (i % 8));
    }
}

void zgn_digest(const void *data, size_t bytes, uint8_t digest[ZGN_DIGEST]) {
    zgn_blake b;
    zgn_blake_start(&b);
    zgn_blake_add(&b, data, bytes);
    zgn_blake_end(&b, digest);
}
