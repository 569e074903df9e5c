/* A run: what is read enters the cache, then what is said leaves one token at a time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* An abort cuts it short, unless it is deaf. */
static void takeTime(Model *model, long milliseconds, bool isDeaf) {
    if (milliseconds <= 0)
        return;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += milliseconds / 1000 + (end.tv_nsec + milliseconds % 1000 * 1000000) / 1000000000;
    end.tv_nsec = (end.tv_nsec + milliseconds % 1000 * 1000000) % 1000000000;
    pthread_mutex_lock(&model->lock);
    while ((isDeaf || !model->isAborted) && pthread_cond_timedwait(&model->changed, &model->lock, &end) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&model->lock);
}

/* What the run wants */

static bool keepsHistory(const Run *run) {
#if ABI >= ABI_1_2_0
    return run->infer->keep_history;
#else
    (void)run;
    return false;
#endif
}

static size_t limitOf(const Run *run) {
    int32_t limit = run->model->param.max_new_tokens;
#if ABI >= ABI_1_3
    if (run->infer->max_new_tokens > 0)
        limit = run->infer->max_new_tokens;
#endif
    if (run->infer->mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER)
        limit = 1;
    return limit > 0 ? (size_t)limit : SIZE_MAX;
}

static bool wantsLogits(const Run *run) {
#if ABI >= ABI_1_2_0
    return run->infer->mode == RKLLM_INFER_GET_LOGITS;
#else
    (void)run;
    return false;
#endif
}

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

/* Reading */

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

static void askForEmbeddings(const Run *run, const int32_t *ids, size_t count);

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

static void prefillAll(Run *run) {
    Model *model = run->model;
    if (keepsHistory(run) && !model->isHistory)
        for (int batch = 0; batch < model->batches; batch++)
            cacheClear(&model->caches[batch], false);
    model->isHistory = keepsHistory(run);
    for (int batch = 0; batch < model->batches; batch++)
        prefill(run, batch);
    note("{\"event\": \"prefill\", \"tokens\": %zu, \"reused\": %zu, \"cached\": %zu}", run->prompts[0].count,
         run->reused[0], model->caches[0].count);
    takeTime(model, scriptNumber(run->script, "prefill_ms", 0), scriptNumber(run->script, "prefill_deaf", 1));
    arrive(run->script, "prefill");
}

/* A model without its embedding table asks the caller for the rows. */
static void askForEmbeddings(const Run *run, const int32_t *ids, size_t count) {
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

/* Speaking */

static const char *joining(const Run *run) {
    const char *how = scriptText(run->script, "utf8");
    return how ? how : ABI == ABI_1_1 ? "raw" : "whole";
}

/*
 * The text that goes with a token, NULL for none; true if the state is WAITING. "whole": bytes of a character that is
 * not whole wait for the rest; "waiting": they are handed over in WAITING; "raw": they are handed over in NORMAL.
 */
static bool join(Run *run, int batch, const Piece *piece, Text *text) {
    const char *how = joining(run);
    Text *unfinished = &run->unfinished[batch];
    if (strcmp(how, "whole") != 0) {
        textAdd(text, "%s", piece->bytes);
        return strcmp(how, "waiting") == 0 && incompleteTail(piece->bytes, strlen(piece->bytes));
    }
    textAdd(unfinished, "%s", piece->bytes);
    if (incompleteTail(unfinished->bytes, unfinished->length))
        return true;
    textAdd(text, "%s", unfinished->bytes);
    textFree(unfinished);
    return false;
}

typedef struct {
    Spoken spoken[MAX_BATCH];
    Text texts[MAX_BATCH];
    bool isWaiting;
    int count; /* of batches that still speak */
} Round;

static void freeRound(Round *round, int batches) {
    for (int batch = 0; batch < batches; batch++)
        textFree(&round->texts[batch]);
}

static void speakFor(Run *run, int batch, Round *round) {
    const Piece *piece = nextPiece(&run->answers[batch]);
    round->spoken[batch] = (Spoken){NULL, -1}; /* a negative id: this one has finished */
    if (piece == NULL)
        return;
    round->count++;
    round->spoken[batch].id = piece->id;
    if (piece->bytes == NULL)
        return;
    round->isWaiting |= join(run, batch, piece, &round->texts[batch]);
    round->spoken[batch].text = round->texts[batch].bytes;
}

/* The token before enters the cache when the next is computed from it. */
static void remember(Run *run) {
    for (int batch = 0; run->spoken && batch < run->model->batches; batch++)
        if (run->last[batch] >= 0) {
            askForEmbeddings(run, &run->last[batch], 1);
            cacheAppend(&run->model->caches[batch], &run->last[batch], 1, &run->model->param);
        }
}

/* The rows of the prompt's tokens, of what was new in it unless the script says all. */
static void promptRows(const Run *run, Rows *rows, bool isHidden) {
    bool all = scriptIs(run->script, "rows", "all");
    for (int batch = 0; batch < run->model->batches; batch++) {
        const Prompt *prompt = &run->prompts[batch];
        size_t cached = run->model->caches[batch].count, reused = all ? 0 : run->reused[batch];
        size_t position = (cached > prompt->count ? cached - prompt->count : 0) + reused;
        rows[batch] = (Rows){prompt->ids + reused, position, prompt->count - reused, isHidden};
    }
}

/* Rows for this callback: of the prompt with the first token, then of the token before. */
static const Rows *rowsNow(const Run *run, Rows *rows) {
    if (!wantsLogits(run))
        return NULL;
    if (run->spoken == 0)
        promptRows(run, rows, false);
    else
        rows[0] = (Rows){&run->last[0], run->model->caches[0].count - 1, 1, false};
    return rows;
}

static enum Reply sayHidden(Run *run, const Round *round) {
    Rows rows[MAX_BATCH];
    promptRows(run, rows, true);
#if ABI == ABI_1_1
    if (deliver(run, NULL, rows, RKLLM_RUN_GET_LAST_HIDDEN_LAYER) == PAUSE)
        return PAUSE;
    return deliver(run, round->spoken, NULL, RKLLM_RUN_NORMAL);
#else
    /* Seen with 1.2.1b1: a first callback without data, then one with the rows. */
    if (!scriptIs(run->script, "hidden", "first") && deliver(run, NULL, NULL, RKLLM_RUN_NORMAL) == PAUSE)
        return PAUSE;
    return deliver(run, round->spoken, rows, RKLLM_RUN_NORMAL);
#endif
}

static enum Reply sayRound(Run *run, const Round *round) {
    if (run->infer->mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER)
        return sayHidden(run, round);
    Rows rows[MAX_BATCH];
    const Rows *given = rowsNow(run, rows);
    bool isWaiting = round->isWaiting && run->model->batches == 1;
    return deliver(run, round->spoken, given, isWaiting ? RKLLM_RUN_WAITING : RKLLM_RUN_NORMAL);
}

enum Step { SPOKE, SAID_ALL, PAUSED, FAILED };

static enum Step speakRound(Run *run, Round *round) {
    for (int batch = 0; batch < run->model->batches; batch++)
        speakFor(run, batch, round);
    if (round->count == 0)
        return SAID_ALL;
    takeTime(run->model, scriptNumber(run->script, "token_ms", 0), false);
    arriveAtToken(run->script, run->spoken + 1);
    if (scriptNumber(run->script, "error", -1) == (long)run->spoken + 1)
        return FAILED;
    if (isAborted(run->model))
        return SAID_ALL;
    chatter(run->script, "a token");
    remember(run);
    enum Reply reply = sayRound(run, round);
    for (int batch = 0; batch < run->model->batches; batch++)
        run->last[batch] = round->spoken[batch].id;
    run->spoken++;
    return reply == PAUSE ? PAUSED : SPOKE;
}

static enum Step speak(Run *run) {
    size_t limit = limitOf(run);
    enum Step step = SPOKE;
    while (step == SPOKE && run->spoken < limit && !isAborted(run->model)) {
        Round round = {0};
        step = speakRound(run, &round);
        freeRound(&round, run->model->batches);
    }
    return step == SPOKE ? SAID_ALL : step;
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
