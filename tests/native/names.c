/* What arrived, in words: for the {names} of a prompt or script, and for the log. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

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
bool sayName(const char *name, const Run *run, const RKLLMInput *input, const Prompt *prompt, Text *text) {
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
