/* zgn.h: the native program, zgedge-native: the service of docs/service.md without Python (docs/native.md).
 *
 * MEMORY. Nothing is allocated after the start, and malloc is never called: the arena is one mapping, all buffers are
 * a second one. What a flood of samples or a long line touched is given back to the system when it is over. One
 * thread besides the loop waits for the disk.
 *
 * TRUST. A model file, a state on disk, a golden file and every byte of a request are a stranger's. Files are
 * checked whole before they are used; a request is read by json.c, which has no recursion and no allocation.
 *
 * ERRORS. A call that can fail returns 0 or an exit code (docs/commands.md), with its text in a zgn_error.
 */
#ifndef ZGN_H
#define ZGN_H

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zge.h"

/* Exit codes. */
enum { ZGN_OK = 0, ZGN_FAILED = 1, ZGN_USAGE = 2, ZGN_DATA = 3, ZGN_MODEL = 4 };

#if defined(__GNUC__)
#define ZGN_FORMAT(at) __attribute__((format(printf, at, at + 1)))
#else
#define ZGN_FORMAT(at)
#endif

/* ---- text.c: errors, numbers, JSON as text ---- */

typedef struct zgn_error {
    char text[512];
    char hint[256]; /* empty: none */
} zgn_error;

/* Note what is wrong; returns `code`. `hint` may be null. Text that is too long is cut. */
int zgn_fail(zgn_error *e, int code, const char *hint, const char *format, ...) ZGN_FORMAT(4);

/* Text that is written into memory of a fixed length: what does not fit is left out, and `full` says so. */
typedef struct zgn_out {
    char *text;
    size_t bytes, room;
    bool full;
} zgn_out;

void zgn_put(zgn_out *out, const char *format, ...) ZGN_FORMAT(2);
void zgn_put_bytes(zgn_out *out, const char *text, size_t bytes);
/* A text as JSON, in quotes; bytes that are no UTF-8 become U+FFFD. */
void zgn_put_text(zgn_out *out, const char *text, size_t bytes);
void zgn_put_string(zgn_out *out, const char *text); /* null: null */
/* The shortest decimal that is this number again; null where it is not finite. */
void zgn_put_number(zgn_out *out, double value);
/* `{"ok": false, "error": ..., "hint": ..., "exit_code": ...}` without the end of line. */
void zgn_put_error(zgn_out *out, int code, const zgn_error *e);
/* Bytes of the UTF-8 character at `text`, 0 where there is none. */
uint32_t zgn_utf8(const uint8_t *text, size_t bytes);
/* Where `text` is no UTF-8, `bytes` where it is. */
size_t zgn_utf8_until(const uint8_t *text, size_t bytes);

/* ---- json.c: requests ---- */

typedef enum zgn_kind {
    ZGN_ABSENT,
    ZGN_NULL,
    ZGN_FALSE,
    ZGN_TRUE,
    ZGN_WHOLE,  /* a number without fraction or exponent */
    ZGN_REAL,   /* any other number, NaN and infinities too */
    ZGN_TEXT,
    ZGN_NESTED  /* a list or an object */
} zgn_kind;

typedef struct zgn_value {
    zgn_kind kind;
    const char *text; /* of a text: its UTF-8; of a number: how it was written */
    uint32_t bytes;   /* of `text`; of a list or an object 0 where it is empty */
    bool broken;      /* a text with half of a surrogate pair, which is no character */
    double number;
} zgn_value;

typedef enum zgn_numbers { ZGN_FINE, ZGN_NOT_FINITE, ZGN_NOT_NUMBERS } zgn_numbers;

typedef struct zgn_request {
    zgn_value op, id, y, act, history, watch, name; /* "act" is the key "do" */
    bool list;       /* whether "x" is a list, */
    uint32_t values; /* how many are in it, */
    zgn_numbers x;   /* and what they are */
} zgn_request;

typedef enum zgn_read { ZGN_READ, ZGN_NOT_UTF8, ZGN_NOT_JSON, ZGN_NO_OBJECT } zgn_read;

/* Read a request out of a line, which is overwritten; line[bytes] must be writable too.
 *   x   [inputs] gets the numbers of "x", as many as there is room for
 *   at  gets the byte where the fault is
 * Values in `r` lead into the line. Of keys that come twice the last one counts. */
zgn_read zgn_request_read(zgn_request *r, char *line, size_t bytes, float *x, uint32_t inputs, size_t *at);

/* ---- blake2b.c ---- */

enum { ZGN_DIGEST = 16 };

typedef struct zgn_blake {
    uint64_t h[8], count;
    uint8_t block[128];
    uint32_t filled;
} zgn_blake;

/* BLAKE2b of 16 bytes without a key (RFC 7693). */
void zgn_blake_start(zgn_blake *b);
void zgn_blake_add(zgn_blake *b, const void *data, size_t bytes);
void zgn_blake_end(zgn_blake *b, uint8_t digest[ZGN_DIGEST]);
void zgn_digest(const void *data, size_t bytes, uint8_t digest[ZGN_DIGEST]);

/* ---- model.c ---- */

typedef struct zgn_model {
    const char *path;
    uint8_t *arena; /* [bytes] aligned to 64 */
    size_t bytes;
    uint8_t identity[ZGN_DIGEST]; /* of the deployed file */
    zge_model m;
    bool integers;  /* classes are whole numbers */
    uint32_t names; /* offset of their names in the arena */
} zgn_model;

/* Room that nobody has touched yet, aligned to 64 bytes, or null. */
void *zgn_map(size_t bytes);
/* Read a model file into memory of its own and check it. */
int zgn_model_open(zgn_model *model, const char *path, zgn_error *e);
/* Read the deployed file again, after something else lay in the arena. */
int zgn_model_again(zgn_model *model, zgn_error *e);
/* Check what lies in the arena. */
int zgn_model_check(zgn_model *model, zgn_error *e);
/* Turn the core's status into an error. */
int zgn_model_error(const zgn_model *model, zge_status status, zgn_error *e);
/* The name of class `number`; -1: unknown. */
const char *zgn_model_name(const zgn_model *model, int32_t number, size_t *bytes);
/* A class as JSON: a text, or a whole number. */
void zgn_put_label(zgn_out *out, const zgn_model *model, int32_t number);
/* The number of the class that a value names, or -1. */
int32_t zgn_model_class(const zgn_model *model, const zgn_value *label);
/* Give the next spare class a name, a text or a whole number; its number goes into *number. */
int zgn_model_add_class(zgn_model *model, const zgn_value *name, uint32_t *number, zgn_error *e);
/* The hint for a class that is none: the first of those that are. */
void zgn_model_classes(const zgn_model *model, zgn_error *e);
uint64_t zgn_model_steps(const zgn_model *model);
bool zgn_model_guarded(const zgn_model *model); /* whether the guard is on */
const uint8_t *zgn_model_section(const zgn_model *model, uint32_t kind, uint32_t *bytes); /* or null */

/* ---- store.c: docs/store.md ---- */

enum {
    ZGN_PAGE = 4096,
    ZGN_PIECE = 16 * 1024,
    ZGN_ERASE = 128 * 1024,
    ZGN_RECORD = 128,
    ZGN_RECORDS = 2048,
    ZGN_RECENT = 64, /* events that are in memory */
    ZGN_EVENT_TEXT = 80
};

enum {
    ZGN_STARTED = 1,
    ZGN_STOPPED,
    ZGN_COMMITTED,
    ZGN_COMMIT_FAILED,
    ZGN_SLOT_DAMAGED,
    ZGN_BAD_INPUT,
    ZGN_DROPPED,
    ZGN_DRIFT,
    ZGN_ACCEPTED,
    ZGN_ROLLED_BACK,
    ZGN_LEARNING,
    ZGN_SOURCE,
    ZGN_CLIENT,
    ZGN_KINDS
};

typedef struct zgn_disk {
    int fd; /* -1: none */
    bool read_only;
} zgn_disk;

typedef struct zgn_log {
    zgn_disk disk;
    uint8_t recent[ZGN_RECENT][ZGN_RECORD]; /* record n at (n - 1) % ZGN_RECENT */
    uint64_t number;                        /* of the last event */
    uint32_t behind;                        /* events, the newest, that are not on the disk */
    uint64_t pages;                         /* written */
    atomic_bool unsynced;
    atomic_int failure; /* errno, 0: none */
} zgn_log;

typedef struct zgn_wear {
    uint64_t commits, written, seconds, today, day_before;
} zgn_wear;

typedef enum zgn_phase { ZGN_STATE, ZGN_HEAD, ZGN_SYNC } zgn_phase;

typedef struct zgn_store {
    const char *folder;
    zgn_model *model;
    double interval;
    uint32_t erase;
    int lock;
    bool opened; /* both slots are */
    zgn_disk slot[2];
    char found[2][200]; /* "empty", "whole" or "damaged: why" */
    uint64_t generation;
    int newest; /* -1: none */
    int64_t loaded; /* generation that was loaded, -1: none */
    zgn_wear wear;
    bool busy, syncing;
    zgn_phase phase;
    size_t at;
    zgn_blake blake;
    uint8_t piece[ZGN_PIECE];
    char failure[512]; /* empty: none */
    int64_t started, last, not_before; /* nanoseconds; last is -1 before the first commit */
    int64_t retry;
    uint64_t base; /* seconds of services before */
    uint64_t counted; /* pages of the log that the wear has */
    zgn_log log;
} zgn_store;

/* Own the folder, and have all files at their full length. A disk that is full, read-only or broken is no
 * error: `failure` says so. `wake` is written to when a sync has ended. */
int zgn_store_open(zgn_store *s, const char *folder, zgn_model *model, double interval, uint32_t erase, int wake,
                   zgn_error *e);
/* Read the newest whole state into the model's arena, checked; *whole says whether there is one. Without one
 * the arena holds no model. */
int zgn_store_load(zgn_store *s, bool *whole, zgn_error *e);
/* The same of a folder that somebody else may own: nothing is written. */
int zgn_store_peek(zgn_store *s, const char *folder, zgn_model *model, bool *whole, zgn_error *e);
bool zgn_store_due(const zgn_store *s);
/* Start to commit the arena, sealed: it is written, and may change again. */
void zgn_store_begin(zgn_store *s);
/* One bounded piece of a commit; true while there is more. */
bool zgn_store_step(zgn_store *s, bool wait);
void zgn_store_finish(zgn_store *s);
void zgn_store_close(zgn_store *s);
void zgn_put_store(zgn_out *out, const zgn_store *s);

/* Note an event. The log has its own troubles, which stop nothing. */
void zgn_log_add(zgn_log *log, int kind, const char *text, uint64_t step, int64_t value);
void zgn_log_flush(zgn_log *log);
void zgn_log_sync(zgn_log *log);
void zgn_put_events(zgn_out *out, const zgn_log *log, uint32_t last);

/* ---- metrics.c ---- */

enum { ZGN_WINDOW = 1000, ZGN_POINTS = 120, ZGN_FIELDS = 5 };

typedef struct zgn_rolling {
    uint8_t ring[ZGN_WINDOW];
    uint32_t at, count, right;
} zgn_rolling;

typedef struct zgn_times {
    uint64_t buckets[64 * 16], count, longest;
} zgn_times;

typedef struct zgn_history {
    int64_t table[ZGN_POINTS][ZGN_FIELDS];
    uint32_t count, period, seconds;
} zgn_history;

void zgn_rolling_add(zgn_rolling *r, uint32_t right);
void zgn_times_add(zgn_times *t, uint64_t ns);
uint64_t zgn_times_quantile(const zgn_times *t, double q);
void zgn_history_second(zgn_history *h, const int64_t brought[ZGN_FIELDS]);
void zgn_put_history(zgn_out *out, const zgn_history *h);
/* What the arena knows of its learner, as JSON; null where it cannot learn. */
void zgn_put_learner(zgn_out *out, const zgn_model *model);

/* Resident memory of this process in bytes; 0 where the kernel does not say. */
uint64_t zgn_resident(int statm);
/* Give back the pages of the program that only its start needed, and let the kernel bring in no more of them than
 * are used. */
void zgn_trim(void);
int64_t zgn_now(void); /* nanoseconds of a clock that nobody can set */

/* ---- notify.c: systemd's notifications ---- */

typedef struct zgn_notify {
    int fd; /* -1: nobody listens */
    int64_t every, next; /* nanoseconds; every is 0 without a watchdog */
} zgn_notify;

void zgn_notify_open(zgn_notify *n);
void zgn_notify_say(const zgn_notify *n, const char *text);
/* Tell the watchdog that the loop goes round, where it is time. */
void zgn_notify_alive(zgn_notify *n, int64_t now);

/* ---- service.c ---- */

typedef struct zgn_options {
    const char *model, *state, *socket, *metrics_file;
    double commit_every;
    uint32_t erase, queue; /* queue 0: as many as a megabyte holds, 1,024 at most */
    bool freeze, json;
} zgn_options;

int zgn_serve(const zgn_options *options, zgn_error *e);

/* ---- board.c: what whoever deploys asks ---- */

int zgn_version(zgn_error *e);
int zgn_golden(const char *model, const char *golden, zgn_error *e);
int zgn_state_digest(const char *model, const char *state, const char *golden, zgn_error *e);
int zgn_ask(const char *socket, double timeout, zgn_error *e);

/* ---- sockets ---- */

/* Fill in the address of a Unix socket; its length, or 0 where the path is too long. `abstract` takes a
 * leading @ for the zero byte of the abstract name space. */
struct sockaddr_un;
uint32_t zgn_address(struct sockaddr_un *address, const char *path, bool abstract);

#endif
