/* What the modes of the load generator share. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATIENCE 60 /* seconds after which it fails if a server says nothing */

/* Times in nanoseconds, in the order in which they were taken. */
typedef struct {
    int64_t *times;
    size_t count;
    size_t room;
} Times;

void addTime(Times *times, int64_t nanoseconds);

/* "name": [the 0 ‰, 1 ‰ ... 1000 ‰ quantiles in microseconds], empty if there are no times. Sorts them. */
void printQuantiles(const char *name, Times *times);

int64_t now(void);

/* The CPU time that a process has taken, all its threads together, in nanoseconds. */
int64_t spent(int pid);

/* Each of these ends the process, and says why, if it fails. */
void fail(const char *what);
void *allocate(size_t size);
int connectTo(const char *path);
void sendAll(int descriptor, const char *bytes, size_t length);

/* Reads what there is, at least one byte. */
size_t receive(int descriptor, char *buffer, size_t size);

/* The modes, see load.c. */
int calls(const char *path, int clients, double seconds, const char *request, int pid);
int pipelined(const char *path, int count, const char *request);
int stream(const char *path, const char *request);
int readers(const char *path, int count, int slow, const char *request);

#endif
