/* Requests that are answered by a stream: lines of which the last has the state 2 or 3, or is an error. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "load.h"

#define BUFFER (1 << 18)
#define SIP 4096       /* bytes that a slow reader takes at a time, one sip each PAUSE */
#define PAUSE 20000000 /* nanoseconds */

static const char TEXT[] = "\"text\":\"";
static const char STATE[] = "\"_callback_state\":";

typedef struct {
    int descriptor;
    char *buffer;
    size_t length; /* of the line that has begun */
    size_t size;
    long tokens;
    long bytes;
    int last; /* the state of the last line, -1 for an error, -2 as long as none came */
    int64_t first;
    int64_t ended;
    bool isSlow;
} Reader;

static const char *find(const char *line, size_t length, const char *what) {
    return memmem(line, length, what, strlen(what));
}

static void lineReceived(Reader *reader, const char *line, size_t length, int64_t time, Times *latencies) {
    const char *state = find(line, length, STATE);
    int value = state ? atoi(state + strlen(STATE)) : -1;
    if (value != 0 && value != 1) {
        reader->last = value;
        reader->ended = time;
        return;
    }
    if (reader->tokens++ == 0)
        reader->first = time;
    const char *text = find(line, length, TEXT);
    long long born = text ? strtoll(text + strlen(TEXT), NULL, 10) : 0;
    if (born > 0)
        addTime(latencies, time - born);
}

/* One read, and the lines in it. */
static void readSome(Reader *reader, size_t most, Times *latencies) {
    if (reader->size - reader->length < most) {
        reader->size = 2 * reader->size + most;
        reader->buffer = realloc(reader->buffer, reader->size);
        if (reader->buffer == NULL)
            fail("memory");
    }
    size_t got = receive(reader->descriptor, reader->buffer + reader->length, most);
    int64_t time = now();
    reader->bytes += (long)got;
    char *start = reader->buffer, *end = start + reader->length + got, *from = start + reader->length;
    for (char *stop; (stop = memchr(from, '\n', (size_t)(end - from))) != NULL; start = from = stop + 1)
        lineReceived(reader, start, (size_t)(stop - start), time, latencies);
    reader->length = (size_t)(end - start);
    memmove(reader->buffer, start, reader->length);
}

static Reader readerOf(const char *path) {
    Reader reader = {.descriptor = connectTo(path), .last = -2};
    return reader;
}

static void send(Reader *reader, const char *request) {
    sendAll(reader->descriptor, request, strlen(request));
    sendAll(reader->descriptor, "\n", 1);
}

int stream(const char *path, const char *request) {
    Times latencies = {0};
    Reader reader = readerOf(path);
    int64_t began = now();
    send(&reader, request);
    while (reader.last == -2)
        readSome(&reader, BUFFER, &latencies);
    double whole = (double)(reader.ended - began) / 1e9, rest = (double)(reader.ended - reader.first) / 1e9;
    printf("{\"tokens\": %ld, \"bytes\": %ld, \"last\": %d, ", reader.tokens, reader.bytes, reader.last);
    printf("\"seconds\": %.9f, \"from_first\": %.9f, ", whole, rest);
    printQuantiles("latency", &latencies);
    puts("}");
    free(reader.buffer);
    return 0;
}

/* Readers, of which some sip. */

static void readAll(Reader *all, int count, Times *latencies) {
    struct pollfd *polled = allocate((size_t)count * sizeof *polled);
    int left = count;
    for (int64_t sip = 0, heard = now(); left > 0;) {
        int64_t time = now();
        if (time - heard > PATIENCE * 1000000000LL)
            fail("no line came");
        bool isTime = time >= sip;
        sip = isTime ? time + PAUSE : sip;
        for (int at = 0; at < count; at++) {
            bool waits = all[at].last == -2 && (!all[at].isSlow || isTime);
            polled[at] = (struct pollfd){.fd = waits ? all[at].descriptor : -1, .events = POLLIN};
        }
        if (poll(polled, (nfds_t)count, (int)(PAUSE / 1000000)) < 0)
            fail("poll");
        for (int at = 0; at < count; at++) {
            if (polled[at].fd < 0 || !polled[at].revents)
                continue;
            readSome(&all[at], all[at].isSlow ? SIP : BUFFER, latencies);
            left -= all[at].last != -2;
            heard = now();
        }
    }
    free(polled);
}

static void printEnds(const char *name, const Reader *all, int from, int to, int64_t began) {
    long tokens = 0, finished = 0;
    int64_t last = began;
    for (int at = from; at < to; at++) {
        tokens += all[at].tokens;
        finished += all[at].last == 2;
        last = all[at].ended > last ? all[at].ended : last;
    }
    printf("\"%s\": {\"tokens\": %ld, \"finished\": %ld, ", name, tokens, finished);
    printf("\"seconds\": %.9f}, ", (double)(last - began) / 1e9);
}

int readers(const char *path, int count, int slow, const char *request) {
    Times latencies = {0};
    Reader *all = allocate((size_t)count * sizeof *all);
    for (int at = 0; at < count; at++) {
        all[at] = readerOf(path);
        all[at].isSlow = at < slow;
    }
    int64_t began = now();
    for (int at = 0; at < count; at++)
        send(&all[at], request);
    readAll(all, count, &latencies);
    printf("{");
    printEnds("slow", all, 0, slow, began);
    printEnds("fast", all, slow, count, began);
    printQuantiles("latency", &latencies);
    puts("}");
    for (int at = 0; at < count; at++)
        free(all[at].buffer);
    free(all);
    return 0;
}
