/* The KV cache as a row of token ids, and prompt cache files in a format of our own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MAGIC "RKLLM-STANDIN-CACHE"

void cacheRemove(Cache *cache, size_t start, size_t end) {
    if (end > cache->count)
        end = cache->count;
    if (start >= end)
        return;
    memmove(cache->ids + start, cache->ids + end, (cache->count - end) * sizeof *cache->ids);
    cache->count -= end - start;
    if (cache->systemCount > start)
        cache->systemCount = start;
}

/* The context is full: half of what is not to be kept goes, the oldest first. */
static void shift(Cache *cache, size_t keep) {
    size_t loose = cache->count - keep;
    cacheRemove(cache, keep, keep + (loose + 1) / 2);
    note("{\"event\": \"shift\", \"left\": %zu}", cache->count);
}

void cacheAppend(Cache *cache, const int32_t *ids, size_t count, const RKLLMParam *param) {
    size_t room = (size_t)param->max_context_len, keep = 0;
#if ABI >= ABI_1_2_0
    keep = param->n_keep > 0 ? (size_t)param->n_keep : 0;
#endif
    if (cache->ids == NULL)
        cache->ids = allocate(room * sizeof *cache->ids);
    for (size_t at = 0; at < count; at++) {
        if (cache->count == room)
            shift(cache, keep);
        cache->ids[cache->count++] = ids[at];
    }
}

/*
 * Cuts the cache to what the prompt can go on from, and says how many tokens of the prompt are in it already. At least
 * one token is left to compute: its row gives the first of the answer.
 */
size_t cacheReuse(Cache *cache, const Prompt *prompt, bool keepsHistory, bool mayReuse) {
    if (keepsHistory)
        return 0;
    size_t common = 0;
    while (mayReuse && common < cache->count && common + 1 < prompt->count && cache->ids[common] == prompt->ids[common])
        common++;
    cache->count = common;
    cache->systemCount = 0;
    return common;
}

void cacheClear(Cache *cache, bool keepSystem) {
    cache->count = keepSystem ? cache->systemCount : 0;
    cache->systemCount = cache->count;
}

void cacheFree(Cache *cache) {
    free(cache->ids);
    *cache = (Cache){0};
}

bool savePromptCache(const char *path, const Prompt *prompt) {
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        complain("cannot write the prompt cache %s: %s", path, strerror(errno));
        return false;
    }
    fprintf(file, MAGIC " %zu\n", prompt->count);
    for (size_t at = 0; at < prompt->count; at++)
        fprintf(file, "%d\n", prompt->ids[at]);
    return fclose(file) == 0;
}

static bool readIds(FILE *file, Cache *cache) {
    size_t count;
    if (fscanf(file, MAGIC " %zu", &count) != 1 || count > 1 << 24)
        return false;
    cache->ids = allocate(count * sizeof *cache->ids);
    while (cache->count < count && fscanf(file, "%d", &cache->ids[cache->count]) == 1)
        cache->count++;
    return cache->count == count;
}

bool loadPromptCache(const char *path, Cache *cache) {
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        complain("cannot open the prompt cache %s: %s", path, strerror(errno));
        return false;
    }
    bool isWell = readIds(file, cache);
    fclose(file);
    if (!isWell) {
        complain("the prompt cache %s is empty or damaged", path);
        cacheFree(cache);
    }
    return isWell;
}
