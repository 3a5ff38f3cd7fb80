/* model.c: a model file in memory, and the names of its classes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zge_impl.h"
#include "zgn.h"

void *zgn_map(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    /* A huge page is 2 MB of memory for the first byte that is touched. */
    (void)madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

static int cannot_read(const char *path, const char *why, const char *hint, zgn_error *e) {
    return zgn_fail(e, ZGN_MODEL, hint, "Cannot read %s: %s.", path, why);
}

static int read_into(zgn_model *model, int fd, zgn_error *e) {
    size_t done = 0;
    while (done < model->bytes) {
        const ssize_t n = read(fd, model->arena + done, model->bytes - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return cannot_read(model->path, strerror(errno), "Check the path.", e);
        }
        if (n == 0) {
            return cannot_read(model->path, "it changed while it was read", "Try again.", e);
        }
        done += (size_t)n;
    }
    return ZGN_OK;
}

int zgn_model_open(zgn_model *model, const char *path, zgn_error *e) {
    memset(model, 0, sizeof *model);
    model->path = path;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return cannot_read(path, strerror(errno), "Check the path.", e);
    }
    struct stat about;
    int code = ZGN_OK;
    if (fstat(fd, &about) != 0) {
        code = cannot_read(path, strerror(errno), "Check the path.", e);
    } else if (!S_ISREG(about.st_mode)) {
        code = cannot_read(path, "it is not a file", "Check the path.", e);
    } else if (about.st_size > (off_t)ZGE_MAX_ARENA) {
        code = zgn_fail(e, ZGN_MODEL, "Check the path.", "%s: %lld bytes are more than a model has.", path,
                        (long long)about.st_size);
    } else {
        model->bytes = (size_t)about.st_size;
        model->arena = zgn_map(model->bytes + 1);
        code = model->arena == NULL
                   ? zgn_fail(e, ZGN_FAILED, NULL, "This machine has not enough memory for %s.", path)
                   : read_into(model, fd, e);
    }
    (void)close(fd);
    if (code == ZGN_OK) {
        zgn_digest(model->arena, model->bytes, model->identity);
        code = zgn_model_check(model, e);
    }
    return code;
}

int zgn_model_again(zgn_model *model, zgn_error *e) {
    const int fd = open(model->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return cannot_read(model->path, strerror(errno), "Check the path.", e);
    }
    int code = read_into(model, fd, e);
    (void)close(fd);
    if (code == ZGN_OK) {
        uint8_t digest[ZGN_DIGEST];
        zgn_digest(model->arena, model->bytes, digest);
        code = memcmp(digest, model->identity, ZGN_DIGEST) == 0
                   ? zgn_model_check(model, e)
                   : cannot_read(model->path, "it changed while it was read", "Try again.", e);
    }
    return code;
}

int zgn_model_error(const zgn_model *model, zge_status status, zgn_error *e) {
    const char *text = zge_status_text(status);
    switch (status) {
    case ZGE_E_INPUT:
    case ZGE_E_LABEL:
    case ZGE_E_NAME:
    case ZGE_E_ID:
        return zgn_fail(e, ZGN_DATA, NULL, "%s: %s.", model->path, text);
    case ZGE_E_NO_LEARNING:
        return zgn_fail(e, ZGN_MODEL, "Train it without --no-learning.", "%s: %s.", model->path, text);
    case ZGE_E_NO_GUARD:
        return zgn_fail(e, ZGN_MODEL,
                        model->m.analytic != NULL
                            ? "Files with an analytic head have no guard: train it with --head softmax."
                            : "Train it on more rows, or to a larger budget: `zgedge train` says why there is no guard.",
                        "%s: %s.", model->path, text);
    default:
        return zgn_fail(e, ZGN_USAGE, NULL, "%s: %s.", model->path, text);
    }
}

/* ---- names ---- */

static const char *name_at(const zgn_model *model, uint32_t at, size_t *bytes) {
    const char *name = (const char *)model->arena + at;
    size_t n = strlen(name); /* the core has seen the zero byte behind every name */
    while (n > 0 && (uint8_t)name[n - 1] == ZGE_NO_NAME) {
        n--; /* room that is left */
    }
    *bytes = n;
    return name;
}

/* Whether a text is a decimal whole number; its digits without leading zeros, and its sign. */
static bool whole(const char *text, size_t bytes, const char **digits, size_t *n, bool *minus) {
    *minus = bytes > 0 && text[0] == '-';
    const char *at = text + *minus;
    size_t left = bytes - *minus;
    for (size_t i = 0; i < left; i++) {
        if (at[i] < '0' || at[i] > '9') {
            return false;
        }
    }
    if (left == 0) {
        return false;
    }
    while (left > 1 && *at == '0') {
        at++;
        left--;
    }
    *minus = *minus && *at != '0';
    *digits = at;
    *n = left;
    return true;
}

static bool same_number(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    const char *x, *y;
    size_t n, k;
    bool minus, less;
    return whole(a, a_bytes, &x, &n, &minus) && whole(b, b_bytes, &y, &k, &less) && n == k && minus == less &&
           memcmp(x, y, n) == 0;
}

static bool same_class(const zgn_model *model, const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return model->integers ? same_number(a, a_bytes, b, b_bytes)
                           : a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

/* What the core leaves to its callers: names are UTF-8, whole numbers where they must be, and no two are the
 * same. The table is of class numbers by their names' hash, for any number of classes that the format has. */
static int check_names(zgn_model *model, zgn_error *e) {
    static uint32_t where[2 * ZGE_MAX_CLASSES]; /* offset of a name, 0: free */
    const uint32_t places = 2 * model->m.known;
    memset(where, 0, sizeof where[0] * places);
    uint32_t at = model->names;
    for (uint32_t i = 0; i < model->m.known; i++) {
        size_t bytes, n;
        const char *name = name_at(model, at, &bytes), *digits = name;
        bool minus = false;
        if (zgn_utf8_until((const uint8_t *)name, bytes) < bytes) {
            return zgn_fail(e, ZGN_MODEL, NULL, "%s: the name of class %u is not UTF-8.", model->path, i);
        }
        n = bytes;
        if (model->integers && !whole(name, bytes, &digits, &n, &minus)) {
            return zgn_fail(e, ZGN_MODEL, NULL, "%s: a class name is not an integer: %.20s.", model->path, name);
        }
        uint32_t slot = zge_mix(zge_crc32(minus, (const uint8_t *)digits, n)) % places;
        for (; where[slot] != 0; slot = (slot + 1) % places) {
            size_t other;
            const char *before = name_at(model, where[slot], &other);
            if (same_class(model, before, other, name, bytes)) {
                return zgn_fail(e, ZGN_MODEL, NULL, "%s: two classes are called '%.40s'.", model->path, name);
            }
        }
        where[slot] = at;
        at += (uint32_t)strlen(name) + 1;
    }
    return ZGN_OK;
}

int zgn_model_check(zgn_model *model, zgn_error *e) {
    zge_fault fault = {ZGE_OK, 0, 0, 0};
    const zge_status status = zge_model_open(&model->m, model->arena, model->bytes, &fault);
    if (status != ZGE_OK) {
        const char *hint = status == ZGE_E_MAGIC      ? "Check the path: a model file is written by `zgedge train`."
                           : status == ZGE_E_VERSION  ? "Install the version of zgedge that wrote it."
                           : status == ZGE_E_SIZE     ? "Copy the file again, whole."
                           : status == ZGE_E_CHECKSUM ? "Copy the file again, or take the last good copy."
                                                      : NULL;
        if (fault.section != 0) {
            return zgn_fail(e, ZGN_MODEL, hint, "%s: %s (section %u, layer %u, byte %u).", model->path,
                            zge_status_text(status), fault.section, fault.layer, fault.offset);
        }
        return zgn_fail(e, ZGN_MODEL, hint, "%s: %s (byte %u).", model->path, zge_status_text(status), fault.offset);
    }
    model->integers = zge_get16(model->m.net + ZGE_N_FLAGS) & 1u;
    model->names = (uint32_t)(model->m.names - model->arena);
    return check_names(model, e);
}

const char *zgn_model_name(const zgn_model *model, int32_t number, size_t *bytes) {
    if (number < 0 || (uint32_t)number >= model->m.known) {
        *bytes = strlen("unknown");
        return "unknown";
    }
    uint32_t at = model->names;
    for (int32_t i = 0; i < number; i++) {
        at += (uint32_t)strlen((const char *)model->arena + at) + 1;
    }
    return name_at(model, at, bytes);
}

void zgn_put_label(zgn_out *out, const zgn_model *model, int32_t number) {
    size_t bytes, n;
    bool minus;
    const char *name = zgn_model_name(model, number, &bytes), *digits;
    if (!model->integers) {
        zgn_put_text(out, name, bytes);
    } else if (whole(name, bytes, &digits, &n, &minus)) {
        zgn_put_bytes(out, "-", minus);
        zgn_put_bytes(out, digits, n);
    } else {
        zgn_put_bytes(out, "-1", 2);
    }
}

int32_t zgn_model_class(const zgn_model *model, const zgn_value *label) {
    const char *text = label->text;
    size_t bytes = label->bytes;
    char written[32];
    if (model->integers && label->kind == ZGN_REAL) { /* 3.0 is the class 3 */
        if (!(fabs(label->number) < 9007199254740992.0) || floor(label->number) != label->number) {
            return -1;
        }
        bytes = (size_t)snprintf(written, sizeof written, "%.0f", label->number);
        text = written;
    }
    uint32_t at = model->names;
    for (uint32_t i = 0; i < model->m.known; i++) {
        size_t n;
        const char *name = name_at(model, at, &n);
        if (same_class(model, name, n, text, bytes)) {
            return (int32_t)i;
        }
        at += (uint32_t)strlen(name) + 1;
    }
    return -1;
}

void zgn_model_classes(const zgn_model *model, zgn_error *e) {
    const uint32_t most = model->m.known < 20 ? model->m.known : 20;
    size_t at = (size_t)snprintf(e->hint, sizeof e->hint, "Its classes are ");
    for (uint32_t i = 0; i < most; i++) {
        size_t bytes;
        const char *name = zgn_model_name(model, (int32_t)i, &bytes);
        /* A comma before the name, and behind it what says that there are more. */
        if (at + 2 + bytes + sizeof ", ...." > sizeof e->hint) {
            at += (size_t)snprintf(e->hint + at, sizeof e->hint - at, "%s...", i == 0 ? "" : ", ");
            break;
        }
        at += (size_t)snprintf(e->hint + at, sizeof e->hint - at, "%s%.*s", i == 0 ? "" : ", ", (int)bytes, name);
    }
    (void)snprintf(e->hint + at, sizeof e->hint - at, ".");
}

int zgn_model_add_class(zgn_model *model, const zgn_value *name, uint32_t *number, zgn_error *e) {
    static const char hint[] =
        "A name has a letter at least, and 24 bytes or the longest one of the training at most.";
    char text[64]; /* a whole number as it is written once and for all */
    const char *of = name->text, *digits;
    size_t bytes = name->bytes, n;
    bool minus = false;
    if (model->integers || name->kind == ZGN_WHOLE) {
        if (!whole(of, bytes, &digits, &n, &minus)) {
            (void)zgn_fail(e, ZGN_DATA, NULL, "The class '%.*s' is no whole number, as those of %s are.",
                           bytes < 40 ? (int)bytes : 40, of, model->path);
            zgn_model_classes(model, e);
            return ZGN_DATA;
        }
        if (n + minus <= sizeof text) {
            text[0] = '-';
            memcpy(text + minus, digits, n);
            of = text;
            bytes = n + minus;
        }
    }
    bool taken = model->integers ? bytes == 2 && memcmp(of, "-1", 2) == 0
                                 : bytes == strlen("unknown") && memcmp(of, "unknown", bytes) == 0;
    for (uint32_t i = 0; i < model->m.known && !taken; i++) {
        const char *other = zgn_model_name(model, (int32_t)i, &n);
        taken = same_class(model, other, n, of, bytes);
    }
    if (taken) {
        (void)zgn_fail(e, ZGN_DATA, NULL, "A class of %s is called '%.*s' already.", model->path,
                       bytes < 40 ? (int)bytes : 40, of);
        zgn_model_classes(model, e);
        return ZGN_DATA;
    }
    if (model->m.known == model->m.classes) {
        return zgn_fail(e, ZGN_USAGE, "Train it with --spare-classes N.",
                        "%s has room for %u classes, and all have a name.", model->path, model->m.classes);
    }
    if (name->broken) {
        return zgn_fail(e, ZGN_DATA, hint, "The class is no text.");
    }
    const zge_status status = zge_learner_add_class(&model->m, of, (uint32_t)bytes, number);
    if (status != ZGE_OK) {
        return zgn_fail(e, status == ZGE_E_NAME ? ZGN_DATA : ZGN_USAGE, hint, "%s: the class '%.*s': %s.", model->path,
                        bytes < 40 ? (int)bytes : 40, of, zge_status_text(status));
    }
    return ZGN_OK;
}

/* ---- what the arena knows ---- */

const uint8_t *zgn_model_section(const zgn_model *model, uint32_t kind, uint32_t *bytes) {
    const uint32_t sections = zge_get16(model->arena + ZGE_H_SECTIONS);
    for (uint32_t i = 0; i < sections; i++) {
        const uint8_t *entry = model->arena + ZGE_H_SIZE + (size_t)i * ZGE_T_SIZE;
        if (zge_get16(entry) == kind) {
            *bytes = zge_get32(entry + ZGE_T_BYTES);
            return *bytes == 0 ? NULL : model->arena + zge_get32(entry + ZGE_T_OFFSET);
        }
    }
    *bytes = 0;
    return NULL;
}

uint64_t zgn_model_steps(const zgn_model *model) {
    return model->m.learning ? zge_get64(model->m.learner + ZGE_K_STEP) : 0;
}

bool zgn_model_guarded(const zgn_model *model) {
    return model->m.learning && model->m.watch != NULL && model->m.anchors != 0 &&
           zge_get32(model->m.anchor_head + ZGE_G_FILLED) >= ZGE_G_FEWEST;
}
