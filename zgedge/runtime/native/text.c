/* text.c: errors, numbers, JSON as text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zgn.h"

int zgn_fail(zgn_error *e, int code, const char *hint, const char *format, ...) {
    va_list more;
    va_start(more, format);
    (void)vsnprintf(e->text, sizeof e->text, format, more);
    va_end(more);
    (void)snprintf(e->hint, sizeof e->hint, "%s", hint == NULL ? "" : hint);
    return code;
}

void zgn_put_bytes(zgn_out *out, const char *text, size_t bytes) {
    if (bytes > out->room - out->bytes) {
        out->full = true;
        return;
    }
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
}

void zgn_put(zgn_out *out, const char *format, ...) {
    va_list more;
    va_start(more, format);
    size_t left = out->room - out->bytes;
    int n = vsnprintf(out->text + out->bytes, left, format, more);
    va_end(more);
    if (n < 0 || (size_t)n >= left) {
        out->full = true;
        return;
    }
    out->bytes += (size_t)n;
}

uint32_t zgn_utf8(const uint8_t *text, size_t bytes) {
    if (bytes == 0) {
        return 0;
    }
    const uint8_t c = text[0];
    if (c < 0x80) {
        return 1;
    }
    const uint32_t n = c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (n == 0 || n > bytes) {
        return 0;
    }
    for (uint32_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    const bool longer = (c == 0xe0 && text[1] < 0xa0) || (c == 0xf0 && text[1] < 0x90);
    const bool surrogate = c == 0xed && text[1] >= 0xa0;
    return longer || surrogate || (c == 0xf4 && text[1] >= 0x90) ? 0 : n;
}

size_t zgn_utf8_until(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        const uint32_t n = zgn_utf8(text + at, bytes - at);
        if (n == 0) {
            break;
        }
        at += n;
    }
    return at;
}

void zgn_put_text(zgn_out *out, const char *text, size_t bytes) {
    zgn_put_bytes(out, "\"", 1);
    size_t at = 0;
    while (at < bytes) {
        const uint8_t c = (uint8_t)text[at];
        const uint32_t n = zgn_utf8((const uint8_t *)text + at, bytes - at);
        if (n == 0) {
            zgn_put_bytes(out, "\\ufffd", 6);
            at++;
            continue;
        }
        if (c == '"' || c == '\\') {
            zgn_put_bytes(out, "\\", 1);
        }
        if (c < 0x20 || c == 0x7f) {
            zgn_put(out, "\\u%04x", c);
        } else {
            zgn_put_bytes(out, text + at, n);
        }
        at += n;
    }
    zgn_put_bytes(out, "\"", 1);
}

void zgn_put_string(zgn_out *out, const char *text) {
    if (text == NULL) {
        zgn_put_bytes(out, "null", 4);
    } else {
        zgn_put_text(out, text, strlen(text));
    }
}

void zgn_put_number(zgn_out *out, double value) {
    if (!isfinite(value)) {
        zgn_put_bytes(out, "null", 4);
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    zgn_put_bytes(out, text, strlen(text));
}

void zgn_put_error(zgn_out *out, int code, const zgn_error *e) {
    zgn_put(out, "{\"ok\": false, \"error\": ");
    zgn_put_string(out, e->text);
    zgn_put(out, ", \"hint\": ");
    zgn_put_string(out, e->hint[0] == 0 ? NULL : e->hint);
    zgn_put(out, ", \"exit_code\": %d}", code);
}
