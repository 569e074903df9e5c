/* Models: the file that is "loaded", and the handles, which stay known after destroy so that a late use is seen. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MAGIC "RKLLM-STANDIN "

static pthread_mutex_t modelsLock = PTHREAD_MUTEX_INITIALIZER;
static Model *newest;
static int numbers;

static bool setFact(ModelFile *file, const char *key, long value) {
    struct {
        const char *key;
        long *fact;
    } facts[] = {{"context", &file->context}, {"embd", &file->embd},   {"vocab", &file->vocab},
                 {"layers", &file->layers},   {"heads", &file->heads}, {"head_size", &file->headSize}};
    for (size_t at = 0; at < sizeof facts / sizeof *facts; at++)
        if (strcmp(facts[at].key, key) == 0) {
            *facts[at].fact = value;
            return value > 0;
        }
    if (strcmp(key, "tokenizer") == 0)
        file->hasTokenizer = value;
    else if (strcmp(key, "embedding") == 0)
        file->hasEmbedding = value;
    else
        return false;
    return true;
}

static bool readFacts(char *line, ModelFile *file) {
    char *rest = line;
    for (char *pair; (pair = strsep(&rest, "; \r\n"));) {
        if (*pair == '\0')
            continue;
        char *equals = strchr(pair, '='), *end;
        if (equals == NULL)
            return false;
        *equals = '\0';
        long value = strtol(equals + 1, &end, 10);
        if (end == equals + 1 || *end || !setFact(file, pair, value))
            return false;
    }
    return true;
}

static char *restOf(FILE *stream) {
    Text rest = {0};
    char part[1024];
    textAdd(&rest, "%s", "");
    while (fgets(part, sizeof part, stream))
        textAdd(&rest, "%s", part);
    return rest.bytes;
}

/* Its first line is RKLLM-STANDIN key=value;…; what it does not say has these values. Words follow, one a line. */
bool readModelFile(const char *path, ModelFile *file) {
    *file = (ModelFile){4096, 8, 1000, 2, 2, 4, true, true, NULL};
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        complain("failed to open model file %s: %s", path, strerror(errno));
        return false;
    }
    char line[1024] = "";
    bool isModel = fgets(line, sizeof line, stream) && strncmp(line, MAGIC, strlen(MAGIC)) == 0 &&
                   readFacts(line + strlen(MAGIC), file);
    if (isModel)
        file->words = restOf(stream);
    fclose(stream);
    if (!isModel)
        complain("invalid magic number in %s: not a model of this runtime, or damaged", path);
    return isModel;
}

Model *addModel(void) {
    Model *model = allocate(sizeof *model);
    pthread_mutex_init(&model->lock, NULL);
    pthread_cond_init(&model->changed, NULL);
    model->isAlive = true;
    pthread_mutex_lock(&modelsLock);
    model->number = ++numbers;
    model->older = newest;
    newest = model;
    pthread_mutex_unlock(&modelsLock);
    return model;
}

int livingModels(void) {
    int count = 0;
    pthread_mutex_lock(&modelsLock);
    for (Model *model = newest; model; model = model->older)
        count += model->isAlive;
    pthread_mutex_unlock(&modelsLock);
    return count;
}

Model *findModel(const char *function, LLMHandle handle) {
    pthread_mutex_lock(&modelsLock);
    Model *model = newest;
    while (model && model != handle)
        model = model->older;
    pthread_mutex_unlock(&modelsLock);
    if (handle == NULL)
        violation(function, "the handle is NULL");
    else if (model == NULL)
        violation(function, "%p is no handle of this library", handle);
    else if (!model->isAlive) {
        violation(function, "handle %d is destroyed", model->number);
        return NULL;
    }
    return model;
}

/* For every function but abort and is_running, which alone may be called during a run. */
Model *enter(const char *function, LLMHandle handle) {
    Model *model = findModel(function, handle);
    if (model == NULL)
        return NULL;
    pthread_mutex_lock(&model->lock);
    bool isRunning = model->isRunning;
    bool isInside = isRunning && model->isInCallback && pthread_equal(model->runner, pthread_self());
    pthread_mutex_unlock(&model->lock);
    if (isRunning)
        violation(function, isInside ? "called from inside a callback" : "called during a run of the same handle");
    return isRunning ? NULL : model;
}

static void emptyTemplate(Template *template) {
    free(template->system);
    free(template->prefix);
    free(template->postfix);
    free(template->toolSystem);
    free(template->tools);
    free(template->toolResponse);
    *template = (Template){0};
}

/* The struct itself stays: a handle that is used after destroy is reported and not a crash. */
void emptyModel(Model *model) {
    emptyTemplate(&model->template);
    for (int at = 0; at < MAX_LORAS; at++)
        free(model->loras[at].name);
    for (int batch = 0; batch < MAX_BATCH; batch++)
        cacheFree(&model->caches[batch]);
    cacheFree(&model->promptCache);
    if (model->paused)
        freeAnswer(model->paused);
    free(model->paused);
    free(model->tensor);
    free(model->file.words);
    for (size_t at = 0; at < model->grownCount; at++)
        free(model->grown[at]);
    free(model->grown);
#if ABI < ABI_1_3
    for (int at = 0; at < 3; at++)
        free(model->tags[at]);
#endif
}

#if ABI >= ABI_1_2_1
/* Reads every number that the caller has promised; K is [layers][tokens][heads][head size], V as many. */
uint64_t hashOfCross(const Model *model) {
    const RKLLMCrossAttnParam *cross = &model->cross;
    size_t tokens = (size_t)cross->num_tokens;
    size_t numbers_ = (size_t)(model->file.layers * model->file.heads * model->file.headSize) * tokens;
    uint64_t hash = hashOf(cross->encoder_k_cache, numbers_ * sizeof(float), 0);
    hash = hashOf(cross->encoder_v_cache, numbers_ * sizeof(float), hash);
    hash = hashOf(cross->encoder_mask, tokens * sizeof(float), hash);
    return hashOf(cross->encoder_pos, tokens * sizeof(int32_t), hash);
}
#endif
