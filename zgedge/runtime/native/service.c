/* service.c: the service of docs/service.md. One loop: in each turn it answers what was asked, learns one sample
 * and writes one piece of a commit, so a prediction waits for one tick at most. Samples are learned in the order
 * in which they arrived. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "zge_impl.h"
#include "zgn.h"

#define SECOND ((int64_t)1000000000)
#define SAME_EVENT (60 * SECOND) /* in which a kind of event is logged once */
#define METRICS_EVERY (10 * SECOND)
#define QUIET (10 * SECOND) /* without anything learned, after which no state is waited for any more */

enum {
    CLIENTS = 16,        /* at most, */
    FEWEST = 2,          /* and at least, where lines are long: */
    CLIENT_BYTES = 8 << 20, /* all that they may take together */
    REQUESTS = 16,       /* of a client between two ticks */
    UNREAD = 64 * 1024,  /* bytes of replies beyond which no more requests are read */
    REPLY = 56 * 1024,   /* bytes of a reply, besides the name of a class */
    CHUNK = 16 * 1024,   /* bytes that are read at once */
    LINE = 64 * 1024,    /* bytes that any line may have; not less than CHUNK, so that what is left of a line fits */
    QUEUE_BYTES = 1 << 20,
    QUEUE_MOST = 1024,
    QUEUE_KEPT = 16 * 1024, /* bytes of the queue that stay touched after a flood */
    EVENTS = 20,            /* in a status */
    LOGGED = 100,           /* events that are remembered not to be logged again */
    IDS = 64,               /* texts of ids that are remembered, to name one in an event, */
    ID_TEXT = 40,           /* and bytes of one */
};

enum { CONFIRMED = 2, ACCEPTED = 1, ROLLED_BACK = 2 };

/* Why a request or a label is refused. */
typedef enum why {
    NOT_JSON, NOT_UTF8, TOO_LONG, REQUEST, WIDTH, NOT_NUMBERS, NOT_FINITE, LABEL, ID, UNKNOWN_ID, FROZEN, CLASS, OTHER, WHYS
} why;
static const char *const whys[WHYS] = {"not JSON",   "not UTF-8", "too long", "request",    "width",  "not numbers",
                                       "not finite", "label",     "id",       "unknown id", "frozen",
                                       "class",      "other"};

typedef struct client {
    int fd; /* -1: free */
    char *in, *out;
    size_t at, end; /* of what was read and is no request yet */
    size_t sent, replied;
    bool skip, gone, waiting;
} client;

typedef struct logged {
    uint64_t what;
    int64_t when;
} logged;

typedef struct id_text {
    uint64_t key;
    char text[ID_TEXT + 1]; /* empty: none */
} id_text;

/* A sample that waits is its class, and its values or the id that it is kept under. */
typedef struct queue {
    float *x; /* [room][inputs] */
    uint64_t *key;
    uint16_t *y;
    bool *held;
    uint32_t room, first, count, deepest;
    uint64_t dropped;
} queue;

static struct service {
    const zgn_options *options;
    zgn_model model;
    zgn_store store;
    bool kept; /* there is a store */
    zgn_notify notify;
    queue queue;
    float *x; /* [inputs] of the request */
    uint32_t inputs;
    uint16_t score; /* of the last prediction, of 32,768 */
    size_t limit; /* bytes of a line */
    size_t room;  /* bytes of a client's replies */
    client clients[CLIENTS];
    uint32_t count, most; /* clients */
    int listener, statm, wake[2];
    ino_t inode;
    char socket[sizeof ((struct sockaddr_un *)0)->sun_path];
    char state[4096];
    char from[40];
    const char *stopping;
    bool learning, frozen, watched, guarded, accepted, dirty, failing;
    /* When the first and the last of what no commit has yet was learned, and the first of what the commit under
     * way has; 0: there is nothing. */
    int64_t owed, learned_at, owing;
    uint64_t begun, safe; /* samples learned, at the start of a commit and on the disk */
    id_text ids[IDS];
    uint64_t scored; /* of the samples: not learned, because learning was frozen */
    uint64_t predictions, samples, correct, rewired, drifts, dropped, refused[WHYS], before[4];
    uint64_t rss, rss_first, rss_most;
    int64_t started, next_second, metrics_at;
    char metrics_failure[300];
    char last_refused[160]; /* where it was, and why */
    zgn_rolling rolling;
    zgn_times times;
    zgn_history history;
    logged logged[LOGGED + 1];
    uint32_t logs;
} it;

static volatile sig_atomic_t signalled;

static void stopped(int number) {
    const int error = errno;
    signalled = number;
    const ssize_t n = write(it.wake[1], "", 1);
    (void)n; /* full: the loop is awake */
    errno = error;
}

/* ---- events ---- */

/* Once a minute for what it is about. */
static void event_about(int kind, const char *about, const char *text, uint64_t value) {
    if (!it.kept) {
        return;
    }
    uint64_t what = 0xcbf29ce484222325u ^ (uint64_t)kind;
    for (const char *c = about; *c != 0; c++) {
        what = (what ^ (uint8_t)*c) * 0x100000001b3u;
    }
    const int64_t now = zgn_now();
    uint32_t i = 0;
    while (i < it.logs && it.logged[i].what != what) {
        i++;
    }
    if (i < it.logs && now - it.logged[i].when < SAME_EVENT) {
        return;
    }
    if (i == it.logs) {
        i = it.logs > LOGGED ? 0 : it.logs;
        it.logs = i + 1;
    }
    it.logged[i] = (logged){what, now};
    zgn_log_add(&it.store.log, kind, text, zgn_model_steps(&it.model), (int64_t)value);
}

static void event(int kind, const char *text, uint64_t value) { event_about(kind, text, text, value); }

static void refuse(why reason, const char *where, const char *text) {
    it.refused[reason]++;
    (void)snprintf(it.last_refused, sizeof it.last_refused, "%.20s: %.120s", where, text);
    /* One fault that comes all the time hides no other. */
    event_about(ZGN_BAD_INPUT, whys[reason], it.last_refused, it.refused[reason]);
}

static void drifted(uint32_t drift) {
    it.drifts += drift == CONFIRMED;
    event(ZGN_DRIFT, drift == CONFIRMED ? "confirmed" : "a warning", 0);
}

/* ---- samples that wait ---- */

static uint32_t next_place(uint32_t number) {
    queue *q = &it.queue;
    if (q->count == q->room) {
        q->first = (q->first + 1) % q->room;
        q->count--;
        q->dropped++;
    }
    const uint32_t at = (q->first + q->count) % q->room;
    q->y[at] = (uint16_t)number;
    q->count++;
    q->deepest = at + 1 > q->deepest ? at + 1 : q->deepest;
    return at;
}

/* An empty queue begins at its start again, so that it touches no more memory than its longest wait needed; after
 * a flood that goes back to the system. */
static void rest(void) {
    queue *q = &it.queue;
    q->first = 0;
    const size_t touched = sizeof(float) * it.inputs * q->deepest;
    if (touched > QUEUE_KEPT) {
        (void)madvise((char *)q->x + QUEUE_KEPT, touched - QUEUE_KEPT, MADV_DONTNEED);
    }
    q->deepest = 0;
}

/* An id is remembered as it was given, where that was a text. */
static void name_id(uint64_t key, const zgn_value *id) {
    id_text *place = &it.ids[key % IDS];
    place->key = key;
    const size_t bytes = id->kind != ZGN_TEXT ? 0 : id->bytes < ID_TEXT ? id->bytes : ID_TEXT;
    const size_t whole = zgn_utf8_until((const uint8_t *)id->text, bytes);
    memcpy(place->text, id->text, whole);
    place->text[whole] = 0;
}

/* ---- ticks ---- */

/* Something was learned, or decided, that is not to be lost. */
static void changed(void) {
    it.dirty = true;
    it.learned_at = zgn_now();
    it.owed = it.owed == 0 ? it.learned_at : it.owed;
}

static void learned(uint32_t right) {
    it.samples++;
    it.correct += right;
    zgn_rolling_add(&it.rolling, right);
}

static void tick(void) {
    queue *q = &it.queue;
    const uint32_t at = q->first;
    q->first = (at + 1) % q->room;
    q->count--;
    zge_model *m = &it.model.m;
    const uint16_t y = q->y[at];
    const float *x = q->x + (size_t)at * it.inputs;
    int32_t was = -1;
    if (it.frozen) {
        if (q->held[at]) {
            refuse(FROZEN, "an id", "A label came while learning is frozen.");
        } else {
            (void)zge_model_predict_f32(m, x, 1, &was, NULL);
            it.scored++;
            learned(was == (int32_t)y);
        }
    } else {
        zge_tick told;
        memset(&told, 0, sizeof told);
        const zge_status status = q->held[at]
                                      ? zge_learner_settle(m, q->key[at], y, m->batch - 1, &was, &told)
                                      : zge_learner_step_f32(m, x, &y, 1, m->batch - 1, &was, &told);
        it.dirty = true; /* an id that is not there is counted */
        if (status != ZGE_OK) {
            const uint64_t key = q->key[at];
            const id_text *known = &it.ids[key % IDS];
            char text[100];
            if (known->key == key && known->text[0] != 0) {
                (void)snprintf(text, sizeof text, "No sample with the id \"%s\" waits for its label.", known->text);
            } else {
                (void)snprintf(text, sizeof text, "No sample with the id %llu waits for its label.",
                               (unsigned long long)key);
            }
            refuse(status == ZGE_E_ID ? UNKNOWN_ID : OTHER, "a label",
                   status == ZGE_E_ID ? text : zge_status_text(status));
        } else {
            changed();
            it.rewired += told.rewired;
            it.accepted = told.guard == ACCEPTED;
            if (told.guard == ROLLED_BACK) {
                event(ZGN_ROLLED_BACK, "the anchors saw it become worse", 0);
            }
            if (told.drift != 0) {
                drifted(told.drift);
            }
            learned(told.correct);
        }
    }
    if (q->count == 0) {
        rest();
    }
}

/* ---- keeping what was learned ---- */

/* Whether what was learned is to be kept as it is, as at a clean stop: for a whole interval no accepted state came
 * when one could have been committed, or nothing more is learned, and so nothing accepted. The state accepted last
 * lies in the arena, to go back to. */
static bool late(void) {
    if (it.owed == 0) {
        return false;
    }
    const int64_t now = zgn_now();
    const double most = 2e9 * it.store.interval;
    return now - it.learned_at >= QUIET ||
           (double)(now - it.owed) >= (most > (double)QUIET ? most : (double)QUIET);
}

/* Whether to begin a commit: it is time, and where a guard judges it has accepted the state as it is now, or was
 * waited for long enough. */
static bool due(void) {
    return it.kept && it.dirty && (it.accepted || !it.guarded || late()) && zgn_store_due(&it.store);
}

static void kept(void) {
    const bool failing = it.store.failure[0] != 0;
    if (failing) {
        it.dirty = true;
        it.owed = it.owing == 0 ? it.owed : it.owing;
    } else {
        it.safe = it.begun;
    }
    if (failing && !it.failing) {
        event(ZGN_COMMIT_FAILED, it.store.failure, 0);
    } else if (it.failing && !failing) {
        char text[60];
        (void)snprintf(text, sizeof text, "commit %llu, after failures", (unsigned long long)it.store.generation);
        event(ZGN_COMMITTED, text, 0);
    }
    it.failing = failing;
}

static void begin(void) {
    (void)zge_model_seal(&it.model.m);
    it.dirty = false;
    it.owing = it.owed;
    it.owed = 0;
    it.begun = it.samples - it.scored;
    zgn_store_begin(&it.store);
    if (!it.store.busy) {
        kept();
    }
}

static void keep(void) {
    if (it.store.busy) {
        if (!zgn_store_step(&it.store, false)) {
            kept();
        }
    } else if (due()) {
        begin();
    }
}

static void commit(void) {
    if (it.store.busy) {
        zgn_store_finish(&it.store);
        kept();
    }
    if (it.dirty) {
        begin();
        if (it.store.busy) {
            zgn_store_finish(&it.store);
            kept();
        }
    }
}

/* Commit what a person has decided: that is rare, and no tick may come to commit it. */
static void keep_now(bool anything) {
    if (anything) {
        changed();
    }
    commit();
}

/* ---- status ---- */

static void put_time(zgn_out *out, const char *name, double q) {
    zgn_put(out, ", \"%s\": ", name);
    const zgn_times *t = &it.times;
    zgn_put_number(out, t->count == 0 ? (double)NAN : (double)(q < 0 ? t->longest : zgn_times_quantile(t, q)) / 1000);
}

static const char *learning(void) { return !it.learning ? "never" : it.frozen ? "frozen" : "on"; }

static double uptime(void) { return (double)(zgn_now() - it.started) / 1e9; }

static double accuracy(void) {
    return it.rolling.count == 0 ? (double)NAN : (double)it.rolling.right / it.rolling.count;
}

/* The keys of a status without the braces around them. */
static void put_status(zgn_out *out, bool history) {
    const zgn_model *model = &it.model;
    const uint32_t budget = zge_get32(model->m.net + ZGE_N_BUDGET);
    zgn_put(out, "\"model\": ");
    zgn_put_string(out, model->path);
    zgn_put(out, ", \"bytes\": %zu, \"budget\": ", model->bytes);
    zgn_put_number(out, budget == 0 ? (double)NAN : budget);
    zgn_put(out, ", \"started_from\": \"%s\", \"uptime\": %.3f, \"learning\": \"%s\"", it.from, uptime(), learning());
    zgn_put(out, ", \"predictions\": %llu, \"samples\": %llu, \"scored\": %llu, \"uncommitted\": ",
            (unsigned long long)it.predictions, (unsigned long long)it.samples, (unsigned long long)it.scored);
    if (it.kept) {
        zgn_put(out, "%llu", (unsigned long long)(it.samples - it.scored - it.safe));
    } else {
        zgn_put(out, "null");
    }
    zgn_put(out, ", \"correct\": %llu, \"drifts\": %llu, \"accuracy\": ", (unsigned long long)it.correct,
            (unsigned long long)it.drifts);
    zgn_put_number(out, accuracy());
    zgn_put(out, ", \"window\": %u, \"refused\": {", it.rolling.count);
    bool first = true;
    for (int i = 0; i < WHYS; i++) {
        if (it.refused[i] != 0) {
            zgn_put(out, "%s\"%s\": %llu", first ? "" : ", ", whys[i], (unsigned long long)it.refused[i]);
            first = false;
        }
    }
    zgn_put(out, "}, \"last_refused\": ");
    zgn_put_string(out, it.last_refused[0] == 0 ? NULL : it.last_refused);
    zgn_put(out, ", \"queue\": {\"waiting\": %u, \"room\": %u, \"dropped\": %llu}", it.queue.count, it.queue.room,
            (unsigned long long)it.queue.dropped);
    zgn_put(out, ", \"ticks\": {\"count\": %llu", (unsigned long long)it.times.count);
    put_time(out, "p50", 0.5);
    put_time(out, "p99", 0.99);
    put_time(out, "p999", 0.999);
    put_time(out, "longest", -1);
    zgn_put(out, "}, \"memory\": {\"rss\": %llu, \"first\": %llu, \"most\": %llu}, \"learner\": ",
            (unsigned long long)it.rss, (unsigned long long)it.rss_first, (unsigned long long)it.rss_most);
    zgn_put_learner(out, model);
    zgn_put(out, ", \"store\": ");
    if (it.kept) {
        zgn_put_store(out, &it.store);
    } else {
        zgn_put(out, "null");
    }
    zgn_put(out, ", \"clients\": %u, \"sources\": [], \"metrics_failure\": ", it.count);
    zgn_put_string(out, it.metrics_failure[0] == 0 ? NULL : it.metrics_failure);
    zgn_put(out, ", \"events\": ");
    if (it.kept) {
        zgn_put_events(out, &it.store.log, EVENTS);
    } else {
        zgn_put(out, "[]");
    }
    if (history) {
        zgn_put(out, ", \"history\": ");
        zgn_put_history(out, &it.history);
    }
}

/* ---- metrics, in Prometheus' text form 0.0.4 ---- */

static void about(zgn_out *out, const char *name, const char *kind, const char *text) {
    zgn_put(out, "# HELP zgedge_%s %s\n# TYPE zgedge_%s %s\n", name, text, name, kind);
}

static void metric(zgn_out *out, const char *name, const char *kind, const char *text, double value) {
    if (isnan(value)) {
        return;
    }
    about(out, name, kind, text);
    zgn_put(out, "zgedge_%s ", name);
    zgn_put_number(out, value);
    zgn_put(out, "\n");
}

static void put_metrics(zgn_out *out) {
    const zge_model *m = &it.model.m;
    metric(out, "up_seconds", "gauge", "Time since the service started.", uptime());
    metric(out, "predictions_total", "counter", "Samples predicted without a label.", (double)it.predictions);
    metric(out, "samples_total", "counter", "Labelled samples learned or scored.", (double)it.samples);
    metric(out, "correct_total", "counter", "Of those, predicted rightly beforehand.", (double)it.correct);
    metric(out, "accuracy", "gauge", "Share of the last 1000 labelled samples.", accuracy());
    bool first = true;
    for (int i = 0; i < WHYS; i++) {
        if (it.refused[i] != 0) {
            if (first) {
                about(out, "refused_total", "counter", "Rows and requests that could not be used.");
            }
            first = false;
            zgn_put(out, "zgedge_refused_total{why=\"%s\"} %llu\n", whys[i], (unsigned long long)it.refused[i]);
        }
    }
    metric(out, "dropped_total", "counter", "Learning samples dropped in a flood.", (double)it.queue.dropped);
    metric(out, "queue", "gauge", "Learning samples that wait.", it.queue.count);
    metric(out, "learning", "gauge", "1 while it learns, 0 while frozen.", it.learning && !it.frozen);
    if (it.learning) {
        metric(out, "steps_total", "counter", "Learning steps of this model.", (double)zgn_model_steps(&it.model));
        metric(out, "rewired_total", "counter", "Connections replaced.", (double)zge_get64(m->learner + ZGE_K_REWIRED));
        if (m->watch != NULL) {
            metric(out, "drift_total", "counter", "Drifts confirmed.",
                   (double)zge_get64(m->watch + ZGE_W_CONFIRMED));
            metric(out, "epoch", "gauge", "Epoch of the anchors.", zge_get32(m->watch + ZGE_W_EPOCH));
            metric(out, "guard", "gauge", "1 while a guard judges what is learned.", zgn_model_guarded(&it.model));
            metric(out, "accepted_total", "counter", "States that the guard accepted.",
                   (double)zge_get64(m->watch + ZGE_W_ACCEPTED));
            metric(out, "rolled_back_total", "counter", "States that were taken back.",
                   (double)zge_get64(m->watch + ZGE_W_ROLLED_BACK));
        }
    }
    if (it.times.count != 0) {
        static const struct {
            const char *name;
            double q;
        } quantiles[4] = {{"0.5", 0.5}, {"0.99", 0.99}, {"0.999", 0.999}, {"1", -1}};
        about(out, "tick_seconds", "gauge", "Duration of a tick.");
        for (int i = 0; i < 4; i++) {
            const double q = quantiles[i].q;
            zgn_put(out, "zgedge_tick_seconds{quantile=\"%s\"} ", quantiles[i].name);
            zgn_put_number(out, (double)(q < 0 ? it.times.longest : zgn_times_quantile(&it.times, q)) / 1e9);
            zgn_put(out, "\n");
        }
    }
    metric(out, "resident_bytes", "gauge", "Memory of the process.", (double)it.rss);
    metric(out, "arena_bytes", "gauge", "The model, all of it.", (double)it.model.bytes);
    if (it.kept) {
        const zgn_store *s = &it.store;
        metric(out, "commits_total", "counter", "States written to disk.", (double)s->wear.commits);
        metric(out, "written_bytes_total", "counter", "Bytes written to the state's folder.",
               (double)(s->wear.written + ZGN_PAGE * (s->log.pages - s->counted)));
        metric(out, "commit_age_seconds", "gauge", "Time since the last commit.",
               s->last < 0 ? (double)NAN : (double)(zgn_now() - s->last) / 1e9);
        metric(out, "store_failing", "gauge", "1 while the state cannot be written.", s->failure[0] != 0);
    }
}

/* Replace the file at once, so that nobody reads half of it. */
static void write_metrics(const char *path) {
    static char text[8192];
    char new[4096];
    zgn_out out = {text, 0, sizeof text, false};
    put_metrics(&out);
    int error = ENAMETOOLONG;
    const int n = snprintf(new, sizeof new, "%s.%d", path, (int)getpid());
    if (n > 0 && (size_t)n < sizeof new) {
        const int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        error = fd < 0 ? errno : 0;
        if (fd >= 0) {
            const ssize_t done = write(fd, out.text, out.bytes);
            error = done == (ssize_t)out.bytes ? 0 : done < 0 ? errno : ENOSPC;
            error = close(fd) != 0 && error == 0 ? errno : error;
            error = error == 0 && rename(new, path) != 0 ? errno : error;
            if (error != 0) {
                (void)unlink(new);
            }
        }
    }
    it.metrics_failure[0] = 0;
    if (error != 0) {
        (void)snprintf(it.metrics_failure, sizeof it.metrics_failure, "Metrics are not written to %s: %s.", path,
                       strerror(error));
    }
}

/* ---- requests ---- */

/* What came of a request: 0, or an exit code with its text; `reason` counts what is the client's own fault. */
typedef struct answer {
    int code;
    why reason;
    bool counted;
    zgn_error error;
} answer;

static int fault(answer *a, why reason, const char *format, ...) ZGN_FORMAT(3);
static int fault(answer *a, why reason, const char *format, ...) {
    va_list more;
    va_start(more, format);
    (void)vsnprintf(a->error.text, sizeof a->error.text, format, more);
    va_end(more);
    a->error.hint[0] = 0;
    a->reason = reason;
    a->counted = true;
    return a->code = ZGN_DATA;
}

static int predicts_only(answer *a) {
    return a->code = zgn_fail(&a->error, ZGN_MODEL, NULL, "%s was written to predict only.", it.model.path);
}

static int sample(answer *a, const zgn_request *r) {
    if (!r->list) {
        return fault(a, WIDTH, "no list of values; the model takes %u.", it.inputs);
    }
    if (r->values != it.inputs) {
        return fault(a, WIDTH, "%u values; the model takes %u.", r->values, it.inputs);
    }
    if (r->x == ZGN_NOT_NUMBERS) {
        return fault(a, NOT_NUMBERS, "The values are not all numbers.");
    }
    if (r->x == ZGN_NOT_FINITE) {
        return fault(a, NOT_FINITE, "A value is NaN, infinite or too large.");
    }
    return ZGN_OK;
}

static int class_of(answer *a, const zgn_value *y, uint32_t *number) {
    if (y->kind != ZGN_TEXT && y->kind != ZGN_WHOLE && y->kind != ZGN_REAL) {
        return fault(a, LABEL, "%s is no label.",
                     y->kind == ZGN_NESTED ? "A list or an object"
                     : y->kind == ZGN_TRUE ? "true"
                     : y->kind == ZGN_FALSE ? "false"
                                            : "null");
    }
    const int32_t found = y->broken ? -1 : zgn_model_class(&it.model, y);
    if (found < 0) {
        (void)fault(a, LABEL, "The label %.*s is not a class of %s.", y->bytes < 60 ? (int)y->bytes : 60, y->text,
                    it.model.path);
        zgn_model_classes(&it.model, &a->error);
        return a->code;
    }
    *number = (uint32_t)found;
    return ZGN_OK;
}

/* The 64-bit id: a whole number is its own, of a text it is the FNV-1a hash. */
static bool id_number(const zgn_value *id, uint64_t *number) {
    uint64_t n = 0xcbf29ce484222325u;
    if (id->kind == ZGN_TEXT && !id->broken) {
        for (uint32_t i = 0; i < id->bytes; i++) {
            n = (n ^ (uint8_t)id->text[i]) * 0x100000001b3u;
        }
    } else if (id->kind == ZGN_WHOLE && id->bytes <= 20 && (id->text[0] != '-' || id->number == 0)) {
        n = 0;
        for (uint32_t i = id->text[0] == '-'; i < id->bytes; i++) {
            const uint64_t digit = (uint64_t)(id->text[i] - '0');
            if (n > (UINT64_MAX - digit) / 10) {
                return false;
            }
            n = n * 10 + digit;
        }
    } else if (id->kind == ZGN_TRUE || id->kind == ZGN_FALSE) {
        n = id->kind == ZGN_TRUE;
    } else {
        return false;
    }
    *number = n;
    return true;
}

static int waits(answer *a, zgn_out *out) {
    zgn_put(out, "{\"ok\": true, \"waiting\": %u, \"dropped\": %llu}", it.queue.count,
            (unsigned long long)it.queue.dropped);
    return a->code = ZGN_OK;
}

static int core_error(answer *a, zge_status status) {
    a->code = zgn_model_error(&it.model, status, &a->error);
    a->counted = a->code == ZGN_DATA;
    a->reason = OTHER;
    return a->code;
}

static bool truth(const zgn_value *v) {
    return v->kind == ZGN_TRUE || ((v->kind == ZGN_WHOLE || v->kind == ZGN_REAL) && v->number != 0) ||
           ((v->kind == ZGN_TEXT || v->kind == ZGN_NESTED) && v->bytes != 0);
}

static int predict(answer *a, const zgn_request *r, zgn_out *out) {
    zge_model *m = &it.model.m;
    if (sample(a, r) != ZGN_OK) {
        return a->code;
    }
    if (r->watch.kind != ZGN_ABSENT && r->watch.kind != ZGN_TRUE && r->watch.kind != ZGN_FALSE) {
        return fault(a, REQUEST, "\"watch\" is true or false.");
    }
    if (r->id.kind != ZGN_ABSENT && r->id.kind != ZGN_NULL && !it.frozen) {
        uint64_t key;
        if (!it.learning) {
            return predicts_only(a);
        }
        if (m->pending == NULL) {
            return a->code = zgn_fail(&a->error, ZGN_USAGE, "Train it with --pending N.",
                                      "%s has no table of samples that wait for their label.", it.model.path);
        }
        if (!id_number(&r->id, &key)) {
            return a->code = zgn_fail(&a->error, ZGN_USAGE, NULL, "The id is neither a text nor of 0..2^64 - 1.");
        }
        const zge_status status = zge_learner_hold_f32(m, key, it.x, NULL);
        if (status != ZGE_OK) {
            return core_error(a, status);
        }
        changed();
    }
    int32_t class;
    const zge_status status = zge_model_predict_f32(m, it.x, 1, &class, &it.score);
    if (status != ZGE_OK) {
        return core_error(a, status);
    }
    it.predictions++;
    if (it.watched && !it.frozen && r->watch.kind != ZGN_FALSE) {
        uint32_t drift = 0;
        int32_t label;
        (void)zge_learner_watch_f32(m, it.x, &label, &drift);
        it.dirty = true;
        if (drift != 0) {
            drifted(drift);
        }
    }
    zgn_put(out, "{\"ok\": true, \"label\": ");
    zgn_put_label(out, &it.model, class);
    zgn_put(out, ", \"score\": ");
    zgn_put_number(out, (double)it.score / 32768);
    zgn_put(out, "}");
    return ZGN_OK;
}

static int learn(answer *a, const zgn_request *r, zgn_out *out) {
    uint32_t number;
    if (!it.learning) {
        return predicts_only(a);
    }
    if (sample(a, r) != ZGN_OK || class_of(a, &r->y, &number) != ZGN_OK) {
        return a->code;
    }
    const uint32_t at = next_place(number);
    memcpy(it.queue.x + (size_t)at * it.inputs, it.x, sizeof(float) * it.inputs);
    it.queue.held[at] = false;
    return waits(a, out);
}

static int label(answer *a, const zgn_request *r, zgn_out *out) {
    uint64_t key;
    uint32_t number;
    if (!it.learning) {
        return predicts_only(a);
    }
    if (it.model.m.pending == NULL) {
        return fault(a, UNKNOWN_ID, "%s keeps no samples until their label comes.", it.model.path);
    }
    if (!id_number(&r->id, &key)) {
        return fault(a, ID, "An id is a text, or a whole number below 2^64.");
    }
    if (class_of(a, &r->y, &number) != ZGN_OK) {
        return a->code;
    }
    const uint32_t at = next_place(number);
    it.queue.key[at] = key;
    it.queue.held[at] = true;
    name_id(key, &r->id);
    return waits(a, out);
}

/* The end of a reply to what a person decides: why that is in memory only. */
static void put_failure(zgn_out *out) {
    zgn_put(out, ", \"failure\": ");
    zgn_put_string(out, it.kept && it.store.failure[0] != 0 ? it.store.failure : NULL);
    zgn_put(out, "}");
}

static int name_class(answer *a, const zgn_request *r, zgn_out *out) {
    uint32_t number = 0;
    if (!it.learning) {
        return predicts_only(a);
    }
    if (r->name.kind != ZGN_TEXT && r->name.kind != ZGN_WHOLE) {
        return fault(a, CLASS, "The \"name\" of a class is a text or a whole number.");
    }
    a->code = zgn_model_add_class(&it.model, &r->name, &number, &a->error);
    a->counted = a->code == ZGN_DATA;
    a->reason = CLASS;
    if (a->code != ZGN_OK) {
        return a->code;
    }
    size_t bytes;
    const char *name = zgn_model_name(&it.model, (int32_t)number, &bytes);
    char text[ZGN_EVENT_TEXT + 20];
    (void)snprintf(text, sizeof text, "a new class: %.*s", bytes < ZGN_EVENT_TEXT ? (int)bytes : ZGN_EVENT_TEXT, name);
    event(ZGN_LEARNING, text, 0);
    keep_now(true);
    zgn_put(out, "{\"ok\": true, \"label\": ");
    zgn_put_label(out, &it.model, (int32_t)number);
    zgn_put(out, ", \"spare\": %u", it.model.m.classes - it.model.m.known);
    put_failure(out);
    return ZGN_OK;
}

static int status(answer *a, const zgn_request *r, zgn_out *out) {
    zgn_put(out, "{\"ok\": true, ");
    put_status(out, truth(&r->history));
    zgn_put(out, "}");
    return a->code = ZGN_OK;
}

static int metrics(answer *a, const zgn_request *r, zgn_out *out) {
    static char text[8192];
    zgn_out plain = {text, 0, sizeof text, false};
    (void)r;
    put_metrics(&plain);
    zgn_put(out, "{\"ok\": true, \"text\": ");
    zgn_put_text(out, text, plain.bytes);
    zgn_put(out, "}");
    return a->code = ZGN_OK;
}

static int configure(answer *a, uint32_t what) {
    zge_config config;
    zge_status status = zge_learner_config(&it.model.m, &config);
    config.learn = what;
    status = status == ZGE_OK ? zge_learner_configure(&it.model.m, &config) : status;
    return status == ZGE_OK ? ZGN_OK : core_error(a, status);
}

static bool same(const zgn_value *v, const char *text) {
    return v->kind == ZGN_TEXT && v->bytes == strlen(text) && memcmp(v->text, text, v->bytes) == 0;
}

static int freeze(answer *a, bool on) {
    const uint32_t before = zge_get16(it.model.m.learner + ZGE_K_LEARN), after = on ? ZGE_LEARN_NONE : ZGE_LEARN_ALL;
    if (configure(a, after) == ZGN_OK) {
        it.frozen = on;
        event(ZGN_LEARNING, on ? "frozen" : "on", 0);
        keep_now(before != after);
    }
    return a->code;
}

static int decide(answer *a, zge_status status, int kind) {
    if (status != ZGE_OK) {
        return core_error(a, status);
    }
    it.accepted = true;
    event(kind, "by hand", 0);
    keep_now(true);
    return ZGN_OK;
}

static int act(answer *a, const zgn_value *what) {
    static const char *const known[] = {"on", "freeze", "accept", "rollback", "commit", "stop"};
    int i = 0;
    while (i < 6 && !same(what, known[i])) {
        i++;
    }
    if (i == 6) {
        return fault(a, REQUEST, "\"do\" is one of on, freeze, accept, rollback, commit, stop.");
    }
    if (!it.learning && i != 5) {
        return predicts_only(a);
    }
    switch (i) {
    case 0: return freeze(a, false);
    case 1: return freeze(a, true);
    case 2: return decide(a, zge_learner_accept(&it.model.m), ZGN_ACCEPTED);
    case 3: return decide(a, zge_learner_rollback(&it.model.m), ZGN_ROLLED_BACK);
    case 5: it.stopping = it.stopping == NULL ? "asked to" : it.stopping; return ZGN_OK;
    default: break;
    }
    commit();
    return it.store.failure[0] == 0 ? ZGN_OK : (a->code = zgn_fail(&a->error, ZGN_FAILED, NULL, "%s", it.store.failure));
}

static int control(answer *a, const zgn_request *r, zgn_out *out) {
    if (act(a, &r->act) == ZGN_OK) {
        const bool keeps = !same(&r->act, "stop");
        zgn_put(out, "{\"ok\": true, \"learning\": \"%s\"", learning());
        if (keeps) {
            put_failure(out);
        } else {
            zgn_put(out, ", \"failure\": null}");
        }
    }
    return a->code;
}

static const struct {
    const char *name;
    int (*act)(answer *a, const zgn_request *r, zgn_out *out);
} operations[] = {{"predict", predict}, {"learn", learn},     {"label", label},
                  {"status", status},   {"metrics", metrics}, {"control", control}, {"class", name_class}};

/* Answer a line; `cut` says that it was longer than any may be. */
static void answer_line(char *line, size_t bytes, bool cut, zgn_out *out) {
    answer a;
    memset(&a, 0, sizeof a);
    zgn_request r;
    size_t at = 0;
    const size_t start = out->bytes;
    const zgn_read read = cut ? ZGN_READ : zgn_request_read(&r, line, bytes, it.x, it.inputs, &at);
    if (cut) {
        (void)fault(&a, TOO_LONG, "A line has more than %zu bytes.", it.limit);
    } else if (read == ZGN_NOT_UTF8) {
        (void)fault(&a, NOT_UTF8, "A line is not UTF-8 at byte %zu.", at);
    } else if (read == ZGN_NOT_JSON) {
        (void)fault(&a, NOT_JSON, "A line is not JSON at byte %zu.", at);
    } else {
        size_t i = 0;
        while (i < sizeof operations / sizeof operations[0] &&
               !(read == ZGN_READ && same(&r.op, operations[i].name))) {
            i++;
        }
        if (i < sizeof operations / sizeof operations[0]) {
            (void)operations[i].act(&a, &r, out);
        } else {
            (void)fault(&a, REQUEST,
                        "A request is an object whose \"op\" is predict, learn, label, status, metrics, control, class.");
        }
    }
    if (a.counted) {
        refuse(a.reason, "socket", a.error.text);
    }
    if (a.code != ZGN_OK || out->full) {
        if (out->full) {
            a.code = zgn_fail(&a.error, ZGN_FAILED, NULL, "The reply is too long.");
        }
        out->bytes = start;
        out->full = false;
        zgn_put_error(out, a.code, &a.error);
    }
    zgn_put_bytes(out, "\n", 1);
}

/* ---- clients ---- */

static void drop(client *c) {
    (void)close(c->fd);
    c->fd = -1;
    it.count--;
    /* What a long line or a slow reader touched goes back; a page of each is kept for the next client. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    (void)madvise(c->in + page, it.limit + 2 + CHUNK - page, MADV_DONTNEED);
    (void)madvise(c->out + page, it.room - page, MADV_DONTNEED);
}

static bool is_whole(const client *c) { return memchr(c->in + c->at, '\n', c->end - c->at) != NULL; }

static bool is_full(const client *c) { return c->replied - c->sent > UNREAD; }

/* Answer the next line; false where there is no whole one. */
static bool next_line(client *c, zgn_out *out) {
    for (;;) {
        char *start = c->in + c->at;
        char *end = memchr(start, '\n', c->end - c->at);
        if (end == NULL) {
            const bool first = !c->skip;
            if (!c->skip && c->end - c->at <= it.limit) {
                return false;
            }
            c->skip = true;
            c->at = c->end = 0;
            if (first) {
                answer_line(NULL, 0, true, out);
            }
            return first;
        }
        const size_t bytes = (size_t)(end - start);
        c->at += bytes + 1;
        if (c->skip) {
            c->skip = false;
            continue;
        }
        answer_line(start, bytes, bytes > it.limit, out);
        return true;
    }
}

static void serve(client *c) {
    if (c->sent > 0) {
        memmove(c->out, c->out + c->sent, c->replied - c->sent);
        c->replied -= c->sent;
        c->sent = 0;
    }
    for (int i = 0; i < REQUESTS && !is_full(c); i++) {
        zgn_out out = {c->out, c->replied, it.room, false};
        if (!next_line(c, &out)) {
            break;
        }
        c->replied = out.bytes;
    }
    if (c->replied > 0) {
        const ssize_t n = send(c->fd, c->out, c->replied, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            drop(c);
            return;
        }
        c->sent = n > 0 ? (size_t)n : 0;
        if (c->sent == c->replied) {
            c->sent = c->replied = 0;
        }
    }
    const bool more = is_whole(c);
    if (c->gone && !more && c->replied == 0) {
        drop(c);
        return;
    }
    c->waiting = more && !is_full(c);
}

static void receive(client *c, short seen) {
    if ((seen & (POLLIN | POLLHUP | POLLERR)) != 0 && !c->gone && !is_whole(c)) {
        if (c->at > 0) {
            memmove(c->in, c->in + c->at, c->end - c->at);
            c->end -= c->at;
            c->at = 0;
        }
        const ssize_t n = recv(c->fd, c->in + c->end, CHUNK, 0);
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            drop(c);
            return;
        }
        c->end += n > 0 ? (size_t)n : 0;
        c->gone = n == 0;
    }
    serve(c);
}

static void take_client(void) {
    const int fd = accept4(it.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        return; /* it has gone again, or there are too many open files */
    }
    for (uint32_t i = 0; i < it.most; i++) {
        client *c = &it.clients[i];
        if (c->fd < 0) {
            *c = (client){.fd = fd, .in = c->in, .out = c->out};
            it.count++;
            return;
        }
    }
    static const char full[] = "{\"ok\": false, \"error\": \"There are too many clients.\", "
                               "\"hint\": \"Ask again when another one has closed its connection.\", "
                               "\"exit_code\": 1}\n";
    (void)send(fd, full, sizeof full - 1, MSG_NOSIGNAL);
    (void)close(fd);
}

/* ---- the socket ---- */

/* Remove a socket that nobody serves any more. */
static int free_path(const struct sockaddr_un *address, uint32_t bytes, zgn_error *e) {
    struct stat about;
    const char *path = address->sun_path;
    if (lstat(path, &about) != 0) {
        return ZGN_OK;
    }
    if (!S_ISSOCK(about.st_mode)) {
        return zgn_fail(e, ZGN_USAGE, "Name another path.", "%s is there already, and is no socket.", path);
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int error = fd >= 0 && connect(fd, (const struct sockaddr *)address, (socklen_t)bytes) == 0 ? 0 : errno;
    if (fd >= 0) {
        (void)close(fd);
    }
    if (error == ECONNREFUSED || error == ENOENT) {
        (void)unlink(path);
        return ZGN_OK;
    }
    return zgn_fail(e, ZGN_FAILED, "Stop it, or name another --socket.", "Another service answers at %s.", path);
}

/* The socket's file appears at `path` only once it listens: between `bind` and `listen` a client would be
 * refused, and another service would take it for one that is left over. Until then it has a name of its own
 * beside it, which no other process takes; through the folder, since its own path may leave no room for a name. */
static int listen_at(const char *path, zgn_error *e) {
    struct sockaddr_un address, beside;
    const uint32_t bytes = zgn_address(&address, path, false);
    if (bytes == 0) {
        return zgn_fail(e, ZGN_USAGE, "Name a shorter one with --socket.",
                        "The path of the socket has %zu bytes; 107 is the most.", strlen(path));
    }
    int code = free_path(&address, bytes, e);
    if (code != ZGN_OK) {
        return code;
    }
    char parent[sizeof address.sun_path];
    const char *slash = strrchr(path, '/');
    (void)snprintf(parent, sizeof parent, "%.*s", slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path),
                   slash == NULL ? "." : path);
    const int folder = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int error = errno;
    struct stat about;
    if (folder >= 0) {
        char name[64];
        (void)snprintf(name, sizeof name, "/proc/self/fd/%d/.%ld", folder, (long)getpid());
        const uint32_t taken = zgn_address(&beside, name, false);
        code = free_path(&beside, taken, e);
        if (code != ZGN_OK) {
            (void)close(folder);
            return code;
        }
        it.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* Nobody else may connect before the mode is as it should be. */
        const mode_t mask = umask(0117);
        const bool bound =
            it.listener >= 0 && bind(it.listener, (const struct sockaddr *)&beside, (socklen_t)taken) == 0;
        error = errno;
        (void)umask(mask);
        if (bound) {
            const bool linked = listen(it.listener, CLIENTS) == 0 && link(beside.sun_path, path) == 0;
            error = linked && stat(path, &about) == 0 ? 0 : errno;
            (void)unlink(beside.sun_path);
        }
        (void)close(folder);
    }
    if (error != 0) {
        return zgn_fail(e, ZGN_FAILED, "Name another path with --socket.", "Cannot listen at %s: %s.", path,
                        strerror(error));
    }
    it.inode = about.st_ino;
    memcpy(it.socket, address.sun_path, sizeof it.socket);
    return ZGN_OK;
}

static void close_all(void) {
    for (int i = 0; i < CLIENTS; i++) {
        client *c = &it.clients[i];
        if (c->fd >= 0) {
            (void)send(c->fd, c->out + c->sent, c->replied - c->sent, MSG_NOSIGNAL);
            (void)close(c->fd);
            c->fd = -1;
        }
    }
    if (it.listener >= 0) {
        struct stat about;
        (void)close(it.listener);
        it.listener = -1;
        if (it.socket[0] != 0 && stat(it.socket, &about) == 0 && about.st_ino == it.inode) {
            (void)unlink(it.socket);
        }
    }
    if (it.kept) {
        zgn_store_close(&it.store);
    }
}

/* ---- the loop ---- */

static bool any_waits(void) {
    for (int i = 0; i < CLIENTS; i++) {
        if (it.clients[i].fd >= 0 && it.clients[i].waiting) {
            return true;
        }
    }
    return false;
}

/* Milliseconds to wait for events where there is nothing else to do. */
static int patience(void) {
    if (it.queue.count != 0 || any_waits() || (it.kept && it.store.busy && !it.store.syncing)) {
        return 0;
    }
    const int64_t now = zgn_now();
    int64_t until = it.next_second;
    if (it.notify.every > 0 && it.notify.next < until) {
        until = it.notify.next;
    }
    return until <= now ? 0 : (int)((until - now + 999999) / 1000000);
}

static void look_around(void) {
    struct pollfd seen[CLIENTS + 2];
    seen[0] = (struct pollfd){it.wake[0], POLLIN, 0};
    seen[1] = (struct pollfd){it.listener, POLLIN, 0};
    for (int i = 0; i < CLIENTS; i++) {
        const client *c = &it.clients[i];
        const bool reads = c->fd >= 0 && !c->gone && !is_whole(c) && !is_full(c);
        const short wanted = (short)((reads ? POLLIN : 0) | (c->fd >= 0 && c->replied > c->sent ? POLLOUT : 0));
        seen[i + 2] = (struct pollfd){wanted == 0 ? -1 : c->fd, wanted, 0};
    }
    if (poll(seen, CLIENTS + 2, patience()) <= 0) {
        return;
    }
    if (seen[0].revents != 0) {
        char bytes[64];
        const ssize_t n = read(it.wake[0], bytes, sizeof bytes);
        (void)n;
    }
    for (int i = 0; i < CLIENTS; i++) {
        if (seen[i + 2].revents != 0) {
            receive(&it.clients[i], seen[i + 2].revents);
        }
    }
    if (seen[1].revents != 0) {
        take_client();
    }
}

static void each_second(int64_t now) {
    it.next_second = it.next_second + SECOND > now ? it.next_second + SECOND : now;
    it.rss = zgn_resident(it.statm);
    it.rss_most = it.rss > it.rss_most ? it.rss : it.rss_most;
    const uint64_t is[4] = {it.samples, it.correct, it.rewired, it.drifts};
    int64_t brought[ZGN_FIELDS];
    for (int i = 0; i < 4; i++) {
        brought[i] = (int64_t)(is[i] - it.before[i]);
        it.before[i] = is[i];
    }
    brought[4] = (int64_t)it.rss;
    zgn_history_second(&it.history, brought);
    it.guarded = zgn_model_guarded(&it.model); /* a new epoch fills its anchors */
    if (it.queue.dropped > it.dropped) {
        event(ZGN_DROPPED, "a flood", it.queue.dropped - it.dropped);
        it.dropped = it.queue.dropped;
    }
    if (it.options->metrics_file != NULL && now >= it.metrics_at) {
        it.metrics_at = now + METRICS_EVERY;
        write_metrics(it.options->metrics_file);
    }
}

static void turn(void) {
    look_around();
    for (int i = 0; i < CLIENTS; i++) {
        if (it.clients[i].fd >= 0 && it.clients[i].waiting) {
            serve(&it.clients[i]);
        }
    }
    const int64_t now = zgn_now();
    if (it.queue.count != 0 || (it.kept && (it.store.busy || due()))) {
        if (it.queue.count != 0) {
            tick();
        }
        if (it.kept) {
            keep();
        }
        zgn_times_add(&it.times, (uint64_t)(zgn_now() - now));
    }
    if (now >= it.next_second) {
        each_second(now);
    }
    zgn_notify_alive(&it.notify, now);
    if (signalled != 0 && it.stopping == NULL) {
        it.stopping = signalled == SIGINT ? "SIGINT" : signalled == SIGHUP ? "SIGHUP" : "SIGTERM";
    }
}

/* What a clean stop owes: samples that were taken are learned, and all is committed. */
static void finish(void) {
    zgn_notify_say(&it.notify, "STOPPING=1");
    while (it.queue.count != 0) {
        tick();
    }
    if (it.kept) {
        event(ZGN_STOPPED, it.stopping, 0);
        commit();
        zgn_log_flush(&it.store.log);
        zgn_log_sync(&it.store.log);
    }
}

/* ---- the start ---- */

static int places(const zgn_options *o, char *socket, size_t room, zgn_error *e) {
    const bool learns = it.model.m.learning != 0;
    const int n = snprintf(it.state, sizeof it.state, "%s%s", o->state != NULL ? o->state : o->model,
                           o->state != NULL ? "" : ".state");
    const int k = o->socket != NULL                 ? snprintf(socket, room, "%s", o->socket)
                  : !learns && o->state == NULL ? snprintf(socket, room, "%s.socket", o->model)
                                                    : snprintf(socket, room, "%s/socket", it.state);
    if (n < 0 || (size_t)n >= sizeof it.state || k < 0 || (size_t)k >= room) {
        return zgn_fail(e, ZGN_USAGE, NULL, "A path is too long.");
    }
    return ZGN_OK;
}

/* Whole pages, on any kernel. */
static size_t aligned(size_t bytes) { return (bytes + 65535) / 65536 * 65536; }

/* All buffers, in one mapping. */
static int make_buffers(const zgn_options *o, zgn_error *e) {
    const zge_model *m = &it.model.m;
    it.inputs = m->inputs;
    queue *q = &it.queue;
    const uint32_t fits = QUEUE_BYTES / (4 * it.inputs);
    q->room = o->queue != 0 ? o->queue : fits < 16 ? 16 : fits < QUEUE_MOST ? fits : QUEUE_MOST;
    it.limit = 32 * (size_t)it.inputs > LINE ? 32 * (size_t)it.inputs : LINE;
    size_t longest = 0;
    for (uint32_t i = 0; i < m->known; i++) {
        size_t bytes;
        (void)zgn_model_name(&it.model, (int32_t)i, &bytes);
        longest = bytes > longest ? bytes : longest;
    }
    it.room = aligned(UNREAD + REPLY + 6 * longest);
    const size_t x = aligned(sizeof(float) * it.inputs), in = aligned(it.limit + 2 + CHUNK);
    const size_t each = sizeof *q->key + sizeof *q->y + sizeof *q->held;
    const size_t samples = aligned(sizeof(float) * (size_t)it.inputs * q->room), ids = aligned(each * q->room);
    const size_t fit = CLIENT_BYTES / (in + it.room);
    it.most = fit < FEWEST ? FEWEST : fit < CLIENTS ? (uint32_t)fit : CLIENTS;
    char *at = zgn_map(x + samples + ids + it.most * (in + it.room));
    if (at == NULL) {
        return zgn_fail(e, ZGN_FAILED, "Take a smaller --queue.", "This machine has not enough memory.");
    }
    it.x = (float *)(void *)at;
    q->x = (float *)(void *)(at + x);
    q->key = (uint64_t *)(void *)(at + x + samples);
    q->y = (uint16_t *)(void *)(q->key + q->room);
    q->held = (bool *)(void *)(q->y + q->room);
    /* Touched: no page of what is used all the time is new to the process later. */
    memset(at, 0, sizeof(float) * it.inputs);
    memset(q->key, 0, each * q->room);
    at += x + samples + ids;
    for (uint32_t i = 0; i < it.most; i++) {
        it.clients[i] = (client){.fd = -1, .in = at, .out = at + in};
        at += in + it.room;
    }
    const size_t kept = samples < QUEUE_KEPT ? samples : QUEUE_KEPT;
    memset(q->x, 0, kept);
    memset(it.clients[0].in, 0, ZGN_PAGE);
    memset(it.clients[0].out, 0, ZGN_PAGE);
    return ZGN_OK;
}

static int open_all(const zgn_options *o, zgn_error *e) {
    char socket[4200];
    int code = zgn_model_open(&it.model, o->model, e);
    code = code == ZGN_OK ? places(o, socket, sizeof socket, e) : code;
    if (code != ZGN_OK) {
        return code;
    }
    (void)snprintf(it.from, sizeof it.from, "the deployed model");
    if (it.model.m.learning) {
        bool whole = false;
        it.kept = true;
        code = zgn_store_open(&it.store, it.state, &it.model, o->commit_every, o->erase, it.wake[1], e);
        code = code == ZGN_OK ? zgn_store_load(&it.store, &whole, e) : code;
        if (code == ZGN_OK && whole) {
            (void)snprintf(it.from, sizeof it.from, "commit %lld", (long long)it.store.loaded);
        } else if (code == ZGN_OK) {
            code = zgn_model_again(&it.model, e);
        }
    }
    code = code == ZGN_OK ? make_buffers(o, e) : code;
    if (code != ZGN_OK) {
        return code;
    }
    code = listen_at(socket, e);
    const size_t folder = strlen(it.state);
    if (code == ZGN_FAILED && it.kept && it.store.failure[0] != 0 && strncmp(socket, it.state, folder) == 0 &&
        strcmp(socket + folder, "/socket") == 0) {
        char told[sizeof e->text];
        memcpy(told, e->text, sizeof told);
        (void)zgn_fail(e, code, "Name another place with --socket: learning goes on in memory then.", "%.200s %.300s",
                       told, it.store.failure);
    }
    return code;
}

static bool damaged(int slot) { return strncmp(it.store.found[slot], "damaged", 7) == 0; }

static void hello(void) {
    (void)fprintf(stderr, "Serving %s at %s, from %s", it.model.path, it.socket, it.from);
    if (!it.learning) {
        (void)fprintf(stderr, "; it was written to predict only.\n");
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (damaged(i)) {
            (void)fprintf(stderr, "; slot-%c is %s", 'a' + i, it.store.found[i]);
        }
    }
    if (damaged(0) || damaged(1)) {
        (void)fprintf(stderr, "; %s, and the next commits mend it",
                      it.store.loaded < 0 ? "learning begins anew" : "the other slot's state is taken");
    }
    (void)fprintf(stderr, ".%s%s%s\n", it.store.failure[0] != 0 ? " " : "", it.store.failure,
                  it.store.failure[0] != 0 ? " Learning goes on in memory." : "");
}

static const char *plural(uint64_t n) { return n == 1 ? "" : "s"; }

static void goodbye(void) {
    if (it.options->json) {
        static char text[REPLY];
        zgn_out out = {text, 0, sizeof text, false};
        zgn_put(&out, "{");
        put_status(&out, false);
        zgn_put(&out, ", \"stopped\": ");
        zgn_put_string(&out, it.stopping);
        zgn_put(&out, "}\n");
        (void)fwrite(out.text, 1, out.bytes, stdout);
        return;
    }
    uint64_t refused = 0;
    for (int i = 0; i < WHYS; i++) {
        refused += it.refused[i];
    }
    (void)fprintf(stderr, "Stopped (%s): ", it.stopping);
    const uint64_t learned_here = it.samples - it.scored;
    if (learned_here != 0 || it.scored == 0) {
        (void)fprintf(stderr, "%llu sample%s learned, ", (unsigned long long)learned_here, plural(learned_here));
    }
    if (it.scored != 0) {
        (void)fprintf(stderr, "%llu sample%s scored while it was frozen, ", (unsigned long long)it.scored,
                      plural(it.scored));
    }
    (void)fprintf(stderr, "%llu predicted", (unsigned long long)it.predictions);
    if (refused != 0) {
        (void)fprintf(stderr, ", %llu refused", (unsigned long long)refused);
    }
    if (it.kept) {
        const uint64_t commits = it.store.wear.commits;
        (void)fprintf(stderr, "; %llu commit%s in %s", (unsigned long long)commits, plural(commits), it.state);
    }
    if (refused != 0) {
        (void)fprintf(stderr, ". The last that was refused: ");
        size_t n = strlen(it.last_refused);
        n -= n > 0 && it.last_refused[n - 1] == '.';
        for (size_t i = 0; i < n; i++) { /* a client's words steer no terminal */
            const uint8_t c = (uint8_t)it.last_refused[i];
            (void)fputc(c < 32 || c >= 127 ? '?' : c, stderr);
        }
    }
    (void)fprintf(stderr, ".\n");
}

static void take_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = stopped;
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    struct sigaction before;
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) { /* under nohup it is */
        (void)sigaction(SIGHUP, &action, NULL);
    }
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
    (void)sigaction(SIGXFSZ, &action, NULL); /* a file that may not be so long is EFBIG, as in Python */
}

/* What is counted for the first time later, and calls that go deeper then, touch no new memory. */
static void touch(void) {
    volatile uint8_t deep[32 * 1024];
    for (size_t i = 0; i < sizeof deep; i += 1024) {
        deep[i] = 0;
    }
    memset(&it, 0, sizeof it);
}

static int start(const zgn_options *o, zgn_error *e) {
    touch();
    it.started = zgn_now();
    it.options = o;
    it.listener = it.statm = -1;
    for (int i = 0; i < CLIENTS; i++) {
        it.clients[i].fd = -1;
    }
    if (pipe2(it.wake, O_NONBLOCK | O_CLOEXEC) != 0) {
        return zgn_fail(e, ZGN_FAILED, NULL, "Cannot make a pipe: %s.", strerror(errno));
    }
    take_signals();
    const int code = open_all(o, e);
    if (code != ZGN_OK) {
        return code;
    }
    it.learning = it.model.m.learning != 0;
    it.frozen = !it.learning || zge_get16(it.model.m.learner + ZGE_K_LEARN) == ZGE_LEARN_NONE;
    it.watched = it.learning && it.model.m.watch != NULL;
    it.guarded = zgn_model_guarded(&it.model);
    it.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    it.next_second = it.started + SECOND;
    if (o->freeze && it.learning) {
        answer a;
        memset(&a, 0, sizeof a);
        (void)freeze(&a, true);
    }
    return ZGN_OK;
}

int zgn_serve(const zgn_options *o, zgn_error *e) {
    const int code = start(o, e);
    if (code != ZGN_OK) {
        close_all();
        return code;
    }
    if (!o->json) {
        hello();
    }
    if (it.kept) {
        for (int i = 0; i < 2; i++) {
            if (damaged(i)) {
                char text[220];
                (void)snprintf(text, sizeof text, "slot-%c is %s", 'a' + i, it.store.found[i]);
                event(ZGN_SLOT_DAMAGED, text, 0);
            }
        }
        char from[60];
        (void)snprintf(from, sizeof from, "from %s", it.from);
        event(ZGN_STARTED, from, 0);
    }
    zgn_trim();
    it.rss = it.rss_first = it.rss_most = zgn_resident(it.statm);
    zgn_notify_open(&it.notify);
    zgn_notify_say(&it.notify, "READY=1");
    while (it.stopping == NULL) {
        turn();
    }
    finish();
    goodbye();
    char failure[sizeof it.store.failure];
    memcpy(failure, it.store.failure, sizeof failure);
    const bool failed = it.kept && failure[0] != 0;
    close_all();
    return failed ? zgn_fail(e, ZGN_FAILED, "What was learned since is lost.", "%s", failure) : ZGN_OK;
}
