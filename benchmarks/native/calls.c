/* Requests that have one answer each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "load.h"

#define WARM 20 /* calls of each client before the clock starts */
#define BUFFER 65536

typedef struct {
    int descriptor;
    int64_t sent;
} Client;

typedef struct {
    char *line;
    size_t length;
    Client *clients;
    int count;
    int epoll;
} Load;

static char *lineOf(const char *request, size_t *length) {
    *length = strlen(request) + 1;
    char *line = allocate(*length + 1);
    memcpy(line, request, *length - 1);
    line[*length - 1] = '\n';
    return line;
}

static void ask(const Load *load, Client *client) {
    client->sent = now();
    sendAll(client->descriptor, load->line, load->length);
}

static void begin(Load *load, const char *path) {
    load->clients = allocate((size_t)load->count * sizeof *load->clients);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load->epoll < 0)
        fail("epoll_create1");
    for (int at = 0; at < load->count; at++) {
        load->clients[at].descriptor = connectTo(path);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &load->clients[at]};
        if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, load->clients[at].descriptor, &event) < 0)
            fail("epoll_ctl");
    }
}

/* Those that can be read. With one client there is nothing to choose, and a call to save: reading waits as well. */
static int readable(const Load *load, struct epoll_event *events, int room) {
    if (load->count == 1) {
        events[0].data.ptr = &load->clients[0];
        return 1;
    }
    int count = epoll_wait(load->epoll, events, room, PATIENCE * 1000);
    if (count <= 0)
        fail(count ? "epoll_wait" : "no answer came");
    return count;
}

/* Whether the answer is there; it is a line, and nothing comes behind it. */
static bool isAnswered(const Client *client) {
    static char buffer[BUFFER];
    return buffer[receive(client->descriptor, buffer, sizeof buffer) - 1] == '\n';
}

/* Let everybody ask until so many answers have come and the time is over. Returns how many came. */
static long repeat(const Load *load, long least, int64_t end, Times *times) {
    struct epoll_event events[64];
    long answers = 0;
    for (int64_t time = now(); answers < least || time < end;) {
        for (int left = readable(load, events, 64); left-- > 0;) {
            Client *client = events[left].data.ptr;
            if (!isAnswered(client))
                continue;
            time = now();
            addTime(times, time - client->sent);
            answers++;
            ask(load, client);
        }
    }
    return answers;
}

int calls(const char *path, int clients, double seconds, const char *request, int pid) {
    Load load = {.count = clients};
    Times warm = {0}, times = {0};
    load.line = lineOf(request, &load.length);
    begin(&load, path);
    for (int at = 0; at < clients; at++)
        ask(&load, &load.clients[at]);
    repeat(&load, (long)clients * WARM, 0, &warm);
    int64_t before = spent(pid), began = now();
    long answers = repeat(&load, 1, began + (int64_t)(seconds * 1e9), &times);
    double elapsed = (double)(now() - began) / 1e9, cpu = (double)(spent(pid) - before) / 1e9;
    for (int at = 0; at < clients; at++)
        isAnswered(&load.clients[at]);
    printf("{\"answers\": %ld, \"seconds\": %.9f, \"cpu\": %.9f, ", answers, elapsed, cpu);
    printQuantiles("trip", &times);
    puts("}");
    free(warm.times);
    free(load.clients);
    free(load.line);
    return 0;
}

int pipelined(const char *path, int count, const char *request) {
    size_t length;
    char *line = lineOf(request, &length), *all = allocate((size_t)count * length);
    for (int at = 0; at < count; at++)
        memcpy(all + (size_t)at * length, line, length);
    int descriptor = connectTo(path), answers = 0;
    int64_t began = now();
    sendAll(descriptor, all, (size_t)count * length);
    while (answers < count) {
        char buffer[BUFFER];
        for (size_t left = receive(descriptor, buffer, sizeof buffer); left-- > 0;)
            answers += buffer[left] == '\n';
    }
    printf("{\"answers\": %d, \"seconds\": %.9f}\n", answers, (double)(now() - began) / 1e9);
    free(all);
    free(line);
    return 0;
}
