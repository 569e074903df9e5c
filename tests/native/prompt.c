/* What is read: a prompt becomes token ids. A word with the white space before it is a token. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define BOS 1
#define FIRST_WORD 16 /* ids below are special */

bool nextWord(const char **at, Word *word) {
    const char *start = *at, *letter = start;
    while (isspace((unsigned char)*letter))
        letter++;
    const char *end = letter;
    while (*end && !isspace((unsigned char)*end))
        end++;
    *word = (Word){start, (size_t)(end - start)};
    *at = end;
    return end > letter;
}

int32_t idOfWord(const Model *model, const char *bytes, size_t length) {
    if (model->file.vocab <= FIRST_WORD)
        return 0;
    return (int32_t)(hashOf(bytes, length, 0) % (uint64_t)(model->file.vocab - FIRST_WORD)) + FIRST_WORD;
}

/* A word of the model file, or the id as a number. */
void addTextOfId(const Model *model, int32_t id, Text *text) {
    for (const char *word = model->file.words, *end; word && (end = strchr(word, '\n')); word = end + 1)
        if (end > word && idOfWord(model, word, (size_t)(end - word)) == id) {
            textAddBytes(text, word, (size_t)(end - word));
            return;
        }
    textAdd(text, " %d", id);
}

/* The embedding table. All of it is exact in a float. */
float embeddingOf(int32_t id, size_t column) {
    return (float)id + (float)column / 64;
}

int32_t idInTable(const Model *model, const float *row) {
    if (!(row[0] >= 0 && row[0] < (float)model->file.vocab))
        return -1;
    int32_t id = (int32_t)row[0];
    for (size_t column = 0; column < (size_t)model->file.embd; column++)
        if (row[column] < embeddingOf(id, column) || row[column] > embeddingOf(id, column))
            return -1;
    return id;
}

static void addIds(Prompt *prompt, const int32_t *ids, size_t count) {
    int32_t *all = allocate((prompt->count + count) * sizeof *all);
    if (prompt->count)
        memcpy(all, prompt->ids, prompt->count * sizeof *all);
    if (count)
        memcpy(all + prompt->count, ids, count * sizeof *all);
    free(prompt->ids);
    prompt->ids = all;
    prompt->count += count;
}

static void addWords(const Model *model, Prompt *prompt, const char *text) {
    size_t count = 0;
    int32_t *ids = allocate((strlen(text) + 1) * sizeof *ids);
    Word word;
    for (const char *at = text; nextWord(&at, &word);)
        ids[count++] = idOfWord(model, word.start, word.length);
    addIds(prompt, ids, count);
    free(ids);
    textAdd(&prompt->rendered, "%s", text);
}

/* A row that is of no token is a token of its own: the same numbers give the same id. */
static void addRows(const Model *model, Prompt *prompt, const float *rows, size_t count) {
    size_t width = (size_t)model->file.embd;
    int32_t *ids = allocate(count * sizeof *ids);
    for (size_t row = 0; row < count; row++) {
        const float *numbers = rows + row * width;
        int32_t known = idInTable(model, numbers);
        ids[row] = known < 0 ? idOfWord(model, (const char *)numbers, width * sizeof(float)) : known;
    }
    addIds(prompt, ids, count);
    free(ids);
}

/* The chat template, from 1.2.0 on */

#if ABI >= ABI_1_2_0
static const char *orElse(const char *text, const char *otherwise) {
    return text ? text : otherwise;
}

static const char *roleOf(const RKLLMInput *input) {
#if ABI >= ABI_1_2_1
    return input->role;
#else
    (void)input;
    return "user";
#endif
}

static const char *builtInPostfix(const RKLLMInput *input) {
#if ABI >= ABI_1_2_1
    return input->enable_thinking ? " <|assistant|> <think>" : " <|assistant|> <think></think>";
#else
    (void)input;
    return " <|assistant|>";
#endif
}

static bool isBare(const RKLLMInput *input) {
    return ABI >= ABI_1_3 && *roleOf(input) == '\0';
}

static void addBefore(const Model *model, const RKLLMInput *input, bool isFirstTurn, Prompt *prompt) {
    const Template *template = &model->template;
    if (isFirstTurn && template->prefix == NULL && template->tools) {
        addWords(model, prompt, template->toolSystem);
        addWords(model, prompt, template->tools);
    } else if (isFirstTurn) {
        addWords(model, prompt, orElse(template->system, ""));
    }
    prompt->systemCount = prompt->count;
    bool isTool = strcmp(roleOf(input), "tool") == 0;
    const char *before = isTool ? template->toolResponse : template->prefix;
    addWords(model, prompt, orElse(before, isTool ? "<|tool|> " : "<|user|> "));
}
#endif

static void addTemplateBefore(const Model *model, const RKLLMInput *input, bool isFirstTurn, Prompt *prompt) {
#if ABI >= ABI_1_2_0
    if (!isBare(input))
        addBefore(model, input, isFirstTurn, prompt);
#else
    (void)model, (void)input, (void)isFirstTurn, (void)prompt;
#endif
}

static void addTemplateAfter(const Model *model, const RKLLMInput *input, Prompt *prompt) {
#if ABI >= ABI_1_2_0
    if (!isBare(input))
        addWords(model, prompt, orElse(model->template.postfix, builtInPostfix(input)));
#else
    (void)model, (void)input, (void)prompt;
#endif
}

/* A tool's result must be JSON; its first character tells enough. */
static bool isRoleFit(const RKLLMInput *input, const char *text) {
#if ABI >= ABI_1_2_1
    text += strspn(text, " \t\r\n");
    if (strcmp(input->role, "tool") == 0 && *text != '{' && *text != '[') {
        complain("the input of role tool is not a JSON text");
        return false;
    }
#else
    (void)input, (void)text;
#endif
    return true;
}

/* Images, videos and audio: each marker in the text is replaced by the rows of one */

typedef struct {
    const char *marker, *before, *after;
    const float *rows;
    size_t items, tokens, used;
} Media;

static size_t mediaOf(const Model *model, const RKLLMMultiModalInput *input, Media media[3]) {
#if ABI >= ABI_1_3
    (void)model;
    media[0] = (Media){"<image>", input->image.image_start, input->image.image_end, input->image.image_embed,
                       input->image.n_image, input->image.n_image_tokens, 0};
    media[1] = (Media){"<video>", input->video.video_start, input->video.video_end, input->video.video_embed,
                       input->video.n_video, input->video.n_frame_per_video * input->video.n_frame_tokens, 0};
#if ABI >= ABI_1_3_1
    media[2] = (Media){"<audio>", input->audio.audio_start, input->audio.audio_end, input->audio.audio_embed,
                       input->audio.n_audio, input->audio.n_audio_tokens, 0};
    return 3;
#else
    return 2;
#endif
#elif ABI >= ABI_1_2_1b1
    media[0] = (Media){"<image>", model->param.img_start, model->param.img_end, input->image_embed, input->n_image,
                       input->n_image_tokens, 0};
    return 1;
#else
    media[0] = (Media){"<image>", model->param.img_start, model->param.img_end, input->image_embed,
                       input->image_embed != NULL, input->n_image_tokens, 0};
    return 1;
#endif
}

static void addText(const Model *model, Prompt *prompt, const char *start, const char *end) {
    char *part = copyOfBytes(start, (size_t)(end - start));
    addWords(model, prompt, part);
    free(part);
}

static void addItem(const Model *model, Prompt *prompt, Media *media) {
    addWords(model, prompt, media->before ? media->before : "");
    addRows(model, prompt, media->rows + media->used * media->tokens * (size_t)model->file.embd, media->tokens);
    addWords(model, prompt, media->after ? media->after : "");
    media->used++;
}

static Media *markerAt(const char *at, Media *media, size_t kinds) {
    for (size_t kind = 0; kind < kinds; kind++)
        if (strncmp(at, media[kind].marker, strlen(media[kind].marker)) == 0)
            return &media[kind];
    return NULL;
}

static bool addMedia(const Model *model, const RKLLMMultiModalInput *input, Prompt *prompt) {
    Media media[3];
    size_t kinds = mediaOf(model, input, media);
    const char *start = input->prompt;
    for (const char *at = start; *at; at++) {
        Media *found = markerAt(at, media, kinds);
        if (found == NULL)
            continue;
        if (found->used == found->items) {
            complain("the prompt has more %s than the %zu that are given", found->marker, found->items);
            return false;
        }
        addText(model, prompt, start, at);
        addItem(model, prompt, found);
        start = at + strlen(found->marker);
        at = start - 1;
    }
    addText(model, prompt, start, start + strlen(start));
    for (size_t kind = 0; kind < kinds; kind++)
        if (media[kind].used < media[kind].items) {
            complain("%zu given, %zu %s in the prompt", media[kind].items, media[kind].used, media[kind].marker);
            return false;
        }
    return true;
}

/* A model without a tokenizer asks the caller, who is not promised a NUL at the end of the text. */
static bool askTokenizer(const Model *model, Prompt *prompt) {
#if ABI >= ABI_1_3
    if (model->callback->tokenizer_callback) {
        enum { ROOM = 4096 };
        int32_t *ids = allocate((ROOM + 1) * sizeof *ids);
        ids[ROOM] = 0x5A5A5A5A;
        size_t length = prompt->rendered.length;
        char *text = allocate(length + 1);
        memcpy(text, prompt->rendered.bytes, length);
        text[length] = 'X';
        int count = model->callback->tokenizer_callback(model->callback->tokenizer_userdata, text, (int32_t)length,
                                                        ids, ROOM);
        if (ids[ROOM] != 0x5A5A5A5A || count > ROOM)
            violation("tokenizer_callback", "wrote more than the %d ids that there is room for", ROOM);
        prompt->count = 0;
        if (count > 0)
            addIds(prompt, ids, (size_t)count);
        else
            complain("the tokenizer callback returned %d", count);
        free(text);
        free(ids);
        return count > 0;
    }
#endif
    (void)model, (void)prompt;
    complain("this model has no tokenizer, and there is no callback");
    return false;
}

static bool addChat(const Model *model, const RKLLMInput *input, bool isFirstTurn, Prompt *prompt) {
    bool isMedia = input->input_type == RKLLM_INPUT_MULTIMODAL;
    const char *text = isMedia ? input->multimodal_input.prompt : input->prompt_input;
    if (!isRoleFit(input, text))
        return false;
    addTemplateBefore(model, input, isFirstTurn, prompt);
    if (!isMedia)
        addWords(model, prompt, text);
    else if (!addMedia(model, &input->multimodal_input, prompt))
        return false;
    addTemplateAfter(model, input, prompt);
    return model->file.hasTokenizer || askTokenizer(model, prompt);
}

static bool addGivenIds(const Model *model, const RKLLMTokenInput *input, Prompt *prompt) {
    for (size_t at = 0; at < input->n_tokens; at++)
        if (input->input_ids[at] >= model->file.vocab) {
            complain("token %d is outside of the vocabulary of %ld", input->input_ids[at], model->file.vocab);
            return false;
        }
    addIds(prompt, input->input_ids, input->n_tokens);
    return true;
}

static bool addInput(const Model *model, const RKLLMInput *input, bool isFirstTurn, Prompt *prompt) {
    if (input->input_type == RKLLM_INPUT_TOKEN)
        return addGivenIds(model, &input->token_input, prompt);
    if (input->input_type != RKLLM_INPUT_EMBED)
        return addChat(model, input, isFirstTurn, prompt);
    addRows(model, prompt, input->embed_input.embed, input->embed_input.n_tokens);
    return true;
}

static bool fits(const Model *model, size_t count, const Script *script) {
    bool isTooLong = count > (size_t)model->param.max_context_len;
    if (count == 0)
        complain("the prompt is empty");
    if (isTooLong) {
        arrive(script, "overlong"); /* releases up to 1.1 crashed here: airockchip/rknn-llm issues 11 and 123 */
        complain("prompt is too long: %zu tokens, max_context_len is %d", count, model->param.max_context_len);
    }
    return count > 0 && !isTooLong;
}

bool readPrompt(const Model *model, const RKLLMInput *input, bool isFirstTurn, const Script *script, Prompt *prompt) {
    static const int32_t bos = BOS;
    for (long count = scriptNumber(script, "bos", 0); count > 0; count--)
        addIds(prompt, &bos, 1);
    textAdd(&prompt->rendered, "%s", "");
    if (!addInput(model, input, isFirstTurn, prompt))
        return false;
    return fits(model, prompt->count, script);
}

void freePrompt(Prompt *prompt) {
    free(prompt->ids);
    textFree(&prompt->rendered);
}
