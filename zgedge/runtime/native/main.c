/* main.c: the command line of zgedge-native. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zgn.h"

static const char usage[] =
    "zgedge-native run MODEL [--state DIR] [--socket PATH] [--commit-every SECONDS] [--erase-block SIZE]\n"
    "                  [--queue N] [--freeze] [--metrics-file PATH] [--json]\n"
    "zgedge-native golden MODEL GOLDEN\n"
    "zgedge-native digest MODEL --state DIR GOLDEN\n"
    "zgedge-native ask SOCKET [--timeout SECONDS]\n"
    "zgedge-native version\n";

enum { STATE, SOCKET, COMMIT_EVERY, ERASE_BLOCK, QUEUE, METRICS_FILE, TIMEOUT, OPTIONS };
static const char *const options[OPTIONS] = {"--state", "--socket",       "--commit-every", "--erase-block",
                                             "--queue", "--metrics-file", "--timeout"};

/* The words behind the command. */
typedef struct words {
    const char *plain[2];
    int count;
    const char *values[OPTIONS];
} words;

/* Sort words into options, of which `allowed` has a bit each, and others. */
static int sort_out(words *w, int count, char **given, uint32_t allowed, bool *freeze, bool *json, zgn_error *e) {
    memset(w, 0, sizeof *w);
    for (int i = 0; i < count; i++) {
        const char *word = given[i];
        if (freeze != NULL && strcmp(word, "--freeze") == 0) {
            *freeze = true;
            continue;
        }
        if (json != NULL && strcmp(word, "--json") == 0) {
            *json = true;
            continue;
        }
        if (word[0] != '-' || word[1] == 0) {
            if (w->count == 2) {
                return zgn_fail(e, ZGN_USAGE, NULL, "%s is one word too many.", word);
            }
            w->plain[w->count++] = word;
            continue;
        }
        int which = 0;
        size_t n = 0;
        for (; which < OPTIONS; which++) {
            n = strlen(options[which]);
            if (allowed >> which & 1 && strncmp(word, options[which], n) == 0 && (word[n] == 0 || word[n] == '=')) {
                break;
            }
        }
        if (which == OPTIONS) {
            return zgn_fail(e, ZGN_USAGE, "Look at --help.", "There is no option %s.", word);
        }
        const char *value = word[n] == '=' ? word + n + 1 : i + 1 < count ? given[++i] : NULL;
        if (value == NULL) {
            return zgn_fail(e, ZGN_USAGE, NULL, "%s needs a value.", word);
        }
        w->values[which] = value;
    }
    return ZGN_OK;
}

static int seconds(const char *name, const char *text, double *value, zgn_error *e) {
    char *end;
    if (text == NULL) {
        return ZGN_OK;
    }
    *value = strtod(text, &end);
    if (end == text || *end != 0 || !(*value >= 0)) {
        return zgn_fail(e, ZGN_USAGE, "Take 0 seconds or more.", "%s: %s is no number of seconds.", name, text);
    }
    return ZGN_OK;
}

/* A whole number, and behind it KB or MB where `sizes` says so. */
static int number(const char *name, const char *text, bool sizes, uint32_t most, uint32_t *value, zgn_error *e) {
    if (text == NULL) {
        return ZGN_OK;
    }
    char *unit = NULL;
    const unsigned long long v = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &unit, 10) : 0;
    if (unit == NULL) {
        return zgn_fail(e, ZGN_USAGE, NULL, "%s: %s is no whole number.", name, text);
    }
    const int shift = !sizes ? -1 : strcmp(unit, "KB") == 0 ? 10 : strcmp(unit, "MB") == 0 ? 20 : -1;
    if ((*unit != 0 && shift < 0) || v == 0 || v > most >> (shift > 0 ? shift : 0)) {
        return zgn_fail(e, ZGN_USAGE, NULL, "%s: %s is none of 1 to %u.", name, text, most);
    }
    *value = (uint32_t)(v << (shift > 0 ? shift : 0));
    return ZGN_OK;
}

static int need(const words *w, int count, const char *what, zgn_error *e) {
    return w->count == count ? ZGN_OK : zgn_fail(e, ZGN_USAGE, "Look at --help.", "It needs %s.", what);
}

static int run(int count, char **given, bool *json, zgn_error *e) {
    words w;
    zgn_options o = {.commit_every = 60, .erase = ZGN_ERASE};
    int code = sort_out(&w, count, given, (1u << TIMEOUT) - 1, &o.freeze, &o.json, e);
    *json = o.json;
    code = code == ZGN_OK ? need(&w, 1, "a model file", e) : code;
    code = code == ZGN_OK ? seconds("--commit-every", w.values[COMMIT_EVERY], &o.commit_every, e) : code;
    code = code == ZGN_OK ? number("--erase-block", w.values[ERASE_BLOCK], true, 1u << 30, &o.erase, e) : code;
    code = code == ZGN_OK ? number("--queue", w.values[QUEUE], false, 65536, &o.queue, e) : code;
    o.model = w.plain[0];
    o.state = w.values[STATE];
    o.socket = w.values[SOCKET];
    o.metrics_file = w.values[METRICS_FILE];
    return code == ZGN_OK ? zgn_serve(&o, e) : code;
}

static int golden(int count, char **given, zgn_error *e) {
    words w;
    int code = sort_out(&w, count, given, 0, NULL, NULL, e);
    code = code == ZGN_OK ? need(&w, 2, "a model file and a golden file", e) : code;
    return code == ZGN_OK ? zgn_golden(w.plain[0], w.plain[1], e) : code;
}

static int digest(int count, char **given, zgn_error *e) {
    words w;
    int code = sort_out(&w, count, given, 1u << STATE, NULL, NULL, e);
    code = code == ZGN_OK ? need(&w, 2, "a model file and a golden file", e) : code;
    if (code == ZGN_OK && w.values[STATE] == NULL) {
        code = zgn_fail(e, ZGN_USAGE, NULL, "It needs --state DIR.");
    }
    return code == ZGN_OK ? zgn_state_digest(w.plain[0], w.values[STATE], w.plain[1], e) : code;
}

static int ask(int count, char **given, zgn_error *e) {
    words w;
    double timeout = 10;
    int code = sort_out(&w, count, given, 1u << TIMEOUT, NULL, NULL, e);
    code = code == ZGN_OK ? need(&w, 1, "the path of a socket", e) : code;
    code = code == ZGN_OK ? seconds("--timeout", w.values[TIMEOUT], &timeout, e) : code;
    return code == ZGN_OK ? zgn_ask(w.plain[0], timeout < 1e9 ? timeout : 1e9, e) : code;
}

int main(int count, char **given) {
    zgn_error e = {"", ""};
    const char *command = count > 1 ? given[1] : "";
    bool json = true;
    int code;
    if (strcmp(command, "run") == 0) {
        json = false;
        code = run(count - 2, given + 2, &json, &e);
    } else if (strcmp(command, "golden") == 0) {
        code = golden(count - 2, given + 2, &e);
    } else if (strcmp(command, "digest") == 0) {
        code = digest(count - 2, given + 2, &e);
    } else if (strcmp(command, "ask") == 0) {
        code = ask(count - 2, given + 2, &e);
    } else if (strcmp(command, "version") == 0) {
        code = zgn_version(&e);
    } else if (strcmp(command, "--help") == 0 || strcmp(command, "help") == 0) {
        (void)fputs(usage, stdout);
        return ZGN_OK;
    } else {
        (void)fputs(usage, stderr);
        code = zgn_fail(&e, ZGN_USAGE, "Look at --help.", "There is no command %s.", command);
    }
    if (code != ZGN_OK && e.text[0] != 0) {
        if (json) {
            static char text[8192];
            zgn_out out = {text, 0, sizeof text, false};
            zgn_put_error(&out, code, &e);
            (void)printf("%.*s\n", (int)out.bytes, text);
        } else {
            (void)fprintf(stderr, "Error: %s\n", e.text);
            if (e.hint[0] != 0) {
                (void)fprintf(stderr, "       %s\n", e.hint);
            }
        }
    }
    return code;
}
