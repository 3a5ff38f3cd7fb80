/* json_fuzz.c: gives lines of standard input, each a u32 of its length and its bytes, to the reader of requests, and
 * prints what it made of each. Lines lie in memory of exactly their length, so that a sanitizer sees every step
 * beyond it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zgn.h"

enum { INPUTS = 4 };

static void print_value(const zgn_value *v) {
    printf(" %d%s:", (int)v->kind, v->broken ? "!" : "");
    for (uint32_t i = 0; i < v->bytes && v->kind == ZGN_TEXT; i++) {
        printf("%02x", (unsigned)(unsigned char)v->text[i]);
    }
    if (v->kind == ZGN_WHOLE || v->kind == ZGN_REAL) {
        printf("%a", v->number);
    }
}

int main(void) {
    uint32_t bytes;
    while (fread(&bytes, sizeof bytes, 1, stdin) == 1) {
        char *line = malloc((size_t)bytes + 1);
        float *x = malloc(INPUTS * sizeof *x);
        zgn_request r;
        size_t at;
        if (line == NULL || x == NULL || fread(line, 1, bytes, stdin) != bytes) {
            return 1;
        }
        const zgn_read read = zgn_request_read(&r, line, bytes, x, INPUTS, &at);
        printf("%d %d %u %d", (int)read, r.list, r.values, (int)r.x);
        if (read == ZGN_READ) {
            for (uint32_t i = 0; i < r.values && i < INPUTS && r.x == ZGN_FINE; i++) {
                uint32_t bits;
                memcpy(&bits, &x[i], sizeof bits);
                printf(" %08x", bits);
            }
            printf(" |");
            print_value(&r.op);
            print_value(&r.id);
            print_value(&r.y);
        }
        printf("\n");
        if (at > bytes) {
            return 1;
        }
        free(line);
        free(x);
    }
    return 0;
}
