/* The exported functions that load, run and abort. Each is logged when it is called and when it returns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* A test may ask for another release of the family. */
#ifndef STANDIN_VERSION
#if ABI == ABI_1_1
#define STANDIN_VERSION "1.1.4"
#elif ABI == ABI_1_2_0
#define STANDIN_VERSION "1.2.0"
#elif ABI == ABI_1_2_1b1
#define STANDIN_VERSION "1.2.1b1"
#elif ABI == ABI_1_2_1
#define STANDIN_VERSION "1.2.3"
#elif ABI == ABI_1_3
#define STANDIN_VERSION "1.3.0"
#else
#define STANDIN_VERSION "1.3.1"
#endif
#endif

/* What a search of the file for its version finds, in the place and form of the vendor's. */
__attribute__((used)) static const char VERSION[] =
    "RKLLM SDK (version: " STANDIN_VERSION " | target: Linux | build: standin 2026-11-25 00:00:00)";

/* Entering and leaving a function: the place of its name in the script is the name without rkllm_ */

Script *begin(const char *function) {
    note("{\"event\": \"call\", \"function\": \"%s\"}", function);
    Script *script = readScript();
    arrive(script, function + strlen("rkllm_"));
    chatter(script, function);
    return script;
}

int end(const char *function, Script *script, int status) {
    if (status == 0 && scriptLists(script, "fail", function + strlen("rkllm_"))) {
        complain("%s fails: the script says so", function);
        status = -1;
    }
    freeScript(script);
    note("{\"event\": \"return\", \"function\": \"%s\", \"status\": %d}", function, status);
    return status;
}

/* Whether the script lets it fail before anything is done. */
bool isToFail(const char *function, const Script *script) {
    return scriptLists(script, "fail", function + strlen("rkllm_"));
}

/* Loading */

EXPORTED RKLLMParam rkllm_createDefaultParam(void) {
    RKLLMParam param;
    memset(&param, 0, sizeof param);
    param.max_context_len = 4096;
    param.max_new_tokens = -1;
    param.top_k = 40;
    param.top_p = 0.9f;
    param.temperature = 0.8f;
    param.repeat_penalty = 1.1f;
    param.mirostat_tau = 5.0f;
    param.mirostat_eta = 0.1f;
#if ABI < ABI_1_3
    param.img_start = param.img_end = param.img_content = "";
#endif
#if ABI >= ABI_1_2_0
    param.n_keep = -1;
    param.extend_param.enabled_cpus_num = 4;
    param.extend_param.enabled_cpus_mask = 0xF0;
#endif
#if ABI >= ABI_1_2_1
    param.extend_param.n_batch = 1;
#endif
    return param;
}

static void sayVersion(const Script *script) {
    const char *version = scriptText(script, "version"), *platform = scriptText(script, "platform");
    const char *where = scriptText(script, "log");
    FILE *stream = where && strcmp(where, "stdout") == 0 ? stdout : stderr;
    if (where && strcmp(where, "none") == 0)
        return;
    fprintf(stream, "I rkllm: rkllm-runtime version: %s, rknpu driver version: 0.9.8, platform: %s\n",
            version ? version : STANDIN_VERSION, platform ? platform : "RK3588");
    fflush(stream);
}

static bool isLoadable(const RKLLMParam *param, const Script *script, ModelFile *file) {
    if (!checkParam(param, script) || !readModelFile(param->model_path, file))
        return false;
    if (param->max_context_len <= file->context)
        return true;
    complain("max_context_len %d is above the limit of the model, %ld", param->max_context_len, file->context);
    free(file->words);
    file->words = NULL;
    return false;
}

static int batchesOf(const RKLLMParam *param) {
#if ABI >= ABI_1_2_1
    return param->extend_param.n_batch;
#else
    (void)param;
    return 1;
#endif
}

#if ABI >= ABI_1_3
typedef RKLLMCallback *Callback;
#else
typedef LLMResultCallback Callback;
#endif

static bool isCallable(Callback callback) {
#if ABI >= ABI_1_3
    return callback && callback->result_callback;
#else
    return callback;
#endif
}

static int load(LLMHandle *handle, const RKLLMParam *param, Callback callback, const Script *script) {
    ModelFile file = {0};
    bool isZombie = scriptIs(script, "init", "zombie");
    bool isWell = isLoadable(param, script, &file);
    if (!isWell && !isZombie)
        return -1;
    Model *model = addModel();
    model->param = *param;
    model->file = file;
    model->batches = batchesOf(param);
    model->callback = callback;
    model->isZombie = isZombie;
    keepTags(model);
    noteInit(model);
    *handle = model;
    return 0;
}

/* Says what is given as init gets it, so that a test can tell what has arrived. */
static int init(LLMHandle *handle, const RKLLMParam *param, Callback callback, const Script *script) {
    static const char *const function = "rkllm_init";
    if (handle == NULL || param == NULL || !isCallable(callback)) {
        violation(function, "the handle's place, the parameters or the callback is NULL");
        return -1;
    }
    sayVersion(script);
    if (ABI < ABI_1_2_1 && livingModels() > 0)
        violation(function, "a model is loaded already, and this release can hold only one in a process");
    *handle = NULL;
    if (scriptIs(script, "init", "null"))
        return 0;
    if (scriptIs(script, "init", "fail") || isToFail(function, script)) {
        complain("init fails: the script says so");
        return -1;
    }
    return load(handle, param, callback, script);
}

EXPORTED int rkllm_init(LLMHandle *handle, RKLLMParam *param, Callback callback) {
    static const char *const function = "rkllm_init";
    Script *script = begin(function);
    return end(function, script, init(handle, param, callback, script));
}

static void joinThread(Model *model) {
    if (model->hasThread)
        pthread_join(model->thread, NULL);
    model->hasThread = false;
}

static int destroy(LLMHandle handle) {
    Model *model = enter("rkllm_destroy", handle);
    if (model == NULL)
        return -1;
    checkKept("rkllm_destroy", model);
    joinThread(model);
    model->isAlive = false;
    emptyModel(model);
    return 0;
}

EXPORTED int rkllm_destroy(LLMHandle handle) {
    Script *script = begin("rkllm_destroy");
    return end("rkllm_destroy", script, destroy(handle));
}

/* Running */

static bool isRunnable(const char *function, const Model *model, const void *inputs, const void *infer) {
    if (inputs == NULL || infer == NULL)
        violation(function, "the input or the parameters are NULL");
    if (model->isZombie) {
        fputs("GGML_ASSERT: standin.c:2: the model was never loaded\n", stderr);
        abort();
    }
    return inputs && infer;
}

EXPORTED int rkllm_run(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata) {
    static const char *const function = "rkllm_run";
    note("{\"event\": \"call\", \"function\": \"%s\"}", function);
    Model *model = findModel(function, handle);
    int status = -1;
    if (model && beginRunning(function, model)) {
        if (isRunnable(function, model, rkllm_input, rkllm_infer_params))
            status = runModel(model, rkllm_input, rkllm_infer_params, userdata);
        endRunning(model);
    }
    note("{\"event\": \"return\", \"function\": \"%s\", \"status\": %d}", function, status);
    return status;
}

typedef struct {
    Model *model;
    RKLLMInput *inputs;
    RKLLMInferParam *infer;
    void *userdata;
} Order;

static void *runOrder(void *given) {
    Order *order = given;
    runModel(order->model, order->inputs, order->infer, order->userdata);
    endRunning(order->model);
    free(order);
    return NULL;
}

static int startThread(Model *model, RKLLMInput *inputs, RKLLMInferParam *infer, void *userdata) {
    joinThread(model);
    Order *order = allocate(sizeof *order);
    *order = (Order){model, inputs, infer, userdata};
    model->hasThread = pthread_create(&model->thread, NULL, runOrder, order) == 0;
    return model->hasThread ? 0 : -1;
}

/* Returns at once; the callbacks come from a thread of the library. What it is given is read until FINISH. */
EXPORTED int rkllm_run_async(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params,
                             void *userdata) {
    static const char *const function = "rkllm_run_async";
    Script *script = begin(function);
    Model *model = findModel(function, handle);
    if (model == NULL || !beginRunning(function, model))
        return end(function, script, -1);
    bool isDead = scriptIs(script, "async", "dead"); /* as it was in 1.1 */
    if (isDead || !isRunnable(function, model, rkllm_input, rkllm_infer_params)) {
        endRunning(model);
        return end(function, script, isDead ? 0 : -1);
    }
    return end(function, script, startThread(model, rkllm_input, rkllm_infer_params, userdata));
}

static int interrupt(Model *model, bool hitsTheNext) {
    pthread_mutex_lock(&model->lock);
    int status = model->isRunning ? 0 : -1;
    model->isAborted = model->isRunning || hitsTheNext;
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->lock);
    return status;
}

EXPORTED int rkllm_abort(LLMHandle handle) {
    Script *script = begin("rkllm_abort");
    Model *model = findModel("rkllm_abort", handle);
    int status = model ? interrupt(model, scriptIs(script, "stale_abort", "hits")) : -1;
    return end("rkllm_abort", script, status);
}

/* 1 while it runs, in all releases, whatever the older headers say (airockchip/rknn-llm issue 502). */
EXPORTED int rkllm_is_running(LLMHandle handle) {
    Model *model = findModel("rkllm_is_running", handle);
    if (model == NULL)
        return 0;
    pthread_mutex_lock(&model->lock);
    int isRunning = model->isRunning;
    pthread_mutex_unlock(&model->lock);
    return isRunning;
}
