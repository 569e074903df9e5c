/*
 * What is handed to the caller, and taken back: when the callback has returned, its results and texts are overwritten,
 * so that whoever kept a pointer reads rubbish or crashes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define POISON 0xA5
#define CANARY 32 /* bytes before and behind the results */
#define CHOSEN 32.0f /* above all other logits */
#define KEPT 256  /* of so many callbacks the poisoned memory is not used again */

struct Garbage {
    Garbage *older;
    unsigned char *block;
    size_t size;
    char *texts[MAX_BATCH];
};

/* The values of the tensors: any test can compute them again. All are exact in a float. */
float logitOf(int32_t id, size_t position, size_t column) {
    return (float)(((size_t)id * 13 + position * 7 + column * 3) % 512) / 16;
}

float hiddenOf(int32_t id, size_t position, size_t column) {
    return -(float)(((size_t)id * 11 + position * 5 + column * 2) % 512) / 16;
}

static void freeFrom(Garbage **link) {
    while (*link) {
        Garbage *garbage = *link;
        *link = garbage->older;
        for (int batch = 0; batch < MAX_BATCH; batch++)
            free(garbage->texts[batch]);
        free(garbage->block);
        free(garbage);
    }
}

static void dropOldest(Run *run) {
    Garbage **link = &run->garbage;
    for (int count = 0; *link && count < KEPT; count++)
        link = &(*link)->older;
    freeFrom(link);
}

void freeGarbage(Run *run) {
    freeFrom(&run->garbage);
}

static Garbage *makeGarbage(Run *run, size_t size) {
    Garbage *garbage = allocate(sizeof *garbage);
    garbage->block = allocate(size + 2 * CANARY);
    garbage->size = size;
    memset(garbage->block, POISON, CANARY);
    memset(garbage->block + CANARY + size, POISON, CANARY);
    garbage->older = run->garbage;
    run->garbage = garbage;
    dropOldest(run);
    return garbage;
}

static bool isCanaryWell(const unsigned char *canary) {
    for (int at = 0; at < CANARY; at++)
        if (canary[at] != POISON)
            return false;
    return true;
}

static void takeBack(Garbage *garbage, const RKLLMResult *copy) {
    unsigned char *results = garbage->block + CANARY;
    if (!isCanaryWell(garbage->block) || !isCanaryWell(results + garbage->size))
        violation("result_callback", "wrote beside the results");
    if (memcmp(results, copy, garbage->size) != 0)
        violation("result_callback", "wrote into the results");
    memset(results, POISON, garbage->size);
    for (int batch = 0; batch < MAX_BATCH; batch++)
        if (garbage->texts[batch])
            memset(garbage->texts[batch], POISON, strlen(garbage->texts[batch]));
}

/* Tensors */

static float *tensorOf(Model *model, size_t numbers) {
    size_t size = numbers * sizeof(float);
    if (size > model->tensorSize) {
        free(model->tensor);
        model->tensor = allocate(size);
        model->tensorSize = size;
    }
    ASAN_UNPOISON_MEMORY_REGION(model->tensor, model->tensorSize);
    return (float *)(void *)model->tensor;
}

static void poisonTensor(Model *model) {
    if (model->tensor == NULL)
        return;
    memset(model->tensor, POISON, model->tensorSize);
    ASAN_POISON_MEMORY_REGION(model->tensor, model->tensorSize);
}

static void releaseTensor(Model *model) {
    ASAN_UNPOISON_MEMORY_REGION(model->tensor, model->tensorSize);
    free(model->tensor);
    model->tensor = NULL;
    model->tensorSize = 0;
}

static void fillRows(float *numbers, const Rows *rows, size_t width) {
    for (size_t row = 0; row < rows->count; row++)
        for (size_t column = 0; column < width; column++)
            numbers[row * width + column] =
                (rows->isHidden ? hiddenOf : logitOf)(rows->ids[row], rows->position + row, column);
    if (rows->count && rows->chosen >= 0 && (size_t)rows->chosen < width)
        numbers[(rows->count - 1) * width + (size_t)rows->chosen] = CHOSEN;
}

static void setRows(RKLLMResult *result, const float *numbers, const Rows *rows, size_t width) {
    if (rows->isHidden)
        result->last_hidden_layer = (RKLLMResultLastHiddenLayer){numbers, (int)width, (int)rows->count};
#if ABI >= ABI_1_2_0
    else
        result->logits = (RKLLMResultLogits){numbers, (int)width, (int)rows->count};
#endif
}

static void addTensors(Model *model, RKLLMResult *results, const Rows *rows) {
    size_t width = (size_t)(rows->isHidden ? model->file.embd : model->file.vocab), all = 0;
    for (int batch = 0; batch < model->batches; batch++)
        all += rows[batch].count * width;
    float *numbers = tensorOf(model, all);
    for (int batch = 0; batch < model->batches; batch++) {
        fillRows(numbers, &rows[batch], width);
        setRows(&results[batch], numbers, &rows[batch], width);
        numbers += rows[batch].count * width;
    }
}

/* Figures */

#if ABI >= ABI_1_2_1
static int promptTokens(const Run *run) {
    bool all = scriptIs(run->script, "prefill_counts", "all");
    size_t count = 0;
    for (int batch = 0; batch < run->model->batches; batch++)
        count += run->prompts[batch].count - (all ? 0 : run->reused[batch]);
    return (int)count;
}

static RKLLMPerfStat figures(const Run *run) {
    int prefill = promptTokens(run), generated = run->spoken ? (int)run->spoken - 1 : 0;
    RKLLMPerfStat perf = {2.0f * (float)prefill, prefill, 10.0f * (float)generated, generated, 64.5f};
    const char *given = scriptText(run->script, "perf");
    if (given && sscanf(given, "%f,%d,%f,%d,%f", &perf.prefill_time_ms, &perf.prefill_tokens, &perf.generate_time_ms,
                        &perf.generate_tokens, &perf.memory_usage_mb) != 5)
        violation("script", "perf=%s: expected five numbers with commas", given);
    return perf;
}
#endif

/* Fields that mean nothing in a state hold values that nobody can take for true. */
static void setMeaningless(const Run *run, RKLLMResult *result, LLMCallState state) {
#if ABI >= ABI_1_2_1
    if (state == RKLLM_RUN_FINISH)
        result->perf = figures(run);
    else
        result->perf = (RKLLMPerfStat){NAN, -1, NAN, -1, NAN};
#endif
    (void)run, (void)state, (void)result;
}

/* The time of the callback, as text: whoever gets it knows how long it has been on its way. */
static char *stamp(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    Text text = {0};
    textAdd(&text, "%020lld", now.tv_sec * 1000000000LL + now.tv_nsec);
    return text.bytes;
}

static char *textFor(const Run *run, const Spoken *spoken, LLMCallState state) {
    if (state == RKLLM_RUN_FINISH)
        return copyOf("(the text of FINISH means nothing)");
    if (spoken && spoken->text && scriptNumber(run->script, "stamps", 0))
        return stamp();
    return spoken ? copyOf(spoken->text) : NULL;
}

static RKLLMResult *fillResults(Run *run, Garbage *garbage, const Spoken *spoken, const Rows *rows,
                                LLMCallState state) {
    RKLLMResult *results = (RKLLMResult *)(void *)(garbage->block + CANARY);
    for (int batch = 0; batch < run->model->batches; batch++) {
        garbage->texts[batch] = textFor(run, spoken ? &spoken[batch] : NULL, state);
        results[batch].text = garbage->texts[batch];
        results[batch].token_id = state == RKLLM_RUN_FINISH ? 999999999 : spoken ? spoken[batch].id : 0;
        setMeaningless(run, &results[batch], state);
    }
    if (rows)
        addTensors(run->model, results, rows);
    return results;
}

/* The call */

static int callBack(Run *run, RKLLMResult *results, LLMCallState state) {
#if ABI >= ABI_1_3
    const RKLLMCallback *callback = run->model->callback;
    return callback->result_callback(results, run->userdata ? run->userdata : callback->result_userdata, state);
#elif ABI >= ABI_1_2_1
    return run->model->callback(results, run->userdata, state);
#else
    run->model->callback(results, run->userdata, state);
    return 0;
#endif
}

static void setInCallback(Model *model, bool isInCallback) {
    pthread_mutex_lock(&model->lock);
    model->isInCallback = isInCallback;
    model->runner = pthread_self();
    pthread_mutex_unlock(&model->lock);
}

static enum Reply replyOf(Run *run, int returned, bool hasRows, LLMCallState state) {
    if (returned == 2 && ABI >= ABI_1_3 && hasRows) {
        releaseTensor(run->model);
        return GO_ON;
    }
    if (returned == 1 && state != RKLLM_RUN_FINISH && state != RKLLM_RUN_ERROR) {
        note("{\"event\": \"pause\"}");
        return PAUSE;
    }
    if (returned != 0)
        violation("result_callback", "returned %d in the state %d", returned, (int)state);
    return GO_ON;
}

enum Reply deliver(Run *run, const Spoken *spoken, const Rows *rows, LLMCallState state) {
    size_t size = (size_t)run->model->batches * sizeof(RKLLMResult);
    Garbage *garbage = makeGarbage(run, size);
    RKLLMResult *results = fillResults(run, garbage, spoken, rows, state);
    RKLLMResult *copy = allocate(size);
    memcpy(copy, results, size);
    setInCallback(run->model, true);
    int returned = callBack(run, results, state);
    setInCallback(run->model, false);
    takeBack(garbage, copy);
    free(copy);
    enum Reply reply = replyOf(run, returned, rows != NULL, state);
    if (rows)
        poisonTensor(run->model);
    return reply;
}
