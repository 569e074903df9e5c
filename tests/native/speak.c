/* What is said: one round of callbacks after another, a token for each batch in each. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

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

bool wantsLogits(const Run *run) {
#if ABI >= ABI_1_2_0
    return run->infer->mode == RKLLM_INFER_GET_LOGITS;
#else
    (void)run;
    return false;
#endif
}

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
static void promptRows(const Run *run, const Round *round, Rows *rows, bool isHidden) {
    bool all = scriptIs(run->script, "rows", "all");
    for (int batch = 0; batch < run->model->batches; batch++) {
        const Prompt *prompt = &run->prompts[batch];
        size_t cached = run->model->caches[batch].count, reused = all ? 0 : run->reused[batch];
        size_t position = (cached > prompt->count ? cached - prompt->count : 0) + reused;
        int32_t chosen = isHidden ? -1 : round->spoken[batch].id;
        rows[batch] = (Rows){prompt->ids + reused, position, prompt->count - reused, isHidden, chosen};
    }
}

/* Rows for this callback: of the prompt with the first token, then of the token before. */
static const Rows *rowsNow(const Run *run, const Round *round, Rows *rows) {
    if (!wantsLogits(run))
        return NULL;
    if (run->spoken == 0)
        promptRows(run, round, rows, false);
    else
        rows[0] = (Rows){&run->last[0], run->model->caches[0].count - 1, 1, false, round->spoken[0].id};
    return rows;
}

static enum Reply sayHidden(Run *run, const Round *round) {
    Rows rows[MAX_BATCH];
    promptRows(run, round, rows, true);
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
    const Rows *given = rowsNow(run, round, rows);
    bool isWaiting = round->isWaiting && run->model->batches == 1;
    return deliver(run, round->spoken, given, isWaiting ? RKLLM_RUN_WAITING : RKLLM_RUN_NORMAL);
}

static enum Step speakRound(Run *run, Round *round) {
    for (int batch = 0; batch < run->model->batches; batch++)
        speakFor(run, batch, round);
    if (round->count == 0)
        return SAID_ALL;
    long milliseconds = scriptNumber(run->script, "token_ms", 0);
    takeTime(run->model, 1000 * milliseconds + scriptNumber(run->script, "token_us", 0), false);
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

enum Step speak(Run *run) {
    size_t limit = limitOf(run);
    enum Step step = SPOKE;
    while (step == SPOKE && run->spoken < limit && !isAborted(run->model)) {
        Round round = {0};
        step = speakRound(run, &round);
        freeRound(&round, run->model->batches);
    }
    return step == SPOKE ? SAID_ALL : step;
}
