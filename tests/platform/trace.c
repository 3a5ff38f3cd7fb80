/* trace.c: which bytes of the arena the core reads and writes, exactly.
 *
 * The core is compiled with -fsanitize=thread, which makes gcc call a function before every access to
 * memory; these are those functions. No sanitizer runtime is linked. memcpy and memset are called by
 * other names in that build (see builds.py), so that what they do counts too.
 */
#include <stddef.h>
#include <stdint.h>

enum { MOST = 17 << 20 };
static unsigned char marks[MOST];
static uintptr_t start;
static size_t length;
static unsigned char on_read, on_write;

void hook_region(const void *from, size_t bytes);
void hook_phase(int phase);
const unsigned char *hook_marks(void);
void *traced_memcpy(void *to, const void *from, size_t n);
void *traced_memset(void *to, int byte, size_t n);

void hook_region(const void *from, size_t bytes) {
    start = (uintptr_t)from;
    length = bytes;
}
/* Bits of a mark: read by opening 1, written 2; by predicting 4, 8; by learning 16, 32. */
void hook_phase(int phase) {
    on_read = phase == 0 ? 0 : (unsigned char)(1u << (2 * phase - 2));
    on_write = (unsigned char)(on_read << 1);
}
const unsigned char *hook_marks(void) { return marks; }

static inline void mark(const void *p, size_t n, unsigned char bit) {
    size_t at = (uintptr_t)p - start; /* an address below the arena becomes a huge one */
    for (size_t i = 0; at < length && i < n && at + i < length; i++) {
        marks[at + i] |= bit;
    }
}

void *traced_memcpy(void *to, const void *from, size_t n) {
    mark(from, n, on_read);
    mark(to, n, on_write);
    for (size_t i = 0; i < n; i++) {
        ((volatile unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    }
    return to;
}
void *traced_memset(void *to, int byte, size_t n) {
    mark(to, n, on_write);
    for (size_t i = 0; i < n; i++) {
        ((volatile unsigned char *)to)[i] = (unsigned char)byte;
    }
    return to;
}

#define ACCESS(n)                                                                      \
    void __tsan_read##n(void *p);                                                      \
    void __tsan_write##n(void *p);                                                     \
    void __tsan_unaligned_read##n(void *p);                                            \
    void __tsan_unaligned_write##n(void *p);                                           \
    void __tsan_read##n(void *p) { mark(p, n, on_read); }                              \
    void __tsan_write##n(void *p) { mark(p, n, on_write); }                            \
    void __tsan_unaligned_read##n(void *p) { mark(p, n, on_read); }                    \
    void __tsan_unaligned_write##n(void *p) { mark(p, n, on_write); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_init(void);
void __tsan_read_range(void *p, size_t n) { mark(p, n, on_read); }
void __tsan_write_range(void *p, size_t n) { mark(p, n, on_write); }
void __tsan_func_entry(void *caller) { (void)caller; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}
