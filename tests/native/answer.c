/* What is said: the words of the prompt, or the tokens of the script, with {names} replaced by what arrived. */
#include <ctype.h>
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

static void addText(Answer *answer, const Run *run, char *bytes) {
    int32_t id = bytes ? idOfWord(run->model, bytes, strlen(bytes)) : 0;
    if (!run->model->file.hasTokenizer) {
        free(bytes); /* nobody can make text of the ids */
        bytes = NULL;
    }
    addPiece(answer, bytes, id);
}

static void addWord(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt, const Word *word) {
    char *bytes = copyOfBytes(word->start, word->length);
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

static void addId(Answer *answer, const Run *run, int32_t id) {
    Text text = {0};
    addTextOfId(run->model, id, &text);
    addText(answer, run, text.bytes);
    answer->pieces[answer->count - 1].id = id;
}

static void addIds(Answer *answer, const Run *run, const RKLLMTokenInput *input) {
    for (size_t at = 0; at < input->n_tokens; at++)
        addId(answer, run, input->input_ids[at]);
}

static void addRow(Answer *answer, const Run *run, const float *row) {
    int32_t known = idInTable(run->model, row);
    if (known >= 0) {
        addId(answer, run, known);
        return;
    }
    Text text = {0};
    textAdd(&text, " %g", (double)row[0]);
    addText(answer, run, text.bytes);
}

static void addRows(Answer *answer, const Run *run, const RKLLMEmbedInput *input) {
    for (size_t row = 0; row < input->n_tokens; row++)
        addRow(answer, run, input->embed + row * (size_t)run->model->file.embd);
}

/* An adapter that was chosen is heard: its name comes first. */
static void addAdapter(Answer *answer, const Run *run) {
    Text text = {0};
    textAdd(&text, "[%s] ", run->infer->lora_params->lora_adapter_name);
    addText(answer, run, text.bytes);
}

static void echo(Answer *answer, const Run *run, const RKLLMInput *input, const Prompt *prompt) {
    if (run->infer->lora_params)
        addAdapter(answer, run);
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
    static const char DIGITS[] = "0123456789abcdef";
    const char *found = digit ? strchr(DIGITS, tolower((unsigned char)digit)) : NULL;
    return found ? (int)(found - DIGITS) : -1;
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
    if (strcmp(how, "none") == 0)
        return;
    const char *text = strcmp(how, "text") == 0 ? "</s>" : strcmp(how, "empty") == 0 ? "" : NULL;
    addPiece(answer, copyOf(text), EOS);
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
