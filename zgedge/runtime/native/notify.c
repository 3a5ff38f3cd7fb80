/* notify.c: systemd's notifications (sd_notify), without its library. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "zgn.h"

uint32_t zgn_address(struct sockaddr_un *address, const char *path, bool abstract) {
    const size_t n = strlen(path);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (n == 0 || n >= sizeof address->sun_path) {
        return 0;
    }
    memcpy(address->sun_path, path, n);
    if (abstract && path[0] == '@') {
        address->sun_path[0] = 0;
        return (uint32_t)(offsetof(struct sockaddr_un, sun_path) + n);
    }
    return (uint32_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
}

void zgn_notify_open(zgn_notify *n) {
    n->fd = -1;
    n->every = n->next = 0;
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    const uint32_t bytes = path == NULL ? 0 : zgn_address(&address, path, true);
    if (bytes == 0) {
        return;
    }
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (n->fd >= 0 && connect(n->fd, (const struct sockaddr *)&address, (socklen_t)bytes) != 0) {
        (void)close(n->fd);
        n->fd = -1;
    }
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    const bool mine = pid == NULL || strtoll(pid, NULL, 10) == (long long)getpid();
    const long long watchdog = usec == NULL ? 0 : strtoll(usec, NULL, 10);
    if (n->fd >= 0 && mine && watchdog > 0 && watchdog < 1000000000000) {
        n->every = (int64_t)watchdog * 1000 / 3;
    }
}

void zgn_notify_say(const zgn_notify *n, const char *text) {
    if (n->fd >= 0) {
        (void)send(n->fd, text, strlen(text), MSG_NOSIGNAL);
    }
}

void zgn_notify_alive(zgn_notify *n, int64_t now) {
    if (n->every > 0 && now >= n->next) {
        zgn_notify_say(n, "WATCHDOG=1");
        n->next = now + n->every;
    }
}
