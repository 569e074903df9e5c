/* What the parts of the stand-in share. Nothing of it is exported. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "standin.h"

#define MAX_BATCH 100
#define MAX_LORAS 16

/* text.c: a text that grows */

typedef struct {
    char *bytes; /* NUL-terminated; never NULL once something was added */
    size_t length;
    size_t room;
} Text;

void textAdd(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void textAddBytes(Text *text, const char *bytes, size_t length);
void textAddQuoted(Text *text, const char *string); /* as a JSON string; null for NULL */
void textFree(Text *text);
char *copyOf(const char *string); /* NULL for NULL */
char *copyOfBytes(const char *bytes, size_t length);
void *allocate(size_t size); /* zeroed, never NULL */
size_t incompleteTail(const char *bytes, size_t length);
bool isUTF8(const char *bytes, size_t length);
uint64_t hashOf(const void *bytes, size_t length, uint64_t seed);

/* script.c: how it is told to behave */

typedef struct Script Script;

Script *readScript(void);
void freeScript(Script *script);
const char *scriptText(const Script *script, const char *key);
long scriptNumber(const Script *script, const char *key, long otherwise);
bool scriptIs(const Script *script, const char *key, const char *value);
bool scriptLists(const Script *script, const char *key, const char *item);

/* report.c: what it says */

extern _Atomic bool isAbortingOnViolation;

void note(const char *format, ...) __attribute__((format(printf, 1, 2)));     /* one JSON object into the log */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2))); /* an error line, as the vendor's */
void violation(const char *function, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* faults.c: what it does wrong on purpose */

void arrive(const Script *script, const char *place);
void arriveAtToken(const Script *script, size_t number);
void chatter(const Script *script, const char *about);

/* A model */

typedef struct {
    long context, embd, vocab, layers, heads, headSize;
    bool hasTokenizer, hasEmbedding;
    char *words; /* texts of tokens, each with a newline behind it */
} ModelFile;

typedef struct {
    int32_t *ids;
    size_t count;
    size_t systemCount; /* how many at the front are the system prompt */
} Cache;

typedef struct {
    char *name;
    float scale;
} Lora;

typedef struct {
    char *bytes; /* NULL where the token has no text */
    int32_t id;
} Piece;

typedef struct {
    Piece *pieces;
    size_t count;
    size_t next;
    bool repeats; /* begins again at its end */
} Answer;

typedef struct {
    char *system, *prefix, *postfix; /* NULL: the template of the model file */
    char *toolSystem, *tools, *toolResponse;
} Template;

typedef struct Run Run;

typedef struct Model {
    struct Model *older;
    int number;
    atomic_bool isAlive;
    RKLLMParam param;
    int batches;
    ModelFile file;
    Template template;
    Lora loras[MAX_LORAS];
    Cache caches[MAX_BATCH];
    bool isHistory; /* the last run kept its history */
    Cache promptCache;
    bool hasPromptCache;
    bool isZombie; /* init failed and said that it did not */
    Answer *paused;
    unsigned char *tensor; /* handed out in callbacks; stays until destroy, or until a callback returns 2 */
    size_t tensorSize;
    void **grown; /* what leaks on purpose */
    size_t grownCount;
#if ABI >= ABI_1_3
    RKLLMCallback *callback;
    RKLLMCallback callbackCopy;
#else
    LLMResultCallback callback;
    char *tags[3];
#endif
#if ABI >= ABI_1_2_1
    RKLLMCrossAttnParam cross;
    bool hasCross;
    uint64_t crossHash;
#endif
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bool isRunning, isAborted, isInCallback;
    pthread_t runner;
    bool hasThread;
    pthread_t thread; /* of run_async */
} Model;

/* model.c */

bool readModelFile(const char *path, ModelFile *file);
Model *addModel(void);
Model *findModel(const char *function, LLMHandle handle);
Model *enter(const char *function, LLMHandle handle); /* NULL after a violation */
int livingModels(void);
void emptyModel(Model *model);
uint64_t hashOfCross(const Model *model);

/* checks.c: each reports what it finds, and says whether all is well */

bool checkParam(const RKLLMParam *param, const Script *script);
bool checkInputs(const Model *model, const RKLLMInput *inputs);
bool checkInferParam(const RKLLMInferParam *infer);
bool checkFloats(const char *function, const char *name, const float *values, size_t count);
bool checkText(const char *function, const char *name, const char *text);
bool checkKept(const char *function, const Model *model);
void keepTags(Model *model);
uint64_t hashOfRun(const Model *model, const RKLLMInput *inputs, const RKLLMInferParam *infer);

/* prompt.c: what is read */

typedef struct {
    int32_t *ids;
    size_t count;
    size_t systemCount;
    Text rendered; /* with its template */
} Prompt;

typedef struct {
    const char *start;
    size_t length;
} Word;

bool nextWord(const char **at, Word *word); /* with the white space before it */
int32_t idOfWord(const Model *model, const char *bytes, size_t length);
void addTextOfId(const Model *model, int32_t id, Text *text);
float embeddingOf(int32_t id, size_t column);
int32_t idInTable(const Model *model, const float *row); /* -1: the row is of no token */
bool readPrompt(const Model *model, const RKLLMInput *input, bool isFirstTurn, const Script *script, Prompt *prompt);
void freePrompt(Prompt *prompt);

/* answer.c: what is said */

void composeAnswer(const Run *run, const RKLLMInput *input, const Prompt *prompt, Answer *answer);
const Piece *nextPiece(Answer *answer);
void freeAnswer(Answer *answer);

/* names.c */

bool sayName(const char *name, const Run *run, const RKLLMInput *input, const Prompt *prompt, Text *text);
void noteRun(const Run *run, int batch);
void noteInit(const Model *model);

/* cache.c */

size_t cacheReuse(Cache *cache, const Prompt *prompt, bool keepsHistory, bool mayReuse);
void cacheAppend(Cache *cache, const int32_t *ids, size_t count, const RKLLMParam *param);
void cacheClear(Cache *cache, bool keepSystem);
void cacheRemove(Cache *cache, size_t start, size_t end);
void cacheFree(Cache *cache);
bool savePromptCache(const char *path, const Prompt *prompt);
bool loadPromptCache(const char *path, Cache *cache);

/* deliver.c: what is handed to the caller */

typedef struct Garbage Garbage;

typedef struct {
    const char *text; /* NULL: none */
    int32_t id;
} Spoken;

typedef struct {
    const int32_t *ids; /* of the tokens that the rows are of */
    size_t position;    /* of the first */
    size_t count;
    bool isHidden;
    int32_t chosen; /* the token that was chosen from the last of them; -1: none was */
} Rows;

struct Run {
    Model *model;
    RKLLMInput *inputs;
    RKLLMInferParam *infer;
    void *userdata;
    Script *script;
    Prompt prompts[MAX_BATCH];
    Answer answers[MAX_BATCH];
    Text unfinished[MAX_BATCH]; /* bytes of characters that are not whole yet */
    int32_t last[MAX_BATCH];    /* the token spoken last; it enters the cache with the next */
    size_t reused[MAX_BATCH]; /* tokens of the prompt that were in the cache already */
    size_t spoken;
    uint64_t hash;
    Garbage *garbage;
};

enum Reply { GO_ON, PAUSE };

enum Reply deliver(Run *run, const Spoken *spoken, const Rows *rows, LLMCallState state);
void freeGarbage(Run *run);
float logitOf(int32_t id, size_t position, size_t column);
float hiddenOf(int32_t id, size_t position, size_t column);

/* prefill.c */

void takeTime(Model *model, long microseconds, bool isDeaf);
bool keepsHistory(const Run *run);
void askForEmbeddings(const Run *run, const int32_t *ids, size_t count);
void prefillAll(Run *run);

/* speak.c */

enum Step { SPOKE, SAID_ALL, PAUSED, FAILED };

bool wantsLogits(const Run *run);
enum Step speak(Run *run);

/* run.c */

int runModel(Model *model, RKLLMInput *inputs, RKLLMInferParam *infer, void *userdata);
bool beginRunning(const char *function, Model *model);
void endRunning(Model *model);
bool isAborted(Model *model);

/* calls.c: every exported function begins and ends with these */

Script *begin(const char *function);
int end(const char *function, Script *script, int status);
bool isToFail(const char *function, const Script *script); /* before anything is done */

#endif
