/* Faults on purpose: crashes, hangs and gates at a place, and noise. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static int signalOf(const char *kind, size_t length) {
    static const struct {
        const char *kind;
        int number;
    } SIGNALS[] = {{"segv", SIGSEGV}, {"ill", SIGILL}, {"abort", SIGABRT},
                 {"bus", SIGBUS},   {"fpe", SIGFPE}, {"kill", SIGKILL}};
    for (size_t at = 0; at < sizeof SIGNALS / sizeof *SIGNALS; at++)
        if (strlen(SIGNALS[at].kind) == length && strncmp(SIGNALS[at].kind, kind, length) == 0)
            return SIGNALS[at].number;
    return 0;
}

static void crash(const char *kind, size_t length) {
    int number = signalOf(kind, length);
    if (number == SIGABRT)
        fputs("GGML_ASSERT: standin.c:1: the script said so\n", stderr);
    if (number == 0)
        _exit(1); /* kind "exit": the process just ends */
    signal(number, SIG_DFL); /* whatever a sanitizer or an interpreter has installed */
    raise(number);
}

static void hang(void) {
    for (;;)
        pause();
}

/* Returns when somebody has opened the FIFO for writing, at once if it is an ordinary file. */
static void waitAtGate(const char *path) {
    int gate = open(path, O_RDONLY | O_CLOEXEC);
    if (gate < 0) {
        violation("script", "the gate %s cannot be opened", path);
        return;
    }
    char byte;
    while (read(gate, &byte, 1) > 0)
        ;
    close(gate);
}

/* The value is WHAT@PLACE; gives the length of WHAT if the place is this one, else -1. */
static long whatAt(const char *value, const char *place) {
    const char *at = value ? strrchr(value, '@') : NULL;
    return at && strcmp(at + 1, place) == 0 ? at - value : -1;
}

void arrive(const Script *script, const char *place) {
    const char *gate = scriptText(script, "gate");
    long length = whatAt(gate, place);
    if (length >= 0) {
        char *path = copyOfBytes(gate, (size_t)length);
        note("{\"event\": \"gate\", \"place\": \"%s\"}", place);
        waitAtGate(path);
        free(path);
    }
    if (scriptLists(script, "hang", place)) {
        note("{\"event\": \"hang\", \"place\": \"%s\"}", place);
        hang();
    }
    const char *crashes = scriptText(script, "crash");
    length = whatAt(crashes, place);
    if (length >= 0) {
        note("{\"event\": \"crash\", \"place\": \"%s\"}", place);
        crash(crashes, (size_t)length);
    }
}

void arriveAtToken(const Script *script, size_t number) {
    char place[24];
    snprintf(place, sizeof place, "%zu", number);
    arrive(script, place);
}

void chatter(const Script *script, const char *about) {
    if (scriptLists(script, "chatter", "stdout")) {
        printf("standin chatters on stdout: %s\n", about);
        fflush(stdout);
    }
    if (scriptLists(script, "chatter", "stderr"))
        fprintf(stderr, "standin chatters on stderr: %s\n", about);
    if (scriptLists(script, "chatter", "binary")) {
        fwrite("\xff\x00\xfe{\"id\":\n", 1, 9, stdout);
        fflush(stdout);
    }
}
