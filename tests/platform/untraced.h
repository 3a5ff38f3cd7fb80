/* untraced.h: read before zge_arena.c in the traced build. Reading every byte for a checksum, or to see
 * that padding is zero, is no use of it. */
#include <stddef.h>
#include <stdint.h>

uint32_t zge_crc32(uint32_t crc, const uint8_t *p, size_t n) __attribute__((no_sanitize("thread"), noinline));
static int32_t zge_all_zero(const uint8_t *p, size_t n) __attribute__((no_sanitize("thread"), noinline));
