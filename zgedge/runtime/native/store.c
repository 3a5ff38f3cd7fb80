/* store.c: learned state on disk, as docs/store.md has it: two slots, of which one is always whole, and a ring
 * of events. One thread waits for the disk, and does nothing else. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "zge_impl.h"
#include "zgn.h"

enum { HEADER = 128, COVERED = 112, VERSION = 1, DAY = 86400 };
#define SECOND ((int64_t)1000000000)
#define RETRY_LEAST (5 * SECOND)
#define RETRY_MOST (900 * SECOND)

static const char *const names[2] = {"slot-a", "slot-b"};
static const char *const kinds[ZGN_KINDS] = {
    "none",    "started", "stopped",  "committed",   "commit failed", "slot damaged", "bad input",
    "dropped", "drift",   "accepted", "rolled back", "learning",      "source",       "client",
};

/* The disk's own troubles, with which a service goes on. Others are mistakes, and said at the start. */
static bool is_trouble(int error) {
    return error == ENOSPC || error == EDQUOT || error == EROFS || error == EIO || error == EFBIG || error == ENXIO ||
           error == ENODEV || error == ESTALE;
}

/* ---- disks: 0, or an errno ---- */

static int read_at(const zgn_disk *d, uint8_t *into, size_t bytes, uint64_t at, size_t *got) {
    *got = 0;
    while (*got < bytes) {
        const ssize_t n = pread(d->fd, into + *got, bytes - *got, (off_t)(at + *got));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno;
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
    }
    return 0;
}

static int write_at(const zgn_disk *d, const uint8_t *data, size_t bytes, uint64_t at) {
    if (d->read_only) {
        return EROFS;
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = pwrite(d->fd, data + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? errno : EIO;
        }
        done += (size_t)n;
    }
    return 0;
}

static int sync_disk(const zgn_disk *d) { return d->read_only || fdatasync(d->fd) == 0 ? 0 : errno; }

/* From here on reads give what is on the disk: what a killed process wrote is synced, and what the system
 * remembers of the file, which after a failed sync may be on no disk, is dropped. */
static void settle(const zgn_disk *d) {
    (void)fdatasync(d->fd);
    (void)posix_fadvise(d->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void close_disk(zgn_disk *d) {
    if (d->fd >= 0) {
        (void)close(d->fd);
    }
    d->fd = -1;
    d->read_only = false;
}

static int sync_folder(const char *folder) {
    const int fd = open(folder, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    const int error = fsync(fd) == 0 ? 0 : errno;
    (void)close(fd);
    return error;
}

static int path_in(char *path, size_t room, const char *folder, const char *name) {
    const int n = snprintf(path, room, "%s/%s", folder, name);
    return n < 0 || (size_t)n >= room ? ENAMETOOLONG : 0;
}

/* Have a file at its full length, every byte of it written once: later writes then need no room. */
static int fill(const zgn_disk *d, const char *folder, uint64_t size) {
    static const uint8_t zeros[ZGN_PIECE];
    struct stat about;
    if (fstat(d->fd, &about) != 0) {
        return errno;
    }
    if ((uint64_t)about.st_size >= size) {
        return 0;
    }
    /* Not posix_fallocate: what that returns where it fails is not the same in all C libraries. */
    int error;
    do {
        error = fallocate(d->fd, 0, 0, (off_t)size) == 0 ? 0 : errno;
    } while (error == EINTR);
    if (error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) {
        error = 0; /* a file system that cannot promise room, as those of raw flash: the zeros take it */
    }
    for (uint64_t at = (uint64_t)about.st_size; error == 0 && at < size; at += sizeof zeros) {
        const uint64_t left = size - at;
        error = write_at(d, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros, at);
    }
    if (error == 0 && fsync(d->fd) != 0) {
        error = errno;
    }
    return error == 0 ? sync_folder(folder) : error;
}

static int open_disk(zgn_disk *d, const char *folder, const char *name, uint64_t size) {
    char path[4096];
    int error = path_in(path, sizeof path, folder, name);
    if (error != 0) {
        return error;
    }
    d->read_only = false;
    d->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
    if (d->fd < 0 && errno == EROFS) {
        d->read_only = true;
        d->fd = open(path, O_RDONLY | O_CLOEXEC);
        errno = d->fd < 0 && errno == ENOENT ? EROFS : errno; /* it cannot be made */
    }
    if (d->fd < 0) {
        return errno;
    }
    error = d->read_only ? 0 : fill(d, folder, size);
    if (error != 0) {
        close_disk(d);
    }
    return error;
}

/* ---- the thread that syncs ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    bool started, wanted, ended;
    int wake, error;
    zgn_disk disk;
    zgn_log *log;
} flusher = {.mutex = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void *flush(void *nothing) {
    (void)nothing;
    (void)pthread_mutex_lock(&flusher.mutex);
    for (;;) {
        while (!flusher.wanted) {
            (void)pthread_cond_wait(&flusher.work, &flusher.mutex);
        }
        flusher.wanted = false;
        const zgn_disk disk = flusher.disk;
        zgn_log *log = flusher.log;
        (void)pthread_mutex_unlock(&flusher.mutex);
        const int error = sync_disk(&disk);
        if (error == 0) {
            zgn_log_sync(log);
        }
        (void)pthread_mutex_lock(&flusher.mutex);
        flusher.error = error;
        flusher.ended = true;
        (void)pthread_cond_signal(&flusher.done);
        const ssize_t n = write(flusher.wake, "", 1);
        (void)n; /* full: the loop is awake */
    }
    return NULL;
}

static int start_flusher(int wake) {
    if (flusher.started) {
        return 0;
    }
    flusher.wake = wake;
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the loop's */
    pthread_attr_t about;
    pthread_t thread;
    int error = pthread_attr_init(&about);
    if (error == 0) {
        (void)pthread_attr_setstacksize(&about, 64 * 1024);
        (void)pthread_attr_setdetachstate(&about, PTHREAD_CREATE_DETACHED);
        error = pthread_create(&thread, &about, flush, NULL);
        (void)pthread_attr_destroy(&about);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    flusher.started = error == 0;
    return error;
}

/* ---- events ---- */

static uint64_t log_bytes(void) { return (uint64_t)ZGN_RECORDS * ZGN_RECORD; }

static uint8_t *recent(zgn_log *log, uint64_t number) { return log->recent[(number - 1) % ZGN_RECENT]; }

/* The number of the event at a place of the ring; 0 where there is no whole one. */
static uint64_t event_number(const uint8_t *record, uint64_t place) {
    const uint64_t number = zge_get64(record + 4);
    if (number == 0 || (number - 1) % ZGN_RECORDS != place) {
        return 0;
    }
    return zge_crc32(0, record, ZGN_RECORD - 4) == zge_get32(record + ZGN_RECORD - 4) ? number : 0;
}

static void seal_event(uint8_t *record, uint64_t number) {
    zge_put64(record + 4, number);
    zge_put32(record + ZGN_RECORD - 4, zge_crc32(0, record, ZGN_RECORD - 4));
}

/* Go on where the ring on the disk ends; events so far come behind it. `piece` [ZGN_PIECE] is overwritten. */
static int attach(zgn_log *log, const char *folder, uint8_t *piece) {
    zgn_disk disk = {-1, false};
    int error = open_disk(&disk, folder, "events", log_bytes());
    uint64_t last = 0;
    uint8_t record[ZGN_RECORD];
    size_t got;
    for (uint64_t at = 0; error == 0 && at < log_bytes(); at += ZGN_PIECE) {
        error = read_at(&disk, piece, ZGN_PIECE, at, &got);
        for (size_t i = 0; error == 0 && i + ZGN_RECORD <= got; i += ZGN_RECORD) {
            const uint64_t number = event_number(piece + i, (at + i) / ZGN_RECORD);
            last = number > last ? number : last;
        }
    }
    if (error != 0) {
        if (disk.fd >= 0) {
            close_disk(&disk);
        }
        return error;
    }
    /* Events of this run get the numbers behind; the ones before them are read into their places. */
    static uint8_t mine[ZGN_RECENT][ZGN_RECORD];
    const uint64_t kept = log->number < ZGN_RECENT ? log->number : ZGN_RECENT;
    for (uint64_t i = 0; i < kept; i++) {
        memcpy(mine[i], recent(log, log->number - kept + 1 + i), ZGN_RECORD);
    }
    memset(log->recent, 0, sizeof log->recent);
    for (uint64_t number = last > ZGN_RECENT ? last - ZGN_RECENT + 1 : 1; number <= last; number++) {
        const uint64_t place = (number - 1) % ZGN_RECORDS;
        if (read_at(&disk, record, sizeof record, place * ZGN_RECORD, &got) == 0 && got == sizeof record &&
            event_number(record, place) == number) {
            memcpy(recent(log, number), record, sizeof record);
        }
    }
    log->number = last;
    for (uint64_t i = 0; i < kept; i++) {
        log->number++;
        memcpy(recent(log, log->number), mine[i], ZGN_RECORD);
        seal_event(recent(log, log->number), log->number);
    }
    log->behind = (uint32_t)kept;
    log->disk = disk;
    zgn_log_flush(log);
    return 0;
}

void zgn_log_add(zgn_log *log, int kind, const char *text, uint64_t step, int64_t value) {
    size_t bytes = 0;
    while (text[bytes] != 0) {
        const uint32_t n = zgn_utf8((const uint8_t *)text + bytes, strlen(text + bytes));
        if (n == 0 || bytes + n > ZGN_EVENT_TEXT) {
            break; /* no half character at the end */
        }
        bytes += n;
    }
    struct timespec wall;
    (void)clock_gettime(CLOCK_REALTIME, &wall);
    log->number++;
    uint8_t *record = recent(log, log->number);
    memset(record, 0, ZGN_RECORD);
    zge_put16(record, (uint16_t)kind);
    record[2] = (uint8_t)bytes;
    zge_put64(record + 12, (uint64_t)((int64_t)wall.tv_sec * 1000 + wall.tv_nsec / 1000000));
    zge_put64(record + 20, step);
    zge_put64(record + 28, (uint64_t)value);
    memcpy(record + 44, text, bytes);
    seal_event(record, log->number);
    log->behind = log->behind < ZGN_RECENT ? log->behind + 1 : ZGN_RECENT;
    zgn_log_flush(log);
}

void zgn_log_flush(zgn_log *log) {
    if (log->disk.fd < 0 || log->behind == 0) {
        return;
    }
    while (log->behind > 0) {
        const uint64_t number = log->number - log->behind + 1;
        const uint64_t at = (number - 1) % ZGN_RECORDS * ZGN_RECORD;
        const int error = write_at(&log->disk, recent(log, number), ZGN_RECORD, at);
        if (error != 0) {
            atomic_store(&log->failure, error);
            return;
        }
        atomic_store(&log->unsynced, true);
        log->behind--;
        log->pages++;
    }
    atomic_store(&log->failure, 0);
}

void zgn_log_sync(zgn_log *log) {
    /* Cleared before, because more may be written meanwhile. */
    if (log->disk.fd < 0 || !atomic_exchange(&log->unsynced, false)) {
        return;
    }
    const int error = sync_disk(&log->disk);
    if (error != 0) {
        atomic_store(&log->unsynced, true);
    }
    atomic_store(&log->failure, error);
}

void zgn_put_events(zgn_out *out, const zgn_log *log, uint32_t last) {
    zgn_put_bytes(out, "[", 1);
    bool first = true;
    for (uint64_t number = log->number > last ? log->number - last + 1 : 1; number <= log->number; number++) {
        const uint8_t *r = log->recent[(number - 1) % ZGN_RECENT];
        if (zge_get64(r + 4) != number) {
            continue; /* a power cut tore it */
        }
        zgn_put(out, "%s{\"number\": %llu, \"time\": ", first ? "" : ", ", (unsigned long long)number);
        zgn_put_number(out, (double)(int64_t)zge_get64(r + 12) / 1000);
        const uint32_t kind = zge_get16(r);
        if (kind < ZGN_KINDS) {
            zgn_put(out, ", \"kind\": \"%s\"", kinds[kind]);
        } else {
            zgn_put(out, ", \"kind\": \"kind %u\"", kind);
        }
        zgn_put(out, ", \"step\": %llu, \"value\": %lld, \"more\": %lld, \"text\": ",
                (unsigned long long)zge_get64(r + 20), (long long)zge_get64(r + 28), (long long)zge_get64(r + 36));
        zgn_put_text(out, (const char *)r + 44, r[2] < ZGN_EVENT_TEXT ? r[2] : ZGN_EVENT_TEXT);
        zgn_put_bytes(out, "}", 1);
        first = false;
    }
    zgn_put_bytes(out, "]", 1);
}

/* ---- slots ---- */

typedef struct head {
    uint8_t model[ZGN_DIGEST], payload[ZGN_DIGEST];
    uint64_t generation;
    uint32_t at, bytes;
    zgn_wear wear;
} head;

static uint64_t whole_pages(uint64_t bytes) { return (bytes + ZGN_PAGE - 1) / ZGN_PAGE * ZGN_PAGE; }

static void pack(const head *h, uint8_t *raw) {
    memset(raw, 0, HEADER);
    memcpy(raw, "\x89ZGS", 4);
    zge_put16(raw + 4, VERSION);
    zge_put16(raw + 6, HEADER);
    memcpy(raw + 8, h->model, ZGN_DIGEST);
    zge_put64(raw + 24, h->generation);
    zge_put32(raw + 32, h->at);
    zge_put32(raw + 36, h->bytes);
    zge_put64(raw + 40, h->wear.commits);
    zge_put64(raw + 48, h->wear.written);
    zge_put64(raw + 56, h->wear.seconds);
    zge_put64(raw + 64, h->wear.today);
    zge_put64(raw + 72, h->wear.day_before);
    memcpy(raw + 96, h->payload, ZGN_DIGEST);
    zgn_digest(raw, COVERED, raw + COVERED);
}

static void found(zgn_store *s, int i, const char *why) {
    if (why == NULL) {
        (void)snprintf(s->found[i], sizeof s->found[i], "whole");
    } else {
        (void)snprintf(s->found[i], sizeof s->found[i], "damaged: %.180s", why);
    }
}

static bool is_damaged(const zgn_store *s, int i) { return strncmp(s->found[i], "damaged", 7) == 0; }

/* Read a slot's header; *is says whether there is one. Fails for a later version, and for another model. */
static int look(zgn_store *s, int i, head *h, bool *is, zgn_error *e) {
    uint8_t raw[HEADER], digest[ZGN_DIGEST];
    size_t got;
    memset(raw, 0, sizeof raw);
    *is = false;
    const int error = read_at(&s->slot[i], raw, sizeof raw, 0, &got);
    if (error != 0) {
        found(s, i, strerror(error));
        return ZGN_OK;
    }
    zgn_digest(raw, COVERED, digest);
    if (got < sizeof raw || memcmp(raw, "\x89ZGS", 4) != 0 || memcmp(digest, raw + COVERED, ZGN_DIGEST) != 0) {
        bool any = false;
        for (size_t j = 0; j < sizeof raw; j++) {
            any = any || raw[j] != 0;
        }
        if (any) {
            found(s, i, "its header is torn");
        } else {
            (void)snprintf(s->found[i], sizeof s->found[i], "empty");
        }
        return ZGN_OK;
    }
    if (zge_get16(raw + 4) != VERSION) {
        return zgn_fail(e, ZGN_MODEL, "Install that version, or name another folder with --state.",
                        "%s: A slot of version %u was written by a later zgedge.", s->folder, zge_get16(raw + 4));
    }
    memcpy(h->model, raw + 8, ZGN_DIGEST);
    memcpy(h->payload, raw + 96, ZGN_DIGEST);
    h->generation = zge_get64(raw + 24);
    h->at = zge_get32(raw + 32);
    h->bytes = zge_get32(raw + 36);
    h->wear = (zgn_wear){zge_get64(raw + 40), zge_get64(raw + 48), zge_get64(raw + 56), zge_get64(raw + 64),
                         zge_get64(raw + 72)};
    if (memcmp(h->model, s->model->identity, ZGN_DIGEST) != 0 || h->bytes != s->model->bytes) {
        return zgn_fail(e, ZGN_MODEL, "Name another folder with --state, or move this one away.",
                        "%s: %s holds the state of another model.", s->folder, names[i]);
    }
    *is = true;
    return ZGN_OK;
}

/* Read a slot's state, to keep it in `into` or, where that is null, to look whether it is whole; false, with a text
 * in `found`, where it cannot be used. */
static bool read_state(zgn_store *s, int i, const head *h, uint8_t *into) {
    uint8_t digest[ZGN_DIGEST];
    zgn_blake blake;
    zgn_blake_start(&blake);
    for (size_t at = 0; at < s->model->bytes; at += ZGN_PIECE) {
        const size_t left = s->model->bytes - at, n = left < ZGN_PIECE ? left : ZGN_PIECE;
        uint8_t *to = into == NULL ? s->piece : into + at;
        size_t got;
        const int error = read_at(&s->slot[i], to, n, h->at + at, &got);
        if (error != 0) {
            found(s, i, strerror(error));
            return false;
        }
        if (got < n) {
            char why[80];
            (void)snprintf(why, sizeof why, "it ends after %zu of %zu bytes", at + got, s->model->bytes);
            found(s, i, why);
            return false;
        }
        zgn_blake_add(&blake, to, n);
    }
    zgn_blake_end(&blake, digest);
    if (memcmp(digest, h->payload, ZGN_DIGEST) != 0) {
        found(s, i, "its state is torn");
        return false;
    }
    return true;
}

/* Find the newest whole state; it is read into `into`, where the core checks it, unless that is null. */
static int load(zgn_store *s, uint8_t *into, bool *whole, zgn_error *e) {
    head heads[2];
    bool is[2];
    for (int i = 0; i < 2; i++) {
        settle(&s->slot[i]);
    }
    for (int i = 0; i < 2; i++) {
        const int code = look(s, i, &heads[i], &is[i], e);
        if (code != ZGN_OK) {
            return code;
        }
    }
    s->generation = 0;
    s->newest = -1;
    memset(&s->wear, 0, sizeof s->wear);
    *whole = false;
    const int first = is[1] && (!is[0] || heads[1].generation > heads[0].generation);
    for (int turn = 0; turn < 2 && !*whole; turn++) {
        const int i = turn == 0 ? first : 1 - first;
        if (!is[i] || !read_state(s, i, &heads[i], into)) {
            continue;
        }
        if (into != NULL) {
            zgn_error why;
            if (zgn_model_check(s->model, &why) != ZGN_OK) {
                found(s, i, why.text);
                continue;
            }
        }
        found(s, i, NULL);
        s->generation = heads[i].generation;
        s->newest = i;
        s->wear = heads[i].wear;
        *whole = true;
    }
    if (*whole && is[1 - s->newest] && !is_damaged(s, 1 - s->newest) &&
        read_state(s, 1 - s->newest, &heads[1 - s->newest], NULL)) {
        found(s, 1 - s->newest, NULL);
    }
    if (*whole && s->generation > 1 && strcmp(s->found[1 - s->newest], "empty") == 0) {
        found(s, 1 - s->newest, "it is empty, and held a state"); /* the commit before this one went there */
    }
    return ZGN_OK;
}

/* ---- the store ---- */

static void trouble(zgn_store *s, const char *why) {
    (void)snprintf(s->failure, sizeof s->failure, "Learned state is not kept in %.300s: %.150s", s->folder,
                   why);
    s->not_before = zgn_now() + s->retry;
    s->retry = 2 * s->retry < RETRY_MOST ? 2 * s->retry : RETRY_MOST;
}

static void disk_trouble(zgn_store *s, int error) {
    char why[100];
    (void)snprintf(why, sizeof why, "%s.", strerror(error));
    trouble(s, why);
}

/* Go on in memory where the disk is in trouble; an error where the folder cannot be used. */
static int met(zgn_store *s, int error, zgn_error *e) {
    if (!is_trouble(error)) {
        return zgn_fail(e, ZGN_FAILED, "Name a folder that this user may write to with --state.",
                        "Cannot keep learned state in %s: %s.", s->folder, strerror(error));
    }
    disk_trouble(s, error);
    return ZGN_OK;
}

static int make_folders(const char *folder) {
    char path[4096];
    const size_t n = strlen(folder);
    if (n == 0 || n >= sizeof path) {
        return n == 0 ? ENOENT : ENAMETOOLONG;
    }
    memcpy(path, folder, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] == '/' || path[i] == 0) {
            path[i] = 0;
            struct stat about;
            const int error = mkdir(path, i == n ? 0770 : 0777) == 0 ? 0 : errno;
            if (error != 0 && (stat(path, &about) != 0 || !S_ISDIR(about.st_mode))) {
                return error;
            }
            path[i] = folder[i];
        }
    }
    return 0;
}

static int own(zgn_store *s, zgn_error *e) {
    char path[4096];
    int error = path_in(path, sizeof path, s->folder, "lock");
    error = error == 0 ? make_folders(s->folder) : error;
    if (error != 0) {
        return met(s, error, e);
    }
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
    if (s->lock < 0 && errno == EROFS) {
        s->lock = open(s->folder, O_RDONLY | O_CLOEXEC);
    }
    if (s->lock >= 0 && flock(s->lock, LOCK_EX | LOCK_NB) == 0) {
        return ZGN_OK;
    }
    if (errno == EWOULDBLOCK) {
        return zgn_fail(e, ZGN_FAILED, "Stop it, or name another folder with --state.",
                        "Another service learns in %s.", s->folder);
    }
    return met(s, errno, e);
}

static int prepare(zgn_store *s) {
    if (!s->opened) {
        /* Where it could not be made before, this says why, and makes it once that is possible. */
        const int missing = make_folders(s->folder);
        if (missing != 0) {
            return missing;
        }
        const uint64_t size = (ZGN_PAGE + s->model->bytes + s->erase - 1) / s->erase * s->erase;
        for (int i = 0; i < 2; i++) {
            const int error = open_disk(&s->slot[i], s->folder, names[i], size);
            if (error != 0) {
                close_disk(&s->slot[0]);
                return error;
            }
        }
        s->opened = true;
    }
    if (s->log.disk.fd < 0) {
        const int error = attach(&s->log, s->folder, s->piece);
        if (error != 0) {
            atomic_store(&s->log.failure, error);
        }
    }
    return 0;
}

static void blank(zgn_store *s, const char *folder, zgn_model *model) {
    memset(s, 0, sizeof *s);
    s->folder = folder;
    s->model = model;
    s->lock = s->slot[0].fd = s->slot[1].fd = s->log.disk.fd = -1;
    s->newest = -1;
    s->loaded = s->last = -1;
    s->retry = RETRY_LEAST;
    s->started = zgn_now();
    for (int i = 0; i < 2; i++) {
        (void)snprintf(s->found[i], sizeof s->found[i], "empty");
    }
}

int zgn_store_open(zgn_store *s, const char *folder, zgn_model *model, double interval, uint32_t erase, int wake,
                   zgn_error *e) {
    blank(s, folder, model);
    s->interval = interval;
    s->erase = erase;
    if (erase < ZGN_PAGE || (erase & (erase - 1)) != 0) {
        return zgn_fail(e, ZGN_USAGE, "Take a power of two from 4096 on.",
                        "An erase block of %u bytes means nothing.", erase);
    }
    if (!(interval >= 0)) {
        return zgn_fail(e, ZGN_USAGE, NULL, "An interval of %g seconds means nothing.", interval);
    }
    const int code = own(s, e);
    if (code != ZGN_OK) {
        return code;
    }
    int error = start_flusher(wake);
    if (error != 0) {
        return zgn_fail(e, ZGN_FAILED, NULL, "Cannot start a thread: %s.", strerror(error));
    }
    memset(s->piece, 0, sizeof s->piece); /* touched: no page of it is new to the process later */
    error = prepare(s);
    return error == 0 ? ZGN_OK : met(s, error, e);
}

int zgn_store_load(zgn_store *s, bool *whole, zgn_error *e) {
    *whole = false;
    if (!s->opened) {
        return ZGN_OK;
    }
    const int code = load(s, s->model->arena, whole, e);
    if (code != ZGN_OK) {
        return code;
    }
    s->base = s->wear.seconds;
    s->started = zgn_now();
    s->loaded = *whole ? (int64_t)s->generation : -1;
    return ZGN_OK;
}

int zgn_store_peek(zgn_store *s, const char *folder, zgn_model *model, bool *whole, zgn_error *e) {
    blank(s, folder, model);
    *whole = false;
    for (int i = 0; i < 2; i++) {
        char path[4096];
        int error = path_in(path, sizeof path, folder, names[i]);
        s->slot[i].read_only = true;
        s->slot[i].fd = error == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (s->slot[i].fd < 0) {
            error = error == 0 ? errno : error;
            close_disk(&s->slot[0]);
            return error == ENOENT ? ZGN_OK
                                   : zgn_fail(e, ZGN_FAILED, "Ask as the service's user.", "Cannot read %s: %s.",
                                              folder, strerror(error));
        }
    }
    const int code = load(s, model->arena, whole, e);
    close_disk(&s->slot[0]);
    close_disk(&s->slot[1]);
    return code;
}

bool zgn_store_due(const zgn_store *s) {
    const int64_t now = zgn_now();
    const int64_t since = s->last < 0 ? s->started : s->last;
    return !s->busy && (double)(now - since) >= s->interval * 1e9 && now >= s->not_before;
}

/* Open what could not be opened, or not for writing, before. What lies there was perhaps never looked at. */
static bool again(zgn_store *s) {
    if (s->opened && (s->slot[0].read_only || s->slot[1].read_only)) {
        close_disk(&s->slot[0]);
        close_disk(&s->slot[1]);
        s->opened = false;
    }
    const bool before = s->opened;
    const int error = prepare(s);
    if (error != 0) {
        disk_trouble(s, error);
        return false;
    }
    if (!before) {
        bool whole;
        zgn_error e;
        if (load(s, NULL, &whole, &e) != ZGN_OK) {
            close_disk(&s->slot[0]);
            close_disk(&s->slot[1]);
            s->opened = false;
            trouble(s, e.text);
            return false;
        }
        s->base = s->base > s->wear.seconds ? s->base : s->wear.seconds;
    }
    return true;
}

static uint64_t running(const zgn_store *s) { return s->base + (uint64_t)((zgn_now() - s->started) / SECOND); }

static void pass_time(zgn_wear *w, uint64_t seconds) {
    if (seconds / DAY > w->seconds / DAY) {
        w->day_before = seconds / DAY - w->seconds / DAY == 1 ? w->today : 0;
        w->today = 0;
    }
    w->seconds = seconds > w->seconds ? seconds : w->seconds;
}

static void add_wear(zgn_wear *w, uint64_t bytes) {
    w->written += bytes;
    w->today += bytes;
}

static int target(const zgn_store *s) { return s->newest < 0 ? 0 : 1 - s->newest; }

/* The commit under way has failed. */
static void give_up(zgn_store *s, int error) {
    s->busy = s->syncing = false;
    found(s, target(s), "a commit failed");
    disk_trouble(s, error);
}

void zgn_store_begin(zgn_store *s) {
    if ((s->failure[0] != 0 || s->log.disk.fd < 0) && !again(s)) {
        return;
    }
    if (!s->opened) {
        return;
    }
    zgn_log_flush(&s->log);
    pass_time(&s->wear, running(s));
    add_wear(&s->wear, ZGN_PAGE * (s->log.pages - s->counted));
    s->counted = s->log.pages;
    s->busy = true;
    s->at = 0;
    s->phase = ZGN_STATE;
    zgn_blake_start(&s->blake);
    found(s, target(s), "a commit is under way");
    /* All at once, because learning goes on in these bytes; the system keeps what it was given. */
    const int error = write_at(&s->slot[target(s)], s->model->arena, s->model->bytes, ZGN_PAGE);
    if (error != 0) {
        give_up(s, error);
    }
}

/* One piece: 0 and `more`, or an errno. */
static int step(zgn_store *s, bool wait, bool *more) {
    zgn_disk *disk = &s->slot[target(s)];
    *more = true;
    if (s->phase == ZGN_STATE) {
        /* What was written is read again for its digest. */
        const size_t left = s->model->bytes - s->at, n = left < ZGN_PIECE ? left : ZGN_PIECE;
        size_t got;
        const int error = read_at(disk, s->piece, n, ZGN_PAGE + s->at, &got);
        if (error != 0 || got < n) {
            return error != 0 ? error : EIO;
        }
        zgn_blake_add(&s->blake, s->piece, n);
        s->at += n;
        s->phase = s->at == s->model->bytes ? ZGN_HEAD : ZGN_STATE;
        return 0;
    }
    if (s->phase == ZGN_HEAD) {
        head h;
        uint8_t raw[HEADER];
        s->wear.commits++;
        add_wear(&s->wear, ZGN_PAGE + whole_pages(s->model->bytes));
        memcpy(h.model, s->model->identity, ZGN_DIGEST);
        h.generation = s->generation + 1;
        h.at = ZGN_PAGE;
        h.bytes = (uint32_t)s->model->bytes;
        h.wear = s->wear;
        zgn_blake_end(&s->blake, h.payload);
        pack(&h, raw);
        s->phase = ZGN_SYNC;
        return write_at(disk, raw, sizeof raw, 0);
    }
    (void)pthread_mutex_lock(&flusher.mutex);
    if (!s->syncing) {
        flusher.disk = *disk;
        flusher.log = &s->log;
        flusher.ended = false;
        flusher.wanted = s->syncing = true;
        (void)pthread_cond_signal(&flusher.work);
    }
    while (wait && !flusher.ended) {
        (void)pthread_cond_wait(&flusher.done, &flusher.mutex);
    }
    const bool ended = flusher.ended;
    const int error = flusher.error;
    (void)pthread_mutex_unlock(&flusher.mutex);
    if (!ended) {
        return 0;
    }
    s->syncing = false;
    if (error != 0) {
        return error;
    }
    s->newest = target(s);
    s->generation++;
    found(s, s->newest, NULL);
    *more = false;
    return 0;
}

bool zgn_store_step(zgn_store *s, bool wait) {
    if (!s->busy) {
        return false;
    }
    bool more;
    const int error = step(s, wait, &more);
    if (error != 0) {
        give_up(s, error);
        return false;
    }
    if (more) {
        return true;
    }
    s->busy = false;
    s->failure[0] = 0;
    s->last = zgn_now();
    s->not_before = 0;
    s->retry = RETRY_LEAST;
    return false;
}

void zgn_store_finish(zgn_store *s) {
    while (zgn_store_step(s, true)) {
    }
}

void zgn_store_close(zgn_store *s) {
    /* A sync that is under way ends first: its file must not be another one's by then. */
    if (s->syncing) {
        (void)pthread_mutex_lock(&flusher.mutex);
        while (!flusher.ended) {
            (void)pthread_cond_wait(&flusher.done, &flusher.mutex);
        }
        (void)pthread_mutex_unlock(&flusher.mutex);
        s->syncing = false;
    }
    close_disk(&s->slot[0]);
    close_disk(&s->slot[1]);
    close_disk(&s->log.disk);
    s->opened = false;
    if (s->lock >= 0) {
        (void)close(s->lock);
        s->lock = -1;
    }
}

void zgn_put_store(zgn_out *out, const zgn_store *s) {
    const int64_t now = zgn_now();
    const uint64_t seconds = running(s), logged = ZGN_PAGE * (s->log.pages - s->counted);
    const uint64_t written = s->wear.written + logged;
    zgn_put(out, "{\"folder\": ");
    zgn_put_string(out, s->folder);
    zgn_put(out, ", \"slots\": [");
    zgn_put_string(out, s->found[0]);
    zgn_put(out, ", ");
    zgn_put_string(out, s->found[1]);
    zgn_put(out, "], \"generation\": %llu, \"loaded\": ", (unsigned long long)s->generation);
    if (s->loaded < 0) {
        zgn_put(out, "null");
    } else {
        zgn_put(out, "%lld", (long long)s->loaded);
    }
    zgn_put(out, ", \"commits\": %llu, \"interval\": ", (unsigned long long)s->wear.commits);
    zgn_put_number(out, s->interval);
    zgn_put(out, ", \"since_commit\": ");
    if (s->last < 0) {
        zgn_put(out, "null");
    } else {
        zgn_put(out, "%.3f", (double)(now - s->last) / 1e9);
    }
    zgn_put(out, ", \"busy\": %s, \"written\": %llu", s->busy ? "true" : "false", (unsigned long long)written);
    zgn_put(out, ", \"written_a_day\": %.0f", (double)(written * DAY) / (double)(seconds < 3600 ? 3600 : seconds));
    zgn_put(out, ", \"written_today\": %llu, \"written_day_before\": %llu, \"running\": %llu, \"failure\": ",
            (unsigned long long)(s->wear.today + logged), (unsigned long long)s->wear.day_before,
            (unsigned long long)seconds);
    zgn_put_string(out, s->failure[0] == 0 ? NULL : s->failure);
    const int error = atomic_load(&s->log.failure);
    char why[120];
    (void)snprintf(why, sizeof why, "Events are not written: %s.", strerror(error));
    zgn_put(out, ", \"log_failure\": ");
    zgn_put_string(out, error == 0 ? NULL : why);
    zgn_put(out, "}");
}
