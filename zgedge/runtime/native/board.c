/* board.c: what whoever deploys asks of a board, each answer one line of JSON: zgedge/runtime/board.py answers the
 * same in Python, and says what a golden file is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "zge_impl.h"
#include "zgn.h"

enum { HEAD = 32, COVERED = 28, GOLDEN_VERSION = 1, TIMED = 256, GLANCES = 5 };

#if defined(__aarch64__)
static const char machine[] = "aarch64";
#elif defined(__x86_64__)
static const char machine[] = "x86_64";
#elif defined(__arm__)
static const char machine[] = "armv7l";
#else
static const char machine[] = "other";
#endif

static int print(const zgn_out *out, zgn_error *e) {
    size_t done = 0;
    while (done < out->bytes) {
        const ssize_t n = write(STDOUT_FILENO, out->text + done, out->bytes - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return zgn_fail(e, ZGN_FAILED, NULL, "Cannot write the output: %s.", strerror(errno));
        }
        done += (size_t)n;
    }
    return ZGN_OK;
}

int zgn_version(zgn_error *e) {
    char text[300];
    zgn_out out = {text, 0, sizeof text, false};
    const uint32_t v = zge_version();
    zgn_put(&out, "{\"zgedge\": \"%u.%u.%u\", \"runtime\": \"native\", \"machine\": \"%s\", \"variant\": \"%s\", "
                  "\"python\": null}\n",
            v >> 16, v >> 8 & 255, v & 255, machine, zge_variant_current());
    return print(&out, e);
}

/* ---- golden files ---- */

typedef struct golden {
    const uint8_t *data;
    size_t bytes;
    uint32_t samples, inputs, classes, learned, arena;
    const uint8_t *x, *logits, *labels;
} golden;

static int bad_golden(zgn_error *e, const char *hint, const char *path, const char *what) {
    return zgn_fail(e, ZGN_DATA, hint, "%s %s", path, what);
}

static int open_golden(golden *g, const zgn_model *model, const char *path, zgn_error *e) {
    memset(g, 0, sizeof *g);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) != 0) {
        const int error = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return zgn_fail(e, ZGN_DATA, "Check the path.", "Cannot read %s: %s.", path, strerror(error));
    }
    g->bytes = about.st_size > 0 && about.st_size <= (off_t)ZGE_MAX_ARENA ? (size_t)about.st_size : 0;
    void *at = g->bytes >= HEAD ? mmap(NULL, g->bytes, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    (void)close(fd);
    if (at == MAP_FAILED || memcmp(at, "ZGEG", 4) != 0) {
        return bad_golden(e, "`zgedge deploy` writes one.", path, "is no golden file.");
    }
    g->data = at;
    if (zge_get32(g->data + 4) != GOLDEN_VERSION) {
        return bad_golden(e, NULL, path, "is of a version that this zgedge does not read.");
    }
    g->samples = zge_get32(g->data + 8);
    g->inputs = zge_get32(g->data + 12);
    g->classes = zge_get32(g->data + 16);
    g->learned = zge_get32(g->data + 20);
    g->arena = zge_get32(g->data + 24);
    if (g->inputs != model->m.inputs || g->classes != model->m.classes) {
        return zgn_fail(e, ZGN_DATA, "Take the golden file that came with this model.",
                        "%s is for %u inputs and %u classes; %s has %u and %u.", path, g->inputs, g->classes,
                        model->path, model->m.inputs, model->m.classes);
    }
    const uint64_t floats = 4 * (uint64_t)g->samples * g->inputs, integers = 4 * (uint64_t)g->samples * g->classes;
    const uint64_t labels = (2 * (uint64_t)g->samples + 3) / 4 * 4;
    if (g->samples == 0 || g->learned > g->samples || g->bytes != HEAD + floats + integers + labels) {
        return bad_golden(e, "Copy it again, whole.", path, "is cut or longer than it says.");
    }
    if (zge_crc32(zge_crc32(0, g->data, COVERED), g->data + HEAD, g->bytes - HEAD) != zge_get32(g->data + COVERED)) {
        return bad_golden(e, "Copy it again, whole.", path, "is damaged: its checksum differs.");
    }
    g->x = g->data + HEAD;
    g->logits = g->x + floats;
    g->labels = g->logits + integers;
    if (g->learned != 0 && !model->m.learning) {
        return zgn_fail(e, ZGN_DATA, NULL, "%s learns, and %s was written to predict only.", path, model->path);
    }
    for (uint32_t i = 0; i < g->learned; i++) {
        if (zge_get16(g->labels + 2 * (size_t)i) >= model->m.known) {
            return zgn_fail(e, ZGN_DATA, NULL, "%s has a class that %s has not.", path, model->path);
        }
    }
    return ZGN_OK;
}

/* Room for a sample and its logits, for the core's calls. */
static int room_for(const golden *g, float **x, int32_t **logits, uint64_t **times, zgn_error *e) {
    const size_t values = (4 * (size_t)g->inputs + 63) / 64 * 64, answers = (4 * (size_t)g->classes + 63) / 64 * 64;
    uint8_t *at = zgn_map(values + answers + sizeof(uint64_t) * (2 * (size_t)g->samples + TIMED));
    if (at == NULL) {
        return zgn_fail(e, ZGN_FAILED, NULL, "This machine has not enough memory.");
    }
    *x = (float *)(void *)at;
    *logits = (int32_t *)(void *)(at + values);
    *times = (uint64_t *)(void *)(at + values + answers);
    return ZGN_OK;
}

static void take_sample(const golden *g, uint32_t i, float *x) {
    memcpy(x, g->x + 4 * (size_t)g->inputs * i, 4 * (size_t)g->inputs);
}

static int by_size(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile(uint64_t *times, size_t n, double q) {
    qsort(times, n, sizeof *times, by_size);
    return (double)times[(size_t)(q * (double)(n - 1))] / 1000;
}

/* `text` says what differs; null: nothing. */
static void differs(zgn_out *out, const golden *g, const char *text, const char *hint, int64_t sample) {
    zgn_put(out, "{\"ok\": false, \"samples\": %u, \"learned\": %u, \"sample\": ", g->samples, g->learned);
    if (sample < 0) {
        zgn_put(out, "null");
    } else {
        zgn_put(out, "%lld", (long long)sample);
    }
    zgn_put(out, ", \"error\": ");
    zgn_put_string(out, text);
    zgn_put(out, ", \"hint\": ");
    zgn_put_string(out, hint);
    zgn_put(out, ", \"exit_code\": 1}\n");
}

/* Predict and learn what the file holds, and compare every bit; *same says whether all is. */
static int compare(zgn_model *model, const golden *g, zgn_out *out, bool *same, zgn_error *e) {
    float *x = NULL;
    int32_t *logits = NULL;
    uint64_t *times = NULL;
    int code = room_for(g, &x, &logits, &times, e);
    char text[160];
    *same = false;
    if (code != ZGN_OK) {
        return code;
    }
    for (uint32_t i = 0; i < g->samples; i++) {
        take_sample(g, i, x);
        const zge_status status = zge_model_logits_f32(&model->m, x, 1, logits);
        if (status != ZGE_OK) {
            return zgn_model_error(model, status, e);
        }
        for (uint32_t j = 0; j < g->classes; j++) {
            const int32_t want = (int32_t)zge_get32(g->logits + 4 * ((size_t)g->classes * i + j));
            if (logits[j] != want) {
                (void)snprintf(text, sizeof text, "Sample %u differs: logit %u is %d, not %d.", i, j, logits[j], want);
                differs(out, g, text, "This build or processor does not compute as it must: do not use it.", i);
                return ZGN_OK;
            }
        }
    }
    size_t n = 0;
    const uint32_t rounds = (TIMED + g->samples - 1) / g->samples;
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < g->samples; i++) {
            int32_t class;
            uint16_t score;
            take_sample(g, i, x);
            const int64_t since = zgn_now();
            (void)zge_model_predict_f32(&model->m, x, 1, &class, &score);
            times[n++] = (uint64_t)(zgn_now() - since);
        }
    }
    const double p50 = quantile(times, n, 0.5), p99 = quantile(times, n, 0.99);
    for (uint32_t i = 0; i < g->learned; i++) {
        const uint16_t y = zge_get16(g->labels + 2 * (size_t)i);
        int32_t class;
        take_sample(g, i, x);
        const int64_t since = zgn_now();
        const zge_status status = zge_learner_step_f32(&model->m, x, &y, 1, model->m.batch - 1, &class, NULL);
        times[i] = (uint64_t)(zgn_now() - since);
        if (status != ZGE_OK) {
            return zgn_model_error(model, status, e);
        }
    }
    if (g->learned != 0) {
        (void)zge_model_seal(&model->m);
        const uint32_t sealed = zge_crc32(0, model->arena, model->bytes);
        if (sealed != g->arena) {
            (void)snprintf(text, sizeof text,
                           "After learning %u samples the arena has the checksum %08x, not %08x.", g->learned, sealed,
                           g->arena);
            differs(out, g, text, "This build or processor does not learn as it must: do not use it.", -1);
            return ZGN_OK;
        }
    }
    const int statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    *same = true;
    zgn_put(out, "{\"ok\": true, \"samples\": %u, \"learned\": %u, \"p50_us\": ", g->samples, g->learned);
    zgn_put_number(out, p50);
    zgn_put(out, ", \"p99_us\": ");
    zgn_put_number(out, p99);
    zgn_put(out, ", \"learn_p50_us\": ");
    if (g->learned != 0) {
        zgn_put_number(out, quantile(times, g->learned, 0.5));
    } else {
        zgn_put(out, "null");
    }
    zgn_put(out, ", \"rss_bytes\": %llu, \"arena_bytes\": %zu}\n", (unsigned long long)zgn_resident(statm),
            model->bytes);
    (void)close(statm);
    return ZGN_OK;
}

int zgn_golden(const char *path, const char *golden_path, zgn_error *e) {
    static zgn_model model;
    golden g;
    char text[1024];
    zgn_out out = {text, 0, sizeof text, false};
    bool same;
    int code = zgn_model_open(&model, path, e);
    code = code == ZGN_OK ? open_golden(&g, &model, golden_path, e) : code;
    code = code == ZGN_OK ? compare(&model, &g, &out, &same, e) : code;
    if (code != ZGN_OK) {
        return code;
    }
    code = print(&out, e);
    if (code == ZGN_OK && !same) {
        e->text[0] = 0; /* it is said already */
        return ZGN_FAILED;
    }
    return code;
}

/* ---- the learned state ---- */

int zgn_state_digest(const char *path, const char *folder, const char *golden_path, zgn_error *e) {
    static zgn_model model;
    static zgn_store store;
    golden g;
    bool whole = false;
    int code = zgn_model_open(&model, path, e);
    for (int i = 0; code == ZGN_OK && i < GLANCES && !whole; i++) {
        code = zgn_store_peek(&store, folder, &model, &whole, e);
        if (code == ZGN_OK && !whole && strcmp(store.found[0], "empty") == 0 &&
            strcmp(store.found[1], "empty") == 0) {
            break;
        }
        if (code == ZGN_OK && !whole && i + 1 < GLANCES) {
            /* Both may have been rewritten while they were read. */
            const struct timespec moment = {0, 50 * 1000 * 1000};
            (void)nanosleep(&moment, NULL);
        }
    }
    if (code == ZGN_OK && !whole) {
        code = zgn_model_again(&model, e);
    }
    code = code == ZGN_OK ? open_golden(&g, &model, golden_path, e) : code;
    float *x = NULL;
    int32_t *logits = NULL;
    uint64_t *times = NULL;
    code = code == ZGN_OK ? room_for(&g, &x, &logits, &times, e) : code;
    if (code != ZGN_OK) {
        return code;
    }
    const uint32_t state = zge_crc32(0, model.arena, model.bytes);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < g.samples; i++) {
        take_sample(&g, i, x);
        const zge_status status = zge_model_logits_f32(&model.m, x, 1, logits);
        if (status != ZGE_OK) {
            return zgn_model_error(&model, status, e);
        }
        crc = zge_crc32(crc, (const uint8_t *)logits, 4 * (size_t)g.classes);
    }
    char text[200];
    zgn_out out = {text, 0, sizeof text, false};
    if (whole) {
        zgn_put(&out, "{\"from\": \"commit %llu\"", (unsigned long long)store.generation);
    } else {
        zgn_put(&out, "{\"from\": \"the deployed model\"");
    }
    zgn_put(&out, ", \"logits\": \"%08x\", \"state\": \"%08x\"}\n", crc, state);
    return print(&out, e);
}

/* ---- a conversation ---- */

static int no_answer(const char *path, const char *why, zgn_error *e) {
    return zgn_fail(e, ZGN_FAILED, "Look whether it runs.", "No service answers at %s: %s.", path, why);
}

/* Wait for the socket; 0, or what went wrong. */
static const char *wait_for(int fd, short what, int64_t until) {
    for (;;) {
        const int64_t left = until - zgn_now();
        struct pollfd p = {fd, what, 0};
        const int n = left <= 0 ? 0 : poll(&p, 1, left > 3600000000000 ? 3600000 : (int)(left / 1000000 + 1));
        if (n > 0) {
            return NULL;
        }
        if (n == 0 && left <= 0) {
            return "it took too long";
        }
        if (n < 0 && errno != EINTR) {
            return strerror(errno);
        }
    }
}

static const char *send_all(int fd, const char *text, size_t bytes, int64_t until) {
    for (size_t done = 0; done < bytes;) {
        const char *why = wait_for(fd, POLLOUT, until);
        const ssize_t n = why == NULL ? send(fd, text + done, bytes - done, MSG_NOSIGNAL) : -1;
        if (why != NULL) {
            return why;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return strerror(errno);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return NULL;
}

/* Give on what comes until the end of a line. */
static int give_reply(const char *path, int fd, int64_t until, zgn_error *e) {
    char text[16384];
    for (;;) {
        const char *why = wait_for(fd, POLLIN, until);
        const ssize_t n = why == NULL ? recv(fd, text, sizeof text, 0) : -1;
        if (why != NULL) {
            return no_answer(path, why, e);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            return no_answer(path, n == 0 ? "Connection reset by peer" : strerror(errno), e);
        }
        if (n > 0) {
            const zgn_out out = {text, (size_t)n, sizeof text, false};
            const int code = print(&out, e);
            if (code != ZGN_OK || text[n - 1] == '\n') {
                return code;
            }
        }
    }
}

static int converse(const char *path, int fd, int64_t timeout, zgn_error *e) {
    char text[16384];
    bool open = false; /* a line has begun */
    for (;;) {
        ssize_t n = read(STDIN_FILENO, text, sizeof text);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return zgn_fail(e, ZGN_FAILED, NULL, "Cannot read the input: %s.", strerror(errno));
        }
        if (n == 0 && !open) {
            return ZGN_OK;
        }
        const bool last = n == 0;
        if (last) {
            text[n++] = '\n';
        }
        for (size_t at = 0; at < (size_t)n;) {
            const char *end = memchr(text + at, '\n', (size_t)n - at);
            const size_t bytes = end == NULL ? (size_t)n - at : (size_t)(end - text) - at + 1;
            const int64_t until = zgn_now() + timeout;
            const char *why = send_all(fd, text + at, bytes, until);
            if (why != NULL) {
                return no_answer(path, why, e);
            }
            at += bytes;
            open = end == NULL;
            const int code = open ? ZGN_OK : give_reply(path, fd, until, e);
            if (code != ZGN_OK) {
                return code;
            }
        }
        if (last) {
            return ZGN_OK;
        }
    }
}

int zgn_ask(const char *path, double timeout, zgn_error *e) {
    struct sockaddr_un address;
    const uint32_t bytes = zgn_address(&address, path, false);
    if (bytes == 0) {
        return no_answer(path, "its path is too long", e);
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, (socklen_t)bytes) != 0) {
        return no_answer(path, strerror(errno), e);
    }
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    const int code = converse(path, fd, (int64_t)(timeout * 1e9), e);
    (void)close(fd);
    return code;
}
