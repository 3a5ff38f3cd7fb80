/* json.c: reads requests, strictly by RFC 8259 and with NaN and infinities as Python's json has them.
 * One pass over the line and one loop: nesting costs a bit a level, not stack. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "zgn.h"

enum { DEEPEST = 512 };

typedef struct reader {
    char *text;
    size_t at, end; /* text[end] is 0 */
} reader;

static void skip_space(reader *r) {
    while (r->at < r->end) {
        const char c = r->text[r->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
            return;
        }
        r->at++;
    }
}

static bool take(reader *r, char c) {
    if (r->at < r->end && r->text[r->at] == c) {
        r->at++;
        return true;
    }
    return false;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool hexadecimal(reader *r, uint32_t *value) {
    if (r->end - r->at < 4) {
        return false;
    }
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        const char c = r->text[r->at + (size_t)i];
        uint32_t digit;
        if (is_digit(c)) {
            digit = (uint32_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (uint32_t)(c - 'a') + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = (uint32_t)(c - 'A') + 10;
        } else {
            return false;
        }
        v = v << 4 | digit;
    }
    r->at += 4;
    *value = v;
    return true;
}

/* Write a character as UTF-8, no longer than the escape that it was. */
static size_t encode(char *to, uint32_t c) {
    uint8_t *out = (uint8_t *)to;
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        out[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 63));
    out[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

/* The character of an escape, behind its backslash. */
static bool escape(reader *r, uint32_t *c, bool *broken) {
    static const char names[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    if (r->at >= r->end) {
        return false;
    }
    const char name = r->text[r->at++];
    const char *found = name == 0 ? NULL : strchr(names, name);
    if (found != NULL) {
        *c = (uint8_t)means[found - names];
        return true;
    }
    if (name != 'u' || !hexadecimal(r, c)) {
        return false;
    }
    if (*c >= 0xd800 && *c < 0xdc00 && r->end - r->at >= 6 && r->text[r->at] == '\\' && r->text[r->at + 1] == 'u') {
        const size_t before = r->at;
        uint32_t low;
        r->at += 2;
        if (!hexadecimal(r, &low)) {
            return false;
        }
        if (low >= 0xdc00 && low < 0xe000) {
            *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
            return true;
        }
        r->at = before;
    }
    *broken = *broken || (*c >= 0xd800 && *c < 0xe000);
    return true;
}

/* A text behind its first quote, decoded where it stands. */
static bool text(reader *r, zgn_value *v) {
    char *to = r->text + r->at;
    v->kind = ZGN_TEXT;
    v->text = to;
    v->broken = false;
    while (r->at < r->end) {
        const char c = r->text[r->at++];
        if (c == '"') {
            v->bytes = (uint32_t)(to - v->text);
            return true;
        }
        if ((uint8_t)c < 0x20) {
            r->at--;
            return false;
        }
        if (c != '\\') {
            *to++ = c;
            continue;
        }
        uint32_t character;
        if (!escape(r, &character, &v->broken)) {
            return false;
        }
        to += encode(to, character);
    }
    return false;
}

/* 10^0 .. 10^22 are exact, so one multiplication or division of a whole number below 2^53 rounds once. */
static const double powers[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static bool number(reader *r, zgn_value *v) {
    const char *start = r->text + r->at, *p = start;
    const bool minus = *p == '-';
    uint64_t whole = 0;
    uint32_t digits = 0; /* that count, of the whole number */
    int32_t scale = 0, exponent = 0;
    p += minus;
    if (!is_digit(*p)) {
        return false;
    }
    if (*p == '0') {
        p++;
    } else {
        for (; is_digit(*p); p++, digits++) {
            whole = digits < 19 ? whole * 10 + (uint64_t)(*p - '0') : whole;
        }
    }
    v->kind = ZGN_WHOLE;
    if (*p == '.') {
        p++;
        if (!is_digit(*p)) {
            r->at = (size_t)(p - r->text);
            return false;
        }
        for (; is_digit(*p); p++) {
            digits += digits != 0 || *p != '0';
            whole = digits <= 19 ? whole * 10 + (uint64_t)(*p - '0') : whole;
            scale--;
        }
        v->kind = ZGN_REAL;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        const bool down = *p == '-';
        p += *p == '-' || *p == '+';
        if (!is_digit(*p)) {
            r->at = (size_t)(p - r->text);
            return false;
        }
        for (; is_digit(*p); p++) {
            exponent = exponent < 100000 ? exponent * 10 + (*p - '0') : exponent;
        }
        exponent = down ? -exponent : exponent;
        v->kind = ZGN_REAL;
    }
    v->text = start;
    v->bytes = (uint32_t)(p - start);
    r->at += v->bytes;
    const int64_t power = (int64_t)scale + exponent;
    if (digits <= 19 && whole < (uint64_t)1 << 53 && power >= -22 && power <= 22) {
        const double d = (double)whole;
        const double found = power < 0 ? d / powers[-power] : d * powers[power];
        v->number = minus ? -found : found;
    } else {
        v->number = strtod(start, NULL);
    }
    return true;
}

static bool word(reader *r, const char *name) {
    const size_t n = strlen(name);
    if (r->end - r->at < n || memcmp(r->text + r->at, name, n) != 0) {
        return false;
    }
    r->at += n;
    return true;
}

/* A value that is no list and no object. */
static bool scalar(reader *r, zgn_value *v) {
    v->text = "";
    v->bytes = 0;
    v->broken = false;
    v->number = 0;
    if (take(r, '"')) {
        return text(r, v);
    }
    if (word(r, "true")) {
        v->kind = ZGN_TRUE;
        v->number = 1;
    } else if (word(r, "false")) {
        v->kind = ZGN_FALSE;
    } else if (word(r, "null")) {
        v->kind = ZGN_NULL;
    } else if (word(r, "NaN")) {
        v->kind = ZGN_REAL;
        v->number = (double)NAN;
    } else if (word(r, "Infinity")) {
        v->kind = ZGN_REAL;
        v->number = (double)INFINITY;
    } else if (word(r, "-Infinity")) {
        v->kind = ZGN_REAL;
        v->number = -(double)INFINITY;
    } else {
        return number(r, v);
    }
    return true;
}

static bool key(reader *r, zgn_value *name) {
    skip_space(r);
    if (!take(r, '"') || !text(r, name)) {
        return false;
    }
    skip_space(r);
    return take(r, ':');
}

/* Any value, of which a list or an object is looked through and forgotten. */
static bool value(reader *r, zgn_value *v) {
    uint8_t objects[DEEPEST / 8] = {0};
    uint32_t depth = 0;
    zgn_value inner, *into = v;
    for (;;) {
        skip_space(r);
        const bool object = r->at < r->end && r->text[r->at] == '{';
        if (object || (r->at < r->end && r->text[r->at] == '[')) {
            if (depth == DEEPEST) {
                return false;
            }
            if (depth == 0) {
                *v = (zgn_value){.kind = ZGN_NESTED, .text = "", .bytes = 1};
                into = &inner;
            }
            const uint8_t bit = (uint8_t)(1u << (depth & 7));
            objects[depth / 8] = (uint8_t)(object ? objects[depth / 8] | bit : objects[depth / 8] & ~bit);
            depth++;
            r->at++;
            skip_space(r);
            if (!take(r, object ? '}' : ']')) {
                if (object && !key(r, &inner)) {
                    return false;
                }
                continue;
            }
            v->bytes = depth == 1 ? 0 : v->bytes;
            depth--;
        } else if (!scalar(r, into)) {
            return false;
        }
        for (;;) { /* behind a value: what is open ends, or goes on */
            if (depth == 0) {
                return true;
            }
            const bool open = objects[(depth - 1) / 8] >> ((depth - 1) & 7) & 1;
            skip_space(r);
            if (take(r, ',')) {
                if (open && !key(r, &inner)) {
                    return false;
                }
                break;
            }
            if (!take(r, open ? '}' : ']')) {
                return false;
            }
            depth--;
        }
    }
}

/* The list of a sample's numbers, behind its bracket. */
static bool numbers(reader *r, zgn_request *q, float *x, uint32_t inputs) {
    q->list = true;
    q->values = 0;
    q->x = ZGN_FINE;
    skip_space(r);
    if (take(r, ']')) {
        return true;
    }
    for (;;) {
        zgn_value v;
        if (!value(r, &v)) {
            return false;
        }
        zgn_numbers is = ZGN_FINE;
        float f = 0;
        if (v.kind == ZGN_TEXT || v.kind == ZGN_NESTED) {
            is = ZGN_NOT_NUMBERS;
        } else if (v.kind == ZGN_WHOLE && !isfinite(v.number)) {
            is = ZGN_NOT_NUMBERS;
        } else {
            f = (float)v.number;
            is = v.kind == ZGN_NULL || !isfinite(f) ? ZGN_NOT_FINITE : ZGN_FINE;
        }
        q->x = is > q->x ? is : q->x;
        if (q->values < inputs) {
            x[q->values] = f;
        }
        q->values++;
        skip_space(r);
        if (take(r, ']')) {
            return true;
        }
        if (!take(r, ',')) {
            return false;
        }
    }
}

static bool named(const zgn_value *v, const char *name) {
    return v->bytes == strlen(name) && memcmp(v->text, name, v->bytes) == 0;
}

static bool member(reader *r, zgn_request *q, float *x, uint32_t inputs) {
    zgn_value name, other;
    if (!key(r, &name)) {
        return false;
    }
    if (named(&name, "x")) {
        skip_space(r);
        if (take(r, '[')) {
            return numbers(r, q, x, inputs);
        }
        q->list = false;
        return value(r, &other);
    }
    zgn_value *into = &other;
    into = named(&name, "op") ? &q->op : into;
    into = named(&name, "id") ? &q->id : into;
    into = named(&name, "y") ? &q->y : into;
    into = named(&name, "do") ? &q->act : into;
    into = named(&name, "history") ? &q->history : into;
    into = named(&name, "watch") ? &q->watch : into;
    into = named(&name, "name") ? &q->name : into;
    return value(r, into);
}

static bool object(reader *r, zgn_request *q, float *x, uint32_t inputs) {
    skip_space(r);
    if (take(r, '}')) {
        return true;
    }
    for (;;) {
        if (!member(r, q, x, inputs)) {
            return false;
        }
        skip_space(r);
        if (take(r, '}')) {
            return true;
        }
        if (!take(r, ',')) {
            return false;
        }
    }
}

zgn_read zgn_request_read(zgn_request *q, char *line, size_t bytes, float *x, uint32_t inputs, size_t *at) {
    memset(q, 0, sizeof *q);
    line[bytes] = 0;
    *at = zgn_utf8_until((const uint8_t *)line, bytes);
    if (*at < bytes) {
        return ZGN_NOT_UTF8;
    }
    reader r = {line, 0, bytes};
    if (bytes >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        r.at = 3;
    }
    skip_space(&r);
    zgn_value other;
    const bool is_object = take(&r, '{');
    bool fine = is_object ? object(&r, q, x, inputs) : value(&r, &other);
    skip_space(&r);
    *at = r.at;
    if (!fine || r.at < r.end) {
        return ZGN_NOT_JSON;
    }
    return is_object ? ZGN_READ : ZGN_NO_OBJECT;
}
