/*
 * What the stand-in says: a log of calls and violations in the file that RKLLM_STANDIN_LOG names, one JSON object a
 * line; error lines as the vendor's on stderr; and violations, which are defects of the caller, there too.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

_Atomic bool isAbortingOnViolation;

/* One write to a file opened for appending: lines of several threads and processes do not mix. */
static void appendLine(const char *path, Text *line) {
    textAdd(line, "\n");
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line->bytes, line->length) != (ssize_t)line->length)
        fprintf(stderr, "standin: cannot write to the log %s\n", path);
    if (file >= 0)
        close(file);
}

static void log_(Text *line) {
    const char *path = getenv("RKLLM_STANDIN_LOG");
    if (path)
        appendLine(path, line);
}

static char *formatted(const char *format, va_list arguments) {
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0)
        abort();
    return text;
}

void note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = formatted(format, arguments);
    va_end(arguments);
    Text line = {0};
    textAdd(&line, "%s", text);
    log_(&line);
    textFree(&line);
    free(text);
}

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = formatted(format, arguments);
    va_end(arguments);
    fprintf(stderr, "E rkllm: %s\n", text);
    Text line = {0};
    textAdd(&line, "{\"event\": \"error\", \"line\": ");
    textAddQuoted(&line, text);
    textAdd(&line, "}");
    log_(&line);
    textFree(&line);
    free(text);
}

void violation(const char *function, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = formatted(format, arguments);
    va_end(arguments);
    fprintf(stderr, "STAND-IN VIOLATION in %s: %s\n", function, text);
    Text line = {0};
    textAdd(&line, "{\"event\": \"violation\", \"function\": \"%s\", \"what\": ", function);
    textAddQuoted(&line, text);
    textAdd(&line, "}");
    log_(&line);
    textFree(&line);
    free(text);
    if (isAbortingOnViolation)
        abort();
}
