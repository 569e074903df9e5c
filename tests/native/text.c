/* Texts, bytes and memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (memory == NULL) {
        fputs("standin: out of memory\n", stderr);
        abort();
    }
    return memory;
}

char *copyOfBytes(const char *bytes, size_t length) {
    return memcpy(allocate(length + 1), bytes, length);
}

char *copyOf(const char *string) {
    return string ? copyOfBytes(string, strlen(string)) : NULL;
}

void textAddBytes(Text *text, const char *bytes, size_t length) {
    if (text->length + length + 1 > text->room) {
        size_t room = 2 * text->room + length + 64;
        char *larger = allocate(room);
        if (text->length)
            memcpy(larger, text->bytes, text->length);
        free(text->bytes);
        text->bytes = larger;
        text->room = room;
    }
    if (length)
        memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

void textAdd(Text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *added = NULL;
    int length = vasprintf(&added, format, arguments);
    va_end(arguments);
    if (length < 0)
        abort();
    textAddBytes(text, added, (size_t)length);
    free(added);
}

/* What is not UTF-8 becomes escapes of single bytes: the log stays readable whatever it is told. */
void textAddQuoted(Text *text, const char *string) {
    if (string == NULL) {
        textAdd(text, "null");
        return;
    }
    bool isText = isUTF8(string, strlen(string));
    textAdd(text, "\"");
    for (const unsigned char *at = (const unsigned char *)string; *at; at++)
        if (*at == '"' || *at == '\\')
            textAdd(text, "\\%c", *at);
        else if (*at < 0x20 || (*at >= 0x80 && !isText))
            textAdd(text, "\\u%04x", *at);
        else
            textAddBytes(text, (const char *)at, 1);
    textAdd(text, "\"");
}

void textFree(Text *text) {
    free(text->bytes);
    *text = (Text){0};
}

static size_t lengthOfCharacter(unsigned char first) {
    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first < 0xE0)
        return 2;
    if (first >= 0xE0 && first < 0xF0)
        return 3;
    return first >= 0xF0 && first < 0xF5 ? 4 : 0;
}

/* How many bytes at the end are the beginning of a character that is not whole; 0 if none. */
size_t incompleteTail(const char *bytes, size_t length) {
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char byte = (unsigned char)bytes[length - back];
        if ((byte & 0xC0) != 0x80)
            return lengthOfCharacter(byte) > back ? back : 0;
    }
    return 0;
}

static bool isTail(const char *bytes, size_t count) {
    for (size_t at = 0; at < count; at++)
        if (((unsigned char)bytes[at] & 0xC0) != 0x80)
            return false;
    return true;
}

bool isUTF8(const char *bytes, size_t length) {
    for (size_t at = 0; at < length;) {
        size_t size = lengthOfCharacter((unsigned char)bytes[at]);
        if (size == 0 || at + size > length || !isTail(bytes + at + 1, size - 1))
            return false;
        at += size;
    }
    return true;
}

/* FNV-1a of 64 bits. */
uint64_t hashOf(const void *bytes, size_t length, uint64_t seed) {
    uint64_t hash = seed ? seed : 14695981039346656037u;
    for (size_t at = 0; at < length; at++)
        hash = (hash ^ ((const unsigned char *)bytes)[at]) * 1099511628211u;
    return hash;
}
