/* What is said: the words of the prompt, or the tokens of the script, with {names} replaced by what arrived. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define EOS 2

static void addPiece(Answer *answer, char *bytes, int32_t id) {
    if ((answer->count & (answer->count - 1)) == 0) { /* doubles at each power of two */
        Piece *larger = allocate(2 * (answer->count + 1) * sizeof *larger);
        if (answer->count)
            memcpy(larger, answer->pieces, answer->count * sizeof *larger);
        free(answer->pieces);
        answer->pieces = larger;
    }
    answer->pieces[answer->count++] = (Piece){bytes, id};
}

const Piece *nextPiece(Answer *answer) {
    if (answer->next == answer->count && answer->repeats)
        answer->next = 0;
    return answer->next < answer->count ? &answer->pieces[answer->next++] : NULL;
}

void freeAnswer(Answer *answer) {
    for (size_t at = 0; at < answer->count; at++)
        free(answer->pieces[at].bytes);
    free(answer->pieces);
    *answer = (Answer){0};
}

/* Values of {names} */

static void sayNumbers(Text *text, const int32_t integers[2], const float floats[7]) {
    textAdd(text, "top_k=%d top_p=%g temperature=%g repeat_penalty=%g frequency_penalty=%g presence_penalty=%g ",
            integers[0], (double)floats[0], (double)floats[1], (double)floats[2], (double)floats[3], (double)floats[4]);
    textAdd(text, "mirostat=%d mirostat_tau=%g mirostat_eta=%g", integers[1], (double)floats[5], (double)floats[6]);
}

#define SAY_SAMPLING(text, of) \
    sayNumbers(text, (const int32_t[]){(of)->top_k, (of)->mirostat}, \
               (const float[]){(of)->top_p, (of)->temperature, (of)->repeat_penalty, (of)->frequency_penalty, \
                               (of)->presence_penalty, (of)->mirostat_tau, (of)->mirostat_eta})

static void saySampling(Text *text, const Run *run) {
#if ABI >= ABI_1_3
    if (run->infer->sampling_params) {
        SAY_SAMPLING(text, run->infer->sampling_params);
        return;
    }
#endif
    SAY_SAMPLING(text, &run->model->param);
}

static void sayParam(Text *text, const RKLLMParam *param) {
    textAdd(text, "max_context_len=%d max_new_tokens=%d ", param->max_context_len, param->max_new_tokens);
    textAdd(text, "skip_special_token=%d is_async=%d base_domain_id=%d", param->skip_special_token, param->is_async,
            param->extend_param.base_domain_id);
#if ABI >= ABI_1_2_0
    const RKLLMExtendParam *extend = &param->extend_param;
    textAdd(text, " n_keep=%d embed_flash=%d enabled_cpus_num=%d enabled_cpus_mask=%u", param->n_keep,
            extend->embed_flash, extend->enabled_cpus_num, (unsigned)extend->enabled_cpus_mask);
#endif
#if ABI >= ABI_1_2_1
    textAdd(text, " n_batch=%d use_cross_attn=%d", extend->n_batch, extend->use_cross_attn);
#endif
#if ABI >= ABI_1_3
    textAdd(text, " ignore_eos_token=%d", param->ignore_eos_token);
#else
    textAdd(text, " img_start=%s img_end=%s img_content=%s", param->img_start ? param->img_start : "",
            param->img_end ? param->img_end : "", param->img_content ? param->img_content : "");
#endif
}

static void sayInput(Text *text, const RKLLMInput *input) {
    textAdd(text, "type=%d", (int)input->input_type);
#if ABI >= ABI_1_2_1
    textAdd(text, " role=%s thinking=%d", input->role, input->enable_thinking);
#endif
}

#if ABI >= ABI_1_3
#define SAY_BLOCK(text, what, block) \
    textAdd(text, " %s_start=%s %s_end=%s %s_content=%s", #what, (block).what##_start, #what, (block).what##_end, \
            #what, (block).what##_content)
#endif

static void sayMedia(Text *text, const RKLLMInput *input) {
    if (input->input_type != RKLLM_INPUT_MULTIMODAL)
        return;
    const RKLLMMultiModalInput *media = &input->multimodal_input;
#if ABI >= ABI_1_3
    textAdd(text, "n_image=%zu n_image_tokens=%zu", media->image.n_image, media->image.n_image_tokens);
    textAdd(text, " image_width=%zu image_height=%zu", media->image.image_width, media->image.image_height);
    textAdd(text, " n_video=%zu n_frame_per_video=%zu n_frame_tokens=%zu", media->video.n_video,
            media->video.n_frame_per_video, media->video.n_frame_tokens);
    textAdd(text, " frame_width=%zu frame_height=%zu", media->video.frame_width, media->video.frame_height);
    SAY_BLOCK(text, image, media->image);
    SAY_BLOCK(text, video, media->video);
#else
    textAdd(text, "n_image_tokens=%zu", media->n_image_tokens);
#endif
#if ABI == ABI_1_2_1b1 || ABI == ABI_1_2_1
    textAdd(text, " n_image=%zu image_width=%zu image_height=%zu", media->n_image, media->image_width,
            media->image_height);
#endif
#if ABI >= ABI_1_3_1
    textAdd(text, " n_audio=%zu n_audio_tokens=%zu", media->audio.n_audio, media->audio.n_audio_tokens);
    SAY_BLOCK(text, audio, media->audio);
#endif
}

static void sayLora(Text *text, const Run *run) {
    const RKLLMLoraParam *chosen = run->infer->lora_params;
    for (int at = 0; chosen && at < MAX_LORAS; at++) {
        const Lora *lora = &run->model->loras[at];
        if (lora->name && strcmp(lora->name, chosen->lora_adapter_name) == 0)
            textAdd(text, "%s scale=%g", lora->name, (double)lora->scale);
    }
}

static void sayCross(Text *text, const Model *model) {
#if ABI >= ABI_1_2_1
    const RKLLMCrossAttnParam *cross = &model->cross;
    if (model->hasCross)
        textAdd(text, "num_tokens=%d k=%g v=%g mask=%g pos=%d", cross->num_tokens, (double)cross->encoder_k_cache[0],
                (double)cross->encoder_v_cache[0], (double)cross->encoder_mask[0], cross->encoder_pos[0]);
#else
    (void)text, (void)model;
#endif
}

static void sayRun(Text *text, const RKLLMInferParam *infer) {
    textAdd(text, "mode=%d", (int)infer->mode);
#if ABI >= ABI_1_2_0
    textAdd(text, " keep_history=%d", infer->keep_history);
#endif
#if ABI >= ABI_1_3
    textAdd(text, " max_new_tokens=%d", infer->max_new_tokens);
#endif
}

/* The value of a {name} as a text of its own; false if there is no such name. */
static bool sayName(const char *name, const Run *run, const RKLLMInput *input, const Prompt *prompt, Text *text) {
    const Model *model = run->model;
    if (strcmp(name, "{sampling}") == 0)
        saySampling(text, run);
    else if (strcmp(name, "{param}") == 0)
        sayParam(text, &model->param);
    else if (strcmp(name, "{input}") == 0)
        sayInput(text, input);
    else if (strcmp(name, "{media}") == 0)
        sayMedia(text, input);
    else if (strcmp(name, "{run}") == 0)
        sayRun(text, run->infer);
    else if (strcmp(name, "{prompt}") == 0)
        textAdd(text, "%s", prompt->rendered.bytes);
    else if (strcmp(name, "{lora}") == 0)
        sayLora(text, run);
    else if (strcmp(name, "{cross}") == 0)
        sayCross(text, model);
    else if (strcmp(name, "{reused}") == 0)
        textAdd(text, "%zu", run->reused[0]);
    else if (strcmp(name, "{held}") == 0)
        textAdd(text, "%zu", model->tensorSize);
    else
        return false;
    textAdd(text, "%s", "");
    return true;
}

static void noteName(Text *line, const char *key, const Run *run, const RKLLMInput *input, const Prompt *prompt) {
    char name[16];
    Text value = {0};
    snprintf(name, sizeof name, "{%s}", key);
    sayName(name, run, input, prompt, &value);
    textAdd(line, ", \"%s\": ", key);
    textAddQuoted(line, value.bytes);
    textFree(&value);
}

/* Into the log: what a run was given. */
void noteRun(const Run *run, int batch) {
    static const char *const NAMES[] = {"input", "run", "sampling", "lora", "media", "prompt"};
    const RKLLMInput *input = &run->inputs[batch];
    Text line = {0};
    textAdd(&line, "{\"event\": \"run\", \"handle\": %d, \"batch\": %d", run->model->number, batch);
    for (size_t at = 0; at < sizeof NAMES / sizeof *NAMES; at++)
        noteName(&line, NAMES[at], run, input, &run->prompts[batch]);
    note("%s}", line.bytes);
    textFree(&line);
}

/* Into the log: what a model was loaded with. */
void noteInit(const Model *model) {
    Text line = {0}, param = {0}, sampling = {0};
    sayParam(&param, &model->param);
    SAY_SAMPLING(&sampling, &model->param);
    textAddQuoted(&line, model->param.model_path);
    textAdd(&line, ", \"param\": ");
    textAddQuoted(&line, param.bytes);
    textAdd(&line, ", \"sampling\": ");
    textAddQuoted(&line, sampling.bytes);
    note("{\"event\": \"init\", \"handle\": %d, \"model_path\": %s}", model->number, line.bytes);
    textFree(&line);
    textFree(&param);
    textFree(&sampling);
}

/* Tokens */

static void addText(Answer *answer, const Run *run, char *bytes) {
    int32_t id = bytes ? idOfWord(run->model, bytes, strlen(bytes)) : 0;
    if (!run->model->file.hasTokenizer) {
        free(bytes); /* nobody can make text of the ids */
        bytes = NULL;
    }
    addPiece(answer, bytes, id);
}

static void addWord(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt, const Word *word) {
    char *bytes = strndup(word->start, word->length);
    size_t space = strspn(bytes, " \t\r\n");
    Text said = {0};
    textAddBytes(&said, bytes, space);
    if (sayName(bytes + space, run, input, prompt, &said)) {
        free(bytes);
        bytes = said.bytes;
    } else {
        textFree(&said);
    }
    addText(answer, run, bytes);
}

static void addWords(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt, const char *text) {
    Word word;
    for (const char *at = text; nextWord(&at, &word);)
        addWord(answer, run, input, prompt, &word);
}

static void addIds(Answer *answer, const Run *run, const RKLLMTokenInput *input) {
    for (size_t at = 0; at < input->n_tokens; at++) {
        Text text = {0};
        textAdd(&text, " %d", input->input_ids[at]);
        addText(answer, run, text.bytes);
        answer->pieces[answer->count - 1].id = input->input_ids[at];
    }
}

static void addRows(Answer *answer, const Run *run, const RKLLMEmbedInput *input) {
    for (size_t row = 0; row < input->n_tokens; row++) {
        Text text = {0};
        textAdd(&text, " %g", (double)input->embed[row * (size_t)run->model->file.embd]);
        addText(answer, run, text.bytes);
    }
}

static void echo(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt) {
    if (input->input_type == RKLLM_INPUT_TOKEN)
        addIds(answer, run, &input->token_input);
    else if (input->input_type == RKLLM_INPUT_EMBED)
        addRows(answer, run, &input->embed_input);
    else if (input->input_type == RKLLM_INPUT_MULTIMODAL)
        addWords(answer, run, input, prompt, input->multimodal_input.prompt);
    else
        addWords(answer, run, input, prompt, input->prompt_input);
}

static int hexDigit(char digit) {
    return digit >= '0' && digit <= '9' ? digit - '0' : ((digit | 32) >= 'a' && (digit | 32) <= 'f') ? (digit | 32) - 'a' + 10 : -1;
}

/* Copies one character of a script's value, with its escape undone; gives what follows it. */
static const char *unescape(const char *at, Text *text) {
    if (*at != '\\' || at[1] == '\0') {
        textAddBytes(text, at, 1);
        return at + 1;
    }
    if (at[1] == 'x' && hexDigit(at[2]) >= 0 && hexDigit(at[3]) >= 0) {
        char byte = (char)(16 * hexDigit(at[2]) + hexDigit(at[3]));
        textAddBytes(text, &byte, 1);
        return at + 4;
    }
    char byte = at[1] == 'n' ? '\n' : at[1] == 't' ? '\t' : at[1];
    textAddBytes(text, &byte, 1);
    return at + 2;
}

static void addScripted(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt, Text *token) {
    Text said = {0};
    char *bytes = token->bytes;
    if (strcmp(bytes, "{null}") == 0)
        bytes = NULL;
    else if (strcmp(bytes, "{empty}") == 0)
        bytes = "";
    else if (sayName(bytes, run, input, prompt, &said))
        bytes = said.bytes;
    addText(answer, run, copyOf(bytes));
    textFree(&said);
    textFree(token);
}

/* Tokens are separated by |. */
static void addScript(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt, const char *at) {
    Text token = {0};
    while (*at) {
        if (*at == '|') {
            textAdd(&token, "%s", "");
            addScripted(answer, run, input, prompt, &token);
            at++;
        } else {
            at = unescape(at, &token);
        }
    }
    textAdd(&token, "%s", "");
    addScripted(answer, run, input, prompt, &token);
}

static void setIds(Answer *answer, const char *ids) {
    for (size_t at = 0; ids && *ids && at < answer->count; at++) {
        char *end;
        answer->pieces[at].id = (int32_t)strtol(ids, &end, 10);
        ids = *end == ',' ? end + 1 : end;
    }
}

/*
 * With skip_special_token the end token has no text (measured with 1.3.1); without it 1.3.0 prints it. What the older
 * ones do is not known: none is taken.
 */
static void addEnd(Answer *answer, const Run *run) {
    const char *how = scriptText(run->script, "eos");
    if (how == NULL)
        how = ABI >= ABI_1_3 && !run->model->param.skip_special_token ? "text" : "null";
    if (strcmp(how, "none") != 0)
        addPiece(answer, strcmp(how, "text") == 0 ? copyOf("</s>") : strcmp(how, "empty") == 0 ? copyOf("") : NULL, EOS);
}

void composeAnswer(const Run *run, const RKLLMInput *input, const Prompt *prompt, Answer *answer) {
    const char *tokens = scriptText(run->script, "tokens");
    if (tokens)
        addScript(answer, run, input, prompt, tokens);
    else
        echo(answer, run, input, prompt);
    setIds(answer, scriptText(run->script, "ids"));
    answer->repeats = scriptNumber(run->script, "endless", 0);
    if (!answer->repeats)
        addEnd(answer, run);
#if ABI >= ABI_1_3
    answer->repeats |= run->model->param.ignore_eos_token;
#endif
}
