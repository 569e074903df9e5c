/* Sockets, time and quantiles. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define QUANTILES 1000

void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail("memory");
    return memory;
}

int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int64_t spent(int pid) {
    struct timespec time;
    clockid_t clock = (clockid_t)(~(unsigned)pid << 3 | 2); /* what clock_getcpuclockid makes of it on Linux */
    if (clock_gettime(clock, &time) < 0)
        fail("the CPU clock of the server");
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int connectTo(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    strcpy(address.sun_path, path);
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    return descriptor;
}

void sendAll(int descriptor, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(descriptor, bytes, length, MSG_NOSIGNAL);
        if (sent < 0)
            fail("send");
        bytes += sent;
        length -= (size_t)sent;
    }
}

size_t receive(int descriptor, char *buffer, size_t size) {
    ssize_t got = recv(descriptor, buffer, size, 0);
    if (got < 0)
        fail("recv");
    if (got == 0) {
        fputs("load: the server closed the connection\n", stderr);
        exit(1);
    }
    return (size_t)got;
}

void addTime(Times *times, int64_t nanoseconds) {
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 4096;
        times->times = realloc(times->times, times->room * sizeof *times->times);
        if (times->times == NULL)
            fail("memory");
    }
    times->times[times->count++] = nanoseconds;
}

static int compare(const void *left, const void *right) {
    int64_t one = *(const int64_t *)left, other = *(const int64_t *)right;
    return (one > other) - (one < other);
}

void printQuantiles(const char *name, Times *times) {
    printf("\"%s\": [", name);
    if (times->count) {
        qsort(times->times, times->count, sizeof *times->times, compare);
        for (size_t at = 0; at <= QUANTILES; at++)
            printf("%s%.2f", at ? ", " : "", (double)times->times[at * (times->count - 1) / QUANTILES] / 1000);
    }
    printf("]");
    free(times->times);
}
