/* What is read: the prompt enters the KV cache, where as much of it is not there already. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

/* An abort cuts it short, unless it is deaf. */
void takeTime(Model *model, long microseconds, bool isDeaf) {
    if (microseconds <= 0)
        return;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += microseconds % 1000000 * 1000;
    end.tv_sec += microseconds / 1000000 + end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&model->lock);
    while ((isDeaf || !model->isAborted) && pthread_cond_timedwait(&model->changed, &model->lock, &end) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&model->lock);
}

bool keepsHistory(const Run *run) {
#if ABI >= ABI_1_2_0
    return run->infer->keep_history;
#else
    (void)run;
    return false;
#endif
}

static bool mayReuse(const RKLLMInput *input) {
    return ABI >= ABI_1_2_1 || (ABI >= ABI_1_2_0 && input->input_type != RKLLM_INPUT_EMBED);
}

/* A prompt cache that was loaded stands in for a cache that matches less. */
static void usePromptCache(Run *run, int batch) {
    const Cache *loaded = &run->model->promptCache;
    Cache *cache = &run->model->caches[batch];
    const Prompt *prompt = &run->prompts[batch];
    size_t common = 0;
    while (common < loaded->count && common + 1 < prompt->count && loaded->ids[common] == prompt->ids[common])
        common++;
    if (common <= cache->count)
        return;
    cache->count = 0;
    cacheAppend(cache, loaded->ids, common, &run->model->param);
}

/* A model without its embedding table asks the caller for the rows. */
void askForEmbeddings(const Run *run, const int32_t *ids, size_t count) {
    const Model *model = run->model;
#if ABI >= ABI_1_3
    if (model->file.hasEmbedding || model->callback->embed_callback == NULL)
        return;
    size_t numbers = count * (size_t)model->file.embd, size = numbers * sizeof(float);
    float *rows = allocate(size + sizeof(float));
    int32_t *copy = allocate(count * sizeof *copy);
    memcpy(copy, ids, count * sizeof *copy);
    memset(rows, 0xFF, size + sizeof(float)); /* all NaN */
    int status = model->callback->embed_callback(model->callback->embed_userdata, copy, count, rows, size);
    if (status < 0)
        complain("the embedding callback returned %d", status);
    else
        checkFloats("embed_callback", "row", rows, numbers);
    if (memcmp(&rows[numbers], &(uint32_t){0xFFFFFFFF}, sizeof(float)) != 0)
        violation("embed_callback", "wrote beyond the %zu bytes that it was given", size);
    free(copy);
    free(rows);
#else
    (void)model, (void)ids, (void)count;
#endif
}

static void prefill(Run *run, int batch) {
    Model *model = run->model;
    Cache *cache = &model->caches[batch];
    const Prompt *prompt = &run->prompts[batch];
    size_t kept = cacheReuse(cache, prompt, keepsHistory(run), mayReuse(&run->inputs[batch]));
    if (model->hasPromptCache && !keepsHistory(run)) {
        usePromptCache(run, batch);
        kept = cache->count;
    }
    run->reused[batch] = kept;
    if (cache->count == kept) /* the first turn */
        cache->systemCount = prompt->systemCount;
    askForEmbeddings(run, prompt->ids + kept, prompt->count - kept);
    cacheAppend(cache, prompt->ids + kept, prompt->count - kept, &model->param);
}

void prefillAll(Run *run) {
    Model *model = run->model;
    if (keepsHistory(run) && !model->isHistory)
        for (int batch = 0; batch < model->batches; batch++)
            cacheClear(&model->caches[batch], false);
    model->isHistory = keepsHistory(run);
    for (int batch = 0; batch < model->batches; batch++)
        prefill(run, batch);
    note("{\"event\": \"prefill\", \"tokens\": %zu, \"reused\": %zu, \"cached\": %zu}", run->prompts[0].count,
         run->reused[0], model->caches[0].count);
    takeTime(model, 1000 * scriptNumber(run->script, "prefill_ms", 0), scriptNumber(run->script, "prefill_deaf", 1));
    arrive(run->script, "prefill");
}
