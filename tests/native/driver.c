/*
 * Calls the library as its arguments say, one order after another, and prints what it got: the stand-in's own tests are
 * driven by it, and sanitizers and valgrind watch it.
 *
 *   set FIELD VALUE       a field of the parameters, of the run, of the input, or of the callback
 *   prompt TEXT           a text as input; tokens 1,2; embed 0.5,…; media TEXT NUMBER,… (rows of images)
 *   batch TEXT            a text as input of the next place of a batch
 *   at N inside ORDER     in the N-th callback of the next run, call from inside it
 *   at N beside ORDER     the same, from another thread
 *   at N return VALUE     what that callback returns
 *   at N WHAT 0           in that callback: scribble into the results, write beyond them, change the prompt,
 *                         keep a text, or peek at the text that was kept
 *   meanwhile ORDER       during the next run, from another thread, as soon as it runs
 *   lie                   the callbacks for tokens and embeddings write more than there is room for
 *   spoil                 change what must live until destroy, and the arrays of cross attention
 *   init-without          init without a callback
 *   memory                print the resident size, in kB
 *   calm                  forget what was ordered with at
 *   init, run, async, abort, running, destroy, kv, lora PATH NAME SCALE, load PATH, release, clear KEEP,
 *   range START END, template A B C, tools A B C, cross TOKENS, null ORDER (with a NULL handle)
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "standin.h"

#define ROOM 4096

typedef struct {
    int number;
    const char *how, *order;
} Hook;

static LLMHandle handle;
#if ABI < ABI_1_3
static char tag[] = "<image tag>";
#endif
static RKLLMParam param;
static RKLLMInput inputs[100];
static RKLLMInferParam infer;
static RKLLMLoraParam lora;
static RKLLMPromptCacheParam promptCache;
static int inputCount;
static int callbacks;
static Hook hooks[16];
static int hookCount;
static float numbers[ROOM];
static int32_t ids[ROOM];
static char *prompt;
static pthread_mutex_t ended = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t endedNow = PTHREAD_COND_INITIALIZER;
static int endings;
static pthread_t mainThread;
static const char *keptText;
static const char *meanwhile;
static atomic_bool hasReturned;
static bool isLying;
#if ABI >= ABI_1_3
static RKLLMCallback callback;
static RKLLMSamplingParam sampling;
#endif
#if ABI >= ABI_1_2_1
static RKLLMCrossAttnParam cross;
#endif

static int order(const char *name, char **rest);

/* Fields by name */

enum Kind { TEXT, INT32, FLOAT, BYTE, SIZE };

typedef struct {
    const char *name;
    enum Kind kind;
    void *field;
} Field;

#define OF(owner, field, kind) {#field, kind, (void *)&(owner).field}

static const Field FIELDS[] = {
    OF(param, model_path, TEXT), OF(param, max_context_len, INT32), OF(param, max_new_tokens, INT32),
    OF(param, top_k, INT32), OF(param, top_p, FLOAT), OF(param, temperature, FLOAT),
    OF(param, repeat_penalty, FLOAT), OF(param, mirostat, INT32), OF(param, skip_special_token, BYTE),
    OF(param, is_async, BYTE), OF(param.extend_param, base_domain_id, INT32), OF(param.extend_param, reserved[7], BYTE),
    OF(infer, mode, INT32), OF(lora, lora_adapter_name, TEXT), OF(promptCache, save_prompt_cache, INT32),
    OF(promptCache, prompt_cache_path, TEXT), OF(inputs[0], input_type, INT32),
#if ABI >= ABI_1_2_0
    OF(param, n_keep, INT32), OF(infer, keep_history, INT32), OF(param.extend_param, embed_flash, BYTE),
    OF(param.extend_param, enabled_cpus_num, BYTE), OF(param.extend_param, enabled_cpus_mask, INT32),
#endif
#if ABI >= ABI_1_2_1
    OF(param.extend_param, n_batch, BYTE), OF(param.extend_param, use_cross_attn, BYTE), OF(inputs[0], role, TEXT),
    OF(inputs[0], enable_thinking, BYTE),
#endif
#if ABI >= ABI_1_3
    OF(param, ignore_eos_token, BYTE), {"run.max_new_tokens", INT32, &infer.max_new_tokens},
    {"run.temperature", FLOAT, &sampling.temperature}, {"run.top_k", INT32, &sampling.top_k},
    {"result_userdata", SIZE, &callback.result_userdata},
#else
    OF(param, img_end, TEXT),
#endif
};

static const char *orNull(const char *word) {
    return strcmp(word, "NULL") == 0 ? NULL : word;
}

static void setField(const Field *field, char *value) {
    if (field->kind == TEXT) {
        const char *text = orNull(value);
        memcpy(field->field, &text, sizeof text);
    } else if (field->kind == FLOAT) {
        float number = strtof(value, NULL);
        memcpy(field->field, &number, sizeof number);
    } else {
        size_t number = (size_t)strtoll(value, NULL, 0); /* little-endian: the low bytes come first */
        memcpy(field->field, &number, field->kind == BYTE ? 1 : field->kind == INT32 ? 4 : sizeof number);
    }
}

static void usePointers(const char *name) {
    if (strcmp(name, "lora_adapter_name") == 0)
        infer.lora_params = &lora;
    if (strncmp(name, "prompt_cache", 12) == 0 || strcmp(name, "save_prompt_cache") == 0)
        infer.prompt_cache_params = &promptCache;
#if ABI >= ABI_1_3
    if (strcmp(name, "run.temperature") == 0 || strcmp(name, "run.top_k") == 0)
        infer.sampling_params = &sampling;
#endif
}

static void set(const char *name, char *value) {
    for (size_t at = 0; at < sizeof FIELDS / sizeof *FIELDS; at++)
        if (strcmp(FIELDS[at].name, name) == 0) {
            setField(&FIELDS[at], value);
            usePointers(name);
            return;
        }
    printf("no field %s\n", name);
    exit(2);
}

/* Callbacks */

static void quote(const char *text) {
    if (text == NULL) {
        printf(" NULL");
        return;
    }
    printf(" \"");
    for (; *text; text++)
        printf((unsigned char)*text < 0x80 && *text >= ' ' ? "%c" : "\\x%02x", (unsigned char)*text);
    printf("\"");
}

static void printRows(const char *name, const float *rows, int width, int count) {
    if (rows == NULL && width == 0 && count == 0)
        return;
    printf(" %s %dx%d:", name, count, width);
    for (int at = 0; at < count * width; at++)
        if (at < 2 || at == count * width - 1)
            printf(" %g", (double)rows[at]);
}

static void printResult(const RKLLMResult *result) {
    printf(" %d", result->token_id);
    quote(result->text);
    printRows("hidden", result->last_hidden_layer.hidden_states, result->last_hidden_layer.embd_size,
              result->last_hidden_layer.num_tokens);
#if ABI >= ABI_1_2_0
    printRows("logits", result->logits.logits, result->logits.vocab_size, result->logits.num_tokens);
#endif
}

static void printFinish(const RKLLMResult *result) {
#if ABI >= ABI_1_2_1
    printf(" prefill=%d generate=%d", result->perf.prefill_tokens, result->perf.generate_tokens);
    printf(" ms=%g,%g mb=%g", (double)result->perf.prefill_time_ms, (double)result->perf.generate_time_ms,
           (double)result->perf.memory_usage_mb);
#else
    (void)result;
#endif
}

static void *besides(void *given) {
    order(given, NULL);
    return NULL;
}

static void beside(const char *name) {
    pthread_t thread;
    pthread_create(&thread, NULL, besides, (void *)name);
    pthread_join(thread, NULL);
}

static int hookNow(const Hook *hook, RKLLMResult *result) {
    if (strcmp(hook->how, "return") == 0)
        return atoi(hook->order);
    if (strcmp(hook->how, "inside") == 0)
        order(hook->order, NULL);
    else if (strcmp(hook->how, "beside") == 0)
        beside(hook->order);
    else if (strcmp(hook->how, "scribble") == 0)
        result->token_id++;
    else if (strcmp(hook->how, "beyond") == 0)
        ((char *)(result + 1))[0] = 1;
    else if (strcmp(hook->how, "change") == 0)
        prompt[0] ^= 1;
    else if (strcmp(hook->how, "keep") == 0)
        keptText = result->text;
    else if (strcmp(hook->how, "peek") == 0)
        printf("kept %02x\n", (unsigned char)keptText[0]);
    return 0;
}

static void countEnding(void) {
    pthread_mutex_lock(&ended);
    endings++;
    pthread_cond_broadcast(&endedNow);
    pthread_mutex_unlock(&ended);
}

static int take(RKLLMResult *result, void *userdata, LLMCallState state) {
    static const char *const STATES[] = {"NORMAL", "WAITING", "FINISH", "ERROR", "HIDDEN"};
    int returned = 0;
    callbacks++;
    printf("%s", STATES[state]);
    if (state == RKLLM_RUN_FINISH)
        printFinish(result);
    for (int batch = 0; state != RKLLM_RUN_FINISH && batch < (inputCount ? inputCount : 1); batch++)
        printResult(&result[batch]);
    if (userdata)
        printf(" userdata=%zu", (size_t)userdata);
    printf(pthread_equal(mainThread, pthread_self()) ? "\n" : " (another thread)\n");
    for (int at = 0; at < hookCount; at++)
        if (hooks[at].number == callbacks) {
            hooks[at].number = 0; /* once: a run from inside a callback counts anew */
            returned |= hookNow(&hooks[at], result);
        }
    if (state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR)
        countEnding();
    return returned;
}

#if ABI >= ABI_1_2_1
#define onResult take
#else
static void onResult(RKLLMResult *result, void *userdata, LLMCallState state) {
    take(result, userdata, state);
}
#endif

#if ABI >= ABI_1_3
/* A letter is a token. */
static int onText(void *userdata, const char *text, int32_t length, int32_t *tokens, int32_t room) {
    (void)userdata;
    int32_t count = length < room ? length : room;
    for (int32_t at = 0; at < count; at++)
        tokens[at] = text[at];
    printf("tokenize %d\n", length);
    if (isLying)
        tokens[room] = 1;
    return count;
}

static int onTokens(void *userdata, int32_t *tokens, uint64_t count, void *embed, uint64_t length) {
    (void)userdata, (void)tokens;
    memset(embed, 0, length + (isLying ? sizeof(float) : 0));
    printf("embed %zu tokens %zu bytes\n", (size_t)count, (size_t)length);
    return 0;
}
#endif

/* Inputs */

static int readFloats(char *text) {
    int count = 0;
    for (char *part; (part = strsep(&text, ",")) && count < ROOM;)
        numbers[count++] = strtof(part, NULL);
    return count;
}

static void giveRole(RKLLMInput *input) {
#if ABI >= ABI_1_2_1
    if (input->role == NULL)
        input->role = "user";
#else
    (void)input;
#endif
}

static void givePrompt(RKLLMInput *input, const char *text) {
    giveRole(input);
    free(input == inputs ? prompt : NULL);
    char *copy = strdup(text);
    if (input == inputs)
        prompt = copy;
    input->input_type = RKLLM_INPUT_PROMPT;
    input->prompt_input = copy;
}

static void giveTokens(char *text) {
    giveRole(inputs);
    size_t count = 0;
    for (char *part; (part = strsep(&text, ","));)
        ids[count++] = atoi(part);
    inputs->input_type = RKLLM_INPUT_TOKEN;
    inputs->token_input = (RKLLMTokenInput){ids, count};
}

/* Eight numbers are a row: the model file's own width if it says nothing else. */
static void giveEmbed(char *text) {
    giveRole(inputs);
    inputs->input_type = RKLLM_INPUT_EMBED;
    inputs->embed_input = (RKLLMEmbedInput){numbers, (size_t)readFloats(text) / 8};
}

static void giveMedia(char *text, char *rows) {
    giveRole(inputs);
    size_t count = (size_t)readFloats(rows) / 8;
    inputs->input_type = RKLLM_INPUT_MULTIMODAL;
    RKLLMMultiModalInput *media = &inputs->multimodal_input;
    memset(media, 0, sizeof *media);
    media->prompt = text;
#if ABI >= ABI_1_3
    media->image.image_embed = numbers;
    media->image.n_image_tokens = count;
    media->image.n_image = 1;
    media->image.image_start = "<s>";
    media->image.image_end = "<e>";
    media->image.image_content = "<c>";
    media->video.video_start = media->video.video_end = media->video.video_content = "";
#else
    media->image_embed = numbers;
    media->n_image_tokens = count;
#endif
#if ABI == ABI_1_2_1b1 || ABI == ABI_1_2_1
    media->n_image = 1;
#endif
#if ABI >= ABI_1_3_1
    media->audio.audio_start = media->audio.audio_end = media->audio.audio_content = "";
#endif
}

/* Orders */

static int initWithout(void) {
    return rkllm_init(&handle, &param, NULL);
}

static int init(void) {
#if ABI >= ABI_1_3
    return rkllm_init(&handle, &param, &callback);
#else
    return rkllm_init(&handle, &param, onResult);
#endif
}

static void *callMeanwhile(void *given) {
    while (!rkllm_is_running(handle) && !hasReturned)
        sched_yield();
    order(given, NULL);
    return NULL;
}

static int run(void) {
    const char *also = meanwhile;
    pthread_t thread;
    callbacks = 0;
    hasReturned = false;
    meanwhile = NULL;
    if (also)
        pthread_create(&thread, NULL, callMeanwhile, (void *)also);
    int status = rkllm_run(handle, inputs, &infer, NULL);
    hasReturned = true;
    if (also)
        pthread_join(thread, NULL);
    return status;
}

static int spoil(void) {
    numbers[1]++;
#if ABI >= ABI_1_3
    callback.embed_userdata = numbers;
#else
    tag[0]++;
#endif
    return 0;
}

static int lie(void) {
    isLying = true;
    return 0;
}

static int printMemory(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    int found = file ? fscanf(file, "%*d %ld", &pages) : 0;
    if (file)
        fclose(file);
    printf("memory kB %ld\n", pages * sysconf(_SC_PAGESIZE) / 1024);
    return found == 1 ? 0 : -1;
}

static int runAsync(void) {
    int before = endings;
    callbacks = 0;
    int status = rkllm_run_async(handle, inputs, &infer, NULL);
    pthread_mutex_lock(&ended);
    while (status == 0 && endings == before)
        pthread_cond_wait(&endedNow, &ended);
    pthread_mutex_unlock(&ended);
    while (rkllm_is_running(handle)) /* it has said FINISH and is about to return */
        sched_yield();
    return status;
}

static int printSizes(void) {
#if ABI >= ABI_1_2_1
    int sizes[100], status = rkllm_get_kv_cache_size(handle, sizes);
    for (int batch = 0; status == 0 && batch < param.extend_param.n_batch; batch++)
        printf("size %d\n", sizes[batch]);
    return status;
#else
    return -1;
#endif
}

static int clear(int keepSystem, int *start, int *stop) {
#if ABI >= ABI_1_2_1
    return rkllm_clear_kv_cache(handle, keepSystem, start, stop);
#elif ABI >= ABI_1_2_0
    (void)start, (void)stop;
    return rkllm_clear_kv_cache(handle, keepSystem);
#else
    (void)keepSystem, (void)start, (void)stop;
    return -1;
#endif
}

static int giveTemplate(char **rest) {
#if ABI >= ABI_1_2_0
    return rkllm_set_chat_template(handle, orNull(rest[0]), orNull(rest[1]), orNull(rest[2]));
#else
    (void)rest;
    return -1;
#endif
}

static int giveTools(char **rest) {
#if ABI >= ABI_1_2_1
    return rkllm_set_function_tools(handle, orNull(rest[0]), orNull(rest[1]), orNull(rest[2]));
#else
    (void)rest;
    return -1;
#endif
}

/* Two layers of two heads of four numbers each: a model file's own if it says nothing else. */
static int giveCross(int tokens) {
#if ABI >= ABI_1_2_1
    for (int at = 0; at < ROOM; at++)
        numbers[at] = (float)at / 4, ids[at] = at;
    cross = (RKLLMCrossAttnParam){numbers + 1, numbers + 2, numbers + 3, ids + 4, tokens};
    return rkllm_set_cross_attn_params(handle, &cross);
#else
    (void)tokens;
    return -1;
#endif
}

static int giveLora(char **rest) {
    RKLLMLoraAdapter adapter = {orNull(rest[0]), orNull(rest[1]), strtof(rest[2], NULL)};
    return rkllm_load_lora(handle, &adapter);
}

static int withoutHandle(const char *name) {
    LLMHandle kept = handle;
    handle = NULL;
    int status = order(name, NULL);
    handle = kept;
    return status;
}

/* Orders that prepare something, without a call; gives how many words they take, 0 if it is none of them. */
static int prepare(const char *name, char **rest) {
    if (strcmp(name, "set") == 0)
        return set(rest[0], rest[1]), 2;
    if (strcmp(name, "prompt") == 0)
        return inputCount = 0, givePrompt(inputs, rest[0]), 1;
    if (strcmp(name, "batch") == 0)
        return givePrompt(&inputs[inputCount++], rest[0]), 1;
    if (strcmp(name, "tokens") == 0)
        return giveTokens(rest[0]), 1;
    if (strcmp(name, "embed") == 0)
        return giveEmbed(rest[0]), 1;
    if (strcmp(name, "media") == 0)
        return giveMedia(rest[0], rest[1]), 2;
    if (strcmp(name, "at") == 0)
        return hooks[hookCount++] = (Hook){atoi(rest[0]), rest[1], rest[2]}, 3;
    if (strcmp(name, "meanwhile") == 0)
        return meanwhile = rest[0], 1;
    if (strcmp(name, "calm") == 0)
        return hookCount = 0, 0;
    return 0;
}

static int say(const char *name, int status) {
    printf("%s %d\n", name, status);
    fflush(stdout);
    return status;
}

/* Orders of one word; false if it is none of them. */
static bool call(const char *name, int *status) {
    static const struct {
        const char *name;
        int (*call)(void);
    } CALLS[] = {{"init", init}, {"init-without", initWithout}, {"run", run}, {"async", runAsync}, {"kv", printSizes},
                 {"memory", printMemory}, {"spoil", spoil}, {"lie", lie}};
    static const struct {
        const char *name;
        int (*call)(LLMHandle handle);
    } OF_HANDLE[] = {{"abort", rkllm_abort}, {"running", rkllm_is_running}, {"destroy", rkllm_destroy},
                     {"release", rkllm_release_prompt_cache}};
    for (size_t at = 0; at < sizeof CALLS / sizeof *CALLS; at++)
        if (strcmp(CALLS[at].name, name) == 0)
            return *status = CALLS[at].call(), true;
    for (size_t at = 0; at < sizeof OF_HANDLE / sizeof *OF_HANDLE; at++)
        if (strcmp(OF_HANDLE[at].name, name) == 0)
            return *status = OF_HANDLE[at].call(handle), true;
    return false;
}

/* Orders with more words; gives how many. */
static int callWith(const char *name, char **rest) {
    int start[100], stop[100];
    if (strcmp(name, "lora") == 0)
        return say(name, giveLora(rest)), 3;
    if (strcmp(name, "load") == 0)
        return say(name, rkllm_load_prompt_cache(handle, orNull(rest[0]))), 1;
    if (strcmp(name, "clear") == 0)
        return say(name, clear(atoi(rest[0]), NULL, NULL)), 1;
    if (strcmp(name, "template") == 0)
        return say(name, giveTemplate(rest)), 3;
    if (strcmp(name, "tools") == 0)
        return say(name, giveTools(rest)), 3;
    if (strcmp(name, "cross") == 0)
        return say(name, giveCross(atoi(rest[0]))), 1;
    if (strcmp(name, "null") == 0)
        return say(name, withoutHandle(rest[0])), 1;
    if (strcmp(name, "range") == 0) {
        for (int at = 0; at < 100; at++)
            start[at] = atoi(rest[0]), stop[at] = atoi(rest[1]);
        return say(name, clear(0, start, stop)), 2;
    }
    printf("no order %s\n", name);
    exit(2);
}

/* Gives how many words behind the name belong to it. */
static int order(const char *name, char **rest) {
    int status, words = rest ? prepare(name, rest) : 0;
    if (words || strcmp(name, "calm") == 0)
        return words;
    if (call(name, &status))
        return say(name, status), 0;
    return callWith(name, rest);
}

int main(int count, char **words) {
    mainThread = pthread_self();
    setvbuf(stdout, NULL, _IOLBF, 0); /* what was printed before a crash is seen */
    param = rkllm_createDefaultParam();
    param.skip_special_token = true;
#if ABI >= ABI_1_3
    callback = (RKLLMCallback){onResult, NULL, onText, NULL, onTokens, NULL};
    sampling = (RKLLMSamplingParam){40, 0.9f, 0.8f, 1.1f, 0, 0, 0, 5, 0.1f};
#else
    param.img_start = tag;
#endif
    for (int at = 1; at < count; at++)
        at += order(words[at], words + at + 1);
    free(prompt);
    for (int batch = 1; batch < 100; batch++)
        free(inputs[batch].input_type == RKLLM_INPUT_PROMPT ? (void *)inputs[batch].prompt_input : NULL);
    return 0;
}
