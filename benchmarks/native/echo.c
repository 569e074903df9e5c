/*
 * The least that a server can do: sends back what it reads, over epoll.
 *
 *     echo PATH
 *
 * Prints a line when it listens.
 */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

static int listenOn(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (descriptor < 0 || bind(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    if (listen(descriptor, 1024) < 0)
        fail("listen");
    return descriptor;
}

static void watch(int epoll, int descriptor) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void echo(int descriptor) {
    char buffer[65536];
    ssize_t got = recv(descriptor, buffer, sizeof buffer, 0);
    if (got <= 0)
        close(descriptor);
    else
        sendAll(descriptor, buffer, (size_t)got);
}

int main(int count, char **words) {
    if (count != 2)
        return 2;
    int listening = listenOn(words[1]), epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listening);
    puts("listening");
    fflush(stdout);
    for (struct epoll_event events[64];;) {
        for (int left = epoll_wait(epoll, events, 64, -1); left-- > 0;) {
            if (events[left].data.fd == listening)
                watch(epoll, accept4(listening, NULL, NULL, SOCK_CLOEXEC));
            else
                echo(events[left].data.fd);
        }
    }
}
