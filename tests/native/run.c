/* A run from its beginning to its end: prefill.c reads, speak.c speaks. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Only one run at a time, and abort() reaches it */

bool beginRunning(const char *function, Model *model) {
    pthread_mutex_lock(&model->lock);
    bool isFree = !model->isRunning;
    bool isInside = model->isInCallback && pthread_equal(model->runner, pthread_self());
    if (isFree) {
        model->isRunning = true;
        model->runner = pthread_self();
    }
    pthread_mutex_unlock(&model->lock);
    if (!isFree)
        violation(function, isInside ? "called from inside a callback" : "a run of this handle is in progress");
    return isFree;
}

void endRunning(Model *model) {
    pthread_mutex_lock(&model->lock);
    model->isRunning = false;
    model->isAborted = false;
    pthread_cond_broadcast(&model->changed);
    pthread_mutex_unlock(&model->lock);
}

bool isAborted(Model *model) {
    pthread_mutex_lock(&model->lock);
    bool isIt = model->isAborted;
    pthread_mutex_unlock(&model->lock);
    return isIt;
}

/* What the run must have */

static bool isLoraKnown(const Run *run) {
    if (run->infer->lora_params == NULL)
        return true;
    const char *name = run->infer->lora_params->lora_adapter_name;
    for (int at = 0; at < MAX_LORAS; at++)
        if (run->model->loras[at].name && strcmp(run->model->loras[at].name, name) == 0)
            return true;
    complain("no lora adapter of the name %s is loaded", name);
    return false;
}

static bool isPossible(const Run *run) {
    if (wantsLogits(run) && run->model->batches > 1) {
        complain("logits mode does not work with n_batch %d", run->model->batches);
        return false;
    }
#if ABI >= ABI_1_2_1
    if (run->model->param.extend_param.use_cross_attn && !run->model->hasCross) {
        complain("use_cross_attn is set, and rkllm_set_cross_attn_params was not called");
        return false;
    }
#endif
    return isLoraKnown(run);
}

/* Ending */

static void pauseHere(Run *run) {
    Answer *answer = allocate(sizeof *answer);
    *answer = run->answers[0];
    run->answers[0] = (Answer){0};
    run->model->paused = answer;
}

static void sayLate(Run *run) {
    Spoken late[MAX_BATCH];
    for (int batch = 0; batch < MAX_BATCH; batch++)
        late[batch] = (Spoken){" late", 17};
    for (long count = scriptNumber(run->script, "after_abort", 0); count > 0; count--)
        deliver(run, late, NULL, RKLLM_RUN_NORMAL);
}

static void finish(Run *run) {
    const char *how = scriptText(run->script, "finish");
    arrive(run->script, "finish");
    if (how && strcmp(how, "missing") == 0)
        return;
    deliver(run, NULL, NULL, RKLLM_RUN_FINISH);
    if (how && strcmp(how, "twice") == 0)
        deliver(run, NULL, NULL, RKLLM_RUN_FINISH);
}

static int fail(Run *run) {
    deliver(run, NULL, NULL, RKLLM_RUN_ERROR);
    return (int)scriptNumber(run->script, "returns", -1);
}

static int endAborted(Run *run) {
    const char *how = scriptText(run->script, "abort_ends");
    complain("the run was aborted");
    sayLate(run);
    if (how && strcmp(how, "error") == 0)
        return fail(run);
    if (how == NULL || strcmp(how, "finish") == 0)
        finish(run);
    return how && strcmp(how, "fail") == 0 ? -1 : (int)scriptNumber(run->script, "returns", 0);
}

static void saveCache(const Run *run) {
    const RKLLMPromptCacheParam *param = run->infer->prompt_cache_params;
    if (param && param->save_prompt_cache)
        savePromptCache(param->prompt_cache_path ? param->prompt_cache_path : "prompt_cache.bin", &run->prompts[0]);
}

static int endRun(Run *run, enum Step step) {
    if (step == PAUSED) {
        pauseHere(run);
        return 0;
    }
    if (step == FAILED)
        return fail(run);
    if (isAborted(run->model))
        return endAborted(run);
    finish(run);
    saveCache(run);
    return (int)scriptNumber(run->script, "returns", 0);
}

static void grow(Run *run) {
    size_t size = (size_t)scriptNumber(run->script, "grow", 0);
    Model *model = run->model;
    if (size == 0)
        return;
    void **all = allocate((model->grownCount + 1) * sizeof *all);
    if (model->grownCount)
        memcpy(all, model->grown, model->grownCount * sizeof *all);
    free(model->grown);
    model->grown = all;
    model->grown[model->grownCount] = memset(allocate(size), 1, size);
    model->grownCount++;
}

/* Beginning */

/* After a pause the next run goes on with what was being said, whatever it is given (seen with 1.3.0). */
static void resume(Run *run) {
    run->answers[0] = *run->model->paused;
    free(run->model->paused);
    run->model->paused = NULL;
    note("{\"event\": \"resume\"}");
}

static bool readAll(Run *run) {
    Model *model = run->model;
    bool isFirstTurn = !keepsHistory(run) || !model->isHistory || model->caches[0].count == 0;
    for (int batch = 0; batch < model->batches; batch++) {
        bool isWell = readPrompt(model, &run->inputs[batch], isFirstTurn, run->script, &run->prompts[batch]);
        noteRun(run, batch);
        if (!isWell)
            return false;
    }
    return true;
}

static int readAndSpeak(Run *run) {
    if (!readAll(run))
        return -1;
    if (run->model->paused) {
        resume(run);
    } else {
        prefillAll(run);
        for (int batch = 0; batch < run->model->batches; batch++)
            composeAnswer(run, &run->inputs[batch], &run->prompts[batch], &run->answers[batch]);
    }
    return endRun(run, speak(run));
}

static void checkUnchanged(const Run *run) {
    if (hashOfRun(run->model, run->inputs, run->infer) != run->hash)
        violation("rkllm_run", "what the run was given has changed, or was freed, before it returned");
#if ABI >= ABI_1_2_1
    if (run->model->hasCross && hashOfCross(run->model) != run->model->crossHash)
        violation("rkllm_run", "the arrays of rkllm_set_cross_attn_params have changed, or were freed");
#endif
}

static int checkAndRun(Run *run) {
    const Model *model = run->model;
    if (!checkInferParam(run->infer) || !checkInputs(model, run->inputs) || !checkKept("rkllm_run", model))
        return -1;
    run->hash = hashOfRun(model, run->inputs, run->infer);
    long refusal = scriptNumber(run->script, "run", 0);
    int status = refusal ? (int)refusal : isPossible(run) ? readAndSpeak(run) : -1;
    checkUnchanged(run);
    return status;
}

static void freeRun(Run *run) {
    freeGarbage(run);
    for (int batch = 0; batch < MAX_BATCH; batch++) {
        freePrompt(&run->prompts[batch]);
        freeAnswer(&run->answers[batch]);
        textFree(&run->unfinished[batch]);
    }
    freeScript(run->script);
    free(run);
}

int runModel(Model *model, RKLLMInput *inputs, RKLLMInferParam *infer, void *userdata) {
    Run *run = allocate(sizeof *run);
    run->model = model;
    run->inputs = inputs;
    run->infer = infer;
    run->userdata = userdata;
    run->script = readScript();
    arrive(run->script, "run");
    chatter(run->script, "a run");
    grow(run);
    int status = checkAndRun(run);
    freeRun(run);
    return status;
}
