/*
 * The script: key=value pairs, separated by semicolons or newlines, from the environment variable RKLLM_STANDIN and
 * from the file that RKLLM_STANDIN_CONTROL names, whose values win. README.md has the table of keys.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

typedef struct Pair {
    struct Pair *older;
    char *key;
    char *value;
} Pair;

struct Script {
    Pair *newest;
};

static const char *const KEYS[] = {
    "abort_ends", "after_abort", "async",   "bos",         "chatter",    "cpus",       "crash",        "endless",
    "eos",        "error",       "fail",    "finish",      "gate",       "grow",       "hang",         "hidden",
    "ids",        "init",        "log",     "perf",        "platform",   "prefill_ms", "prefill_deaf", "ranges",
    "returns",    "rows",        "run",     "stale_abort", "stamps",     "token_ms",   "token_us",     "tokens",
    "utf8",       "version",     "violations", "prefill_counts", NULL,
};

static bool isKey(const char *key) {
    for (const char *const *known = KEYS; *known; known++)
        if (strcmp(*known, key) == 0)
            return true;
    return false;
}

static void addPair(Script *script, const char *text, size_t length) {
    while (length && strchr(" \t\r", *text))
        text++, length--;
    if (length == 0 || *text == '#')
        return;
    char *key = copyOfBytes(text, length);
    char *equals = strchr(key, '=');
    if (equals)
        *equals = '\0';
    if (!equals || !isKey(key)) {
        violation("script", "unknown key %s in the script, README.md has the table", key);
        free(key);
        return;
    }
    Pair *pair = allocate(sizeof *pair);
    *pair = (Pair){script->newest, key, copyOf(equals + 1)};
    script->newest = pair;
}

/* A backslash takes the meaning from the character behind it; it stays for whoever reads the value. */
static void addPairs(Script *script, const char *text) {
    const char *start = text;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
        } else if (*text == ';' || *text == '\n') {
            addPair(script, start, (size_t)(text - start));
            start = text + 1;
        }
    }
    addPair(script, start, (size_t)(text - start));
}

static void addFile(Script *script, const char *path) {
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return; /* no file, no orders: a test may write it later */
    Text text = {0};
    char part[4096];
    for (size_t got; (got = fread(part, 1, sizeof part, file)) > 0;)
        textAddBytes(&text, part, got);
    fclose(file);
    if (text.length)
        addPairs(script, text.bytes);
    textFree(&text);
}

Script *readScript(void) {
    Script *script = allocate(sizeof *script);
    if (getenv("RKLLM_STANDIN"))
        addPairs(script, getenv("RKLLM_STANDIN"));
    if (getenv("RKLLM_STANDIN_CONTROL"))
        addFile(script, getenv("RKLLM_STANDIN_CONTROL"));
    isAbortingOnViolation = scriptIs(script, "violations", "abort");
    return script;
}

void freeScript(Script *script) {
    for (Pair *pair = script->newest, *older; pair; pair = older) {
        older = pair->older;
        free(pair->key);
        free(pair->value);
        free(pair);
    }
    free(script);
}

const char *scriptText(const Script *script, const char *key) {
    for (const Pair *pair = script->newest; pair; pair = pair->older)
        if (strcmp(pair->key, key) == 0)
            return *pair->value ? pair->value : NULL; /* key= takes it back */
    return NULL;
}

long scriptNumber(const Script *script, const char *key, long otherwise) {
    const char *value = scriptText(script, key);
    if (value == NULL)
        return otherwise;
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno || end == value || *end)
        violation("script", "%s=%s: expected a number", key, value);
    return number;
}

bool scriptIs(const Script *script, const char *key, const char *value) {
    const char *found = scriptText(script, key);
    return found && strcmp(found, value) == 0;
}

/* Whether the item is one of those that the value names, which are separated by commas. */
bool scriptLists(const Script *script, const char *key, const char *item) {
    size_t length = strlen(item);
    for (const char *at = scriptText(script, key); at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, item, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}
