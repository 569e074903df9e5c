/*
 * The load of the benchmarks, in a process of its own and in C, so that what is measured is the server.
 *
 *     load calls PATH CLIENTS SECONDS REQUEST PID each client asks, waits for the answer, asks again; PID is the server
 *     load pipelined PATH COUNT REQUEST           one client sends them all at once and then reads
 *     load stream PATH REQUEST                    one client reads a stream to its last line
 *     load readers PATH COUNT SLOW REQUEST        so many clients read a stream each, the first SLOW of them slowly
 *
 * REQUEST has no line end. What was measured is printed as one JSON object.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

int main(int count, char **words) {
    const char *mode = count > 2 ? words[1] : "";
    if (strcmp(mode, "calls") == 0 && count == 7)
        return calls(words[2], atoi(words[3]), atof(words[4]), words[5], atoi(words[6]));
    if (strcmp(mode, "pipelined") == 0 && count == 5)
        return pipelined(words[2], atoi(words[3]), words[4]);
    if (strcmp(mode, "stream") == 0 && count == 4)
        return stream(words[2], words[3]);
    if (strcmp(mode, "readers") == 0 && count == 6)
        return readers(words[2], atoi(words[3]), atoi(words[4]), words[5]);
    fputs("load: expected a mode and its arguments, see load.c\n", stderr);
    return 2;
}
