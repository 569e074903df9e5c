/* What a caller must not get wrong. Values that only a wrong layout or junk in memory can produce are told apart. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define REQUIRE(condition, ...) \
    do { \
        if (!(condition)) { \
            violation(function, __VA_ARGS__); \
            isWell = false; \
        } \
    } while (0)

/* A bool is read as a byte: any other value than 0 and 1 is junk, and undefined to read as a bool. */
static bool isBool(const void *field) {
    return *(const unsigned char *)field <= 1;
}

static bool isZero(const uint8_t *bytes, size_t count) {
    for (size_t at = 0; at < count; at++)
        if (bytes[at])
            return false;
    return true;
}

bool checkFloats(const char *function, const char *name, const float *values, size_t count) {
    for (size_t at = 0; at < count; at++)
        if (!isfinite(values[at])) {
            violation(function, "%s[%zu] is not a finite number", name, at);
            return false;
        }
    return true;
}

typedef struct {
    int32_t topK, mirostat;
    float topP, temperature, repeat, frequency, presence, tau, eta;
} Sampling;

static bool checkSampling(const char *function, Sampling sampling) {
    bool isWell = true;
    REQUIRE(sampling.topK < 1000000000, "top_k is %d: the bits of a float?", sampling.topK);
    REQUIRE(sampling.topP > 0 && sampling.topP <= 1, "top_p is %g", (double)sampling.topP);
    REQUIRE(isfinite(sampling.temperature) && sampling.temperature >= 0, "temperature is %g",
            (double)sampling.temperature);
    REQUIRE(isfinite(sampling.repeat) && sampling.repeat > 0, "repeat_penalty is %g", (double)sampling.repeat);
    REQUIRE(fabsf(sampling.frequency) <= 2, "frequency_penalty is %g", (double)sampling.frequency);
    REQUIRE(isfinite(sampling.presence), "presence_penalty is %g", (double)sampling.presence);
    REQUIRE(sampling.mirostat >= 0 && sampling.mirostat <= 2, "mirostat is %d", sampling.mirostat);
    REQUIRE(isfinite(sampling.tau), "mirostat_tau is %g", (double)sampling.tau);
    REQUIRE(isfinite(sampling.eta), "mirostat_eta is %g", (double)sampling.eta);
    return isWell;
}

static bool checkExtendParam(const char *function, const RKLLMExtendParam *param, const Script *script) {
    bool isWell = true;
    REQUIRE(param->base_domain_id >= 0, "base_domain_id is %d", param->base_domain_id);
    REQUIRE(isZero(param->reserved, sizeof param->reserved), "reserved bytes of extend_param are not zero");
#if ABI >= ABI_1_2_0
    int named = __builtin_popcount(param->enabled_cpus_mask);
    long present = scriptNumber(script, "cpus", 8);
    REQUIRE(param->embed_flash == 0 || param->embed_flash == 1, "embed_flash is %d", param->embed_flash);
    REQUIRE(param->enabled_cpus_num >= 1 && param->enabled_cpus_num <= 8, "enabled_cpus_num is %d",
            param->enabled_cpus_num);
    REQUIRE(named == param->enabled_cpus_num, "enabled_cpus_mask names %d CPUs, enabled_cpus_num is %d", named,
            param->enabled_cpus_num);
    REQUIRE(param->enabled_cpus_mask >> present == 0, "enabled_cpus_mask is 0x%x, this board has %ld CPUs",
            (unsigned)param->enabled_cpus_mask, present);
#else
    (void)script;
#endif
#if ABI >= ABI_1_2_1
    REQUIRE(param->n_batch >= 1 && param->n_batch <= MAX_BATCH, "n_batch must be between 1 and 100, it is %d",
            param->n_batch);
    REQUIRE(param->use_cross_attn == 0 || param->use_cross_attn == 1, "use_cross_attn is %d", param->use_cross_attn);
#endif
    return isWell;
}

bool checkParam(const RKLLMParam *param, const Script *script) {
    static const char *const function = "rkllm_init";
    bool isWell = true;
    REQUIRE(param->model_path, "model_path is NULL");
    REQUIRE(param->max_context_len > 0, "max_context_len is %d", param->max_context_len);
    REQUIRE(param->max_new_tokens >= -1, "max_new_tokens is %d", param->max_new_tokens);
    REQUIRE(isBool(&param->skip_special_token), "skip_special_token is neither 0 nor 1");
    REQUIRE(isBool(&param->is_async), "is_async is neither 0 nor 1");
#if ABI >= ABI_1_3
    REQUIRE(isBool(&param->ignore_eos_token), "ignore_eos_token is neither 0 nor 1");
#endif
#if ABI >= ABI_1_2_0
    REQUIRE(param->n_keep >= -1 && param->n_keep < param->max_context_len, "n_keep is %d, max_context_len %d",
            param->n_keep, param->max_context_len);
#endif
    Sampling sampling = {param->top_k, param->mirostat, param->top_p, param->temperature, param->repeat_penalty,
                         param->frequency_penalty, param->presence_penalty, param->mirostat_tau, param->mirostat_eta};
    isWell &= checkSampling(function, sampling);
    return checkExtendParam(function, &param->extend_param, script) && isWell;
}

bool checkText(const char *function, const char *name, const char *text) {
    bool isWell = true;
    REQUIRE(text, "%s is NULL", name);
    if (text)
        REQUIRE(isUTF8(text, strlen(text)), "%s is not UTF-8", name);
    return isWell;
}

static bool checkItems(const char *function, const char *name, const float *values, size_t items, size_t tokens,
                       const Model *model) {
    bool isWell = true;
    REQUIRE(items < 1 << 20 && tokens < 1 << 20, "%s: counts %zu and %zu are junk", name, items, tokens);
    REQUIRE((values != NULL) == (items > 0), "%s is %s with a count of %zu", name, values ? "given" : "NULL", items);
    REQUIRE(items == 0 || tokens > 0, "%s: no tokens of each", name);
    return isWell && (!items || checkFloats(function, name, values, items * tokens * (size_t)model->file.embd));
}

static bool checkMultimodal(const char *function, const Model *model, const RKLLMMultiModalInput *input) {
    bool isWell = checkText(function, "multimodal_input.prompt", input->prompt);
#if ABI >= ABI_1_3
    isWell &= checkItems(function, "image_embed", input->image.image_embed, input->image.n_image,
                         input->image.n_image_tokens, model);
    isWell &= checkItems(function, "video_embed", input->video.video_embed, input->video.n_video,
                         input->video.n_frame_per_video * input->video.n_frame_tokens, model);
#elif ABI >= ABI_1_2_1b1
    isWell &= checkItems(function, "image_embed", input->image_embed, input->n_image, input->n_image_tokens, model);
#else
    isWell &= checkItems(function, "image_embed", input->image_embed, input->image_embed != NULL,
                         input->n_image_tokens, model);
#endif
#if ABI >= ABI_1_3_1
    isWell &= checkItems(function, "audio_embed", input->audio.audio_embed, input->audio.n_audio,
                         input->audio.n_audio_tokens, model);
#endif
    return isWell;
}

static bool checkTokens(const char *function, const RKLLMTokenInput *input) {
    bool isWell = true;
    REQUIRE(input->input_ids, "input_ids is NULL");
    REQUIRE(input->n_tokens > 0 && input->n_tokens < 1 << 24, "n_tokens is %zu", input->n_tokens);
    for (size_t at = 0; isWell && at < input->n_tokens; at++)
        REQUIRE(input->input_ids[at] >= 0, "input_ids[%zu] is %d", at, input->input_ids[at]);
    return isWell;
}

static bool checkEmbed(const char *function, const Model *model, const RKLLMEmbedInput *input) {
    bool isWell = true;
    REQUIRE(input->embed, "embed is NULL");
    REQUIRE(input->n_tokens > 0 && input->n_tokens < 1 << 24, "n_tokens is %zu", input->n_tokens);
    return isWell && checkFloats(function, "embed", input->embed, input->n_tokens * (size_t)model->file.embd);
}

static bool checkInput(const Model *model, const RKLLMInput *input) {
    static const char *const function = "rkllm_run";
    bool isWell = true;
#if ABI >= ABI_1_2_1
    isWell &= checkText(function, "role", input->role);
    REQUIRE(isBool(&input->enable_thinking), "enable_thinking is neither 0 nor 1");
#endif
    switch ((unsigned)input->input_type) {
    case RKLLM_INPUT_PROMPT:
        return checkText(function, "prompt_input", input->prompt_input) && isWell;
    case RKLLM_INPUT_TOKEN:
        return checkTokens(function, &input->token_input) && isWell;
    case RKLLM_INPUT_EMBED:
        return checkEmbed(function, model, &input->embed_input) && isWell;
    case RKLLM_INPUT_MULTIMODAL:
        return checkMultimodal(function, model, &input->multimodal_input) && isWell;
    default:
        violation(function, "input_type is %u", (unsigned)input->input_type);
        return false;
    }
}

bool checkInputs(const Model *model, const RKLLMInput *inputs) {
    bool isWell = true;
    for (int batch = 0; batch < model->batches; batch++)
        isWell &= checkInput(model, &inputs[batch]);
    return isWell;
}

bool checkInferParam(const RKLLMInferParam *infer) {
    static const char *const function = "rkllm_run";
    bool isWell = true;
    unsigned modes = ABI >= ABI_1_2_0 ? 3 : 2;
    REQUIRE((unsigned)infer->mode < modes, "mode is %u, this family has %u", (unsigned)infer->mode, modes);
    if (infer->lora_params)
        isWell &= checkText(function, "lora_adapter_name", infer->lora_params->lora_adapter_name);
    if (infer->prompt_cache_params)
        REQUIRE(infer->prompt_cache_params->save_prompt_cache >> 1 == 0, "save_prompt_cache is %d",
                infer->prompt_cache_params->save_prompt_cache);
#if ABI >= ABI_1_2_0
    REQUIRE(infer->keep_history == 0 || infer->keep_history == 1, "keep_history is %d", infer->keep_history);
#endif
#if ABI >= ABI_1_3
    const RKLLMSamplingParam *given = infer->sampling_params;
    if (given) {
        Sampling sampling = {given->top_k, given->mirostat, given->top_p, given->temperature, given->repeat_penalty,
                             given->frequency_penalty, given->presence_penalty, given->mirostat_tau,
                             given->mirostat_eta};
        isWell &= checkSampling(function, sampling);
    }
#endif
    return isWell;
}

/* What must live until destroy is kept as a pointer, and compared with what it was at init. */
void keepTags(Model *model) {
#if ABI < ABI_1_3
    model->tags[0] = copyOf(model->param.img_start);
    model->tags[1] = copyOf(model->param.img_end);
    model->tags[2] = copyOf(model->param.img_content);
#else
    model->callbackCopy = *model->callback;
#endif
}

bool checkKept(const char *function, const Model *model) {
    bool isWell = true;
#if ABI < ABI_1_3
    const char *const tags[] = {model->param.img_start, model->param.img_end, model->param.img_content};
    for (int at = 0; at < 3; at++)
        REQUIRE(tags[at] == NULL || strcmp(tags[at], model->tags[at]) == 0,
                "an img_ string of init is not what it was: it must live until destroy");
#else
    REQUIRE(memcmp(model->callback, &model->callbackCopy, sizeof(RKLLMCallback)) == 0,
            "the RKLLMCallback of init is not what it was: it must live until destroy");
#endif
    return isWell;
}

static uint64_t hashOfText(const char *text, uint64_t hash) {
    return text ? hashOf(text, strlen(text) + 1, hash) : hash;
}

static uint64_t hashOfMultimodal(const Model *model, const RKLLMMultiModalInput *input, uint64_t hash) {
    size_t row = (size_t)model->file.embd * sizeof(float);
    hash = hashOfText(input->prompt, hash);
#if ABI >= ABI_1_3
    hash = hashOfText(input->image.image_start, hashOfText(input->image.image_end, hash));
    hash = hashOfText(input->image.image_content, hash);
    hash = hashOf(input->image.image_embed, input->image.n_image * input->image.n_image_tokens * row, hash);
    size_t frames = input->video.n_video * input->video.n_frame_per_video;
    hash = hashOfText(input->video.video_start, hashOfText(input->video.video_end, hash));
    hash = hashOfText(input->video.video_content, hash);
    hash = hashOf(input->video.video_embed, frames * input->video.n_frame_tokens * row, hash);
#elif ABI >= ABI_1_2_1b1
    hash = hashOf(input->image_embed, input->n_image * input->n_image_tokens * row, hash);
#else
    hash = hashOf(input->image_embed, (input->image_embed ? input->n_image_tokens : 0) * row, hash);
#endif
#if ABI >= ABI_1_3_1
    hash = hashOfText(input->audio.audio_start, hashOfText(input->audio.audio_end, hash));
    hash = hashOfText(input->audio.audio_content, hash);
    hash = hashOf(input->audio.audio_embed, input->audio.n_audio * input->audio.n_audio_tokens * row, hash);
#endif
    return hash;
}

static uint64_t hashOfInput(const Model *model, const RKLLMInput *input, uint64_t hash) {
    hash = hashOf(input, offsetof(RKLLMInput, prompt_input), hash);
#if ABI >= ABI_1_2_1
    hash = hashOfText(input->role, hash);
#endif
    switch (input->input_type) {
    case RKLLM_INPUT_PROMPT:
        return hashOfText(input->prompt_input, hash);
    case RKLLM_INPUT_TOKEN:
        return hashOf(input->token_input.input_ids, input->token_input.n_tokens * sizeof(int32_t), hash);
    case RKLLM_INPUT_EMBED:
        return hashOf(input->embed_input.embed,
                      input->embed_input.n_tokens * (size_t)model->file.embd * sizeof(float), hash);
    case RKLLM_INPUT_MULTIMODAL:
        return hashOfMultimodal(model, &input->multimodal_input, hash);
    }
    return hash;
}

/* Of everything that a run reads: it must be the same when the run ends, or it was freed or changed meanwhile. */
uint64_t hashOfRun(const Model *model, const RKLLMInput *inputs, const RKLLMInferParam *infer) {
    uint64_t hash = hashOf(infer, sizeof *infer, 0);
    if (infer->lora_params)
        hash = hashOfText(infer->lora_params->lora_adapter_name, hash);
    if (infer->prompt_cache_params)
        hash = hashOfText(infer->prompt_cache_params->prompt_cache_path, hash);
#if ABI >= ABI_1_3
    if (infer->sampling_params)
        hash = hashOf(infer->sampling_params, sizeof *infer->sampling_params, hash);
#endif
    for (int batch = 0; batch < model->batches; batch++)
        hash = hashOfInput(model, &inputs[batch], hash);
    return hash;
}
