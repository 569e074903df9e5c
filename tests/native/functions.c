/* The exported functions besides those that load, run and abort. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* LoRA and prompt caches */

static bool isReadable(const char *path) {
    FILE *file = fopen(path, "re");
    if (file)
        fclose(file);
    else
        complain("cannot open %s", path);
    return file;
}

static int addLora(Model *model, const RKLLMLoraAdapter *adapter) {
    for (int at = 0; at < MAX_LORAS; at++) {
        Lora *lora = &model->loras[at];
        if (lora->name && strcmp(lora->name, adapter->lora_adapter_name) == 0) {
            complain("a lora adapter of the name %s is loaded already", lora->name);
            return -1;
        }
        if (lora->name == NULL) {
            *lora = (Lora){copyOf(adapter->lora_adapter_name), adapter->scale};
            return 0;
        }
    }
    return -1;
}

EXPORTED int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora_adapter) {
    static const char *const function = "rkllm_load_lora";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    int status = -1;
    if (lora_adapter == NULL || lora_adapter->lora_adapter_path == NULL || lora_adapter->lora_adapter_name == NULL)
        violation(function, "the adapter, its path or its name is NULL");
    else if (model && checkFloats(function, "scale", &lora_adapter->scale, 1) &&
             isReadable(lora_adapter->lora_adapter_path) && !isToFail(function, script))
        status = addLora(model, lora_adapter);
    return end(function, script, status);
}

EXPORTED int rkllm_load_prompt_cache(LLMHandle handle, const char *prompt_cache_path) {
    static const char *const function = "rkllm_load_prompt_cache";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    int status = -1;
    if (prompt_cache_path == NULL)
        violation(function, "the path is NULL");
    else if (model && model->hasPromptCache)
        complain("a prompt cache is loaded already, release it first");
    else if (model && !isToFail(function, script) && loadPromptCache(prompt_cache_path, &model->promptCache))
        status = 0, model->hasPromptCache = true;
    return end(function, script, status);
}

EXPORTED int rkllm_release_prompt_cache(LLMHandle handle) {
    static const char *const function = "rkllm_release_prompt_cache";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    if (model) {
        cacheFree(&model->promptCache);
        model->hasPromptCache = false;
    }
    return end(function, script, model ? 0 : -1);
}

/* The KV cache and the chat template, from 1.2.0 on */

#if ABI >= ABI_1_2_0
static void clearAll(Model *model, bool keepSystem) {
    for (int batch = 0; batch < model->batches; batch++)
        cacheClear(&model->caches[batch], keepSystem);
    model->isHistory &= keepSystem;
}
#endif

#if ABI >= ABI_1_2_1
/* Ranges are taken only after a callback has paused a run of a single turn. */
static int clearRanges(Model *model, const int *starts, const int *ends, const Script *script) {
    if (!model->paused && !scriptIs(script, "ranges", "free")) {
        complain("start_pos and end_pos are taken only after a pause");
        return -1;
    }
    for (int batch = 0; batch < model->batches; batch++) {
        if (starts[batch] < 0 || ends[batch] < starts[batch]) {
            complain("invalid range from %d to %d", starts[batch], ends[batch]);
            return -1;
        }
        note("{\"event\": \"clear\", \"batch\": %d, \"start\": %d, \"end\": %d}", batch, starts[batch], ends[batch]);
        cacheRemove(&model->caches[batch], (size_t)starts[batch], (size_t)ends[batch]);
    }
    return 0;
}

EXPORTED int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos) {
    static const char *const function = "rkllm_clear_kv_cache";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    int status = 0;
    if (keep_system_prompt >> 1)
        violation(function, "keep_system_prompt is %d", keep_system_prompt);
    if ((start_pos == NULL) != (end_pos == NULL))
        violation(function, "one of start_pos and end_pos is NULL");
    else if (model && start_pos && !isToFail(function, script))
        status = clearRanges(model, start_pos, end_pos, script);
    else if (model && !isToFail(function, script))
        clearAll(model, keep_system_prompt);
    return end(function, script, model ? status : -1);
}
#elif ABI >= ABI_1_2_0
EXPORTED int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt) {
    static const char *const function = "rkllm_clear_kv_cache";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    if (keep_system_prompt >> 1)
        violation(function, "keep_system_prompt is %d", keep_system_prompt);
    if (model && !isToFail(function, script))
        clearAll(model, keep_system_prompt);
    return end(function, script, model ? 0 : -1);
}
#endif

#if ABI >= ABI_1_2_0
static void replace(char **place, const char *text) {
    free(*place);
    *place = copyOf(text);
}

EXPORTED int rkllm_set_chat_template(LLMHandle handle, const char *system_prompt, const char *prompt_prefix,
                                     const char *prompt_postfix) {
    static const char *const function = "rkllm_set_chat_template";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    bool isWhole = checkText(function, "system_prompt", system_prompt) &&
                   checkText(function, "prompt_prefix", prompt_prefix) &&
                   checkText(function, "prompt_postfix", prompt_postfix);
    bool isDone = model && isWhole && !isToFail(function, script);
    if (isDone) {
        replace(&model->template.system, system_prompt);
        replace(&model->template.prefix, prompt_prefix);
        replace(&model->template.postfix, prompt_postfix);
        clearAll(model, false);
    }
    return end(function, script, isDone ? 0 : -1);
}
#endif

#if ABI >= ABI_1_2_1
EXPORTED int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes) {
    static const char *const function = "rkllm_get_kv_cache_size";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    if (cache_sizes == NULL)
        violation(function, "cache_sizes is NULL");
    for (int batch = 0; model && cache_sizes && batch < model->batches; batch++)
        cache_sizes[batch] = (int)model->caches[batch].count;
    return end(function, script, model && cache_sizes ? 0 : -1);
}

EXPORTED int rkllm_set_function_tools(LLMHandle handle, const char *system_prompt, const char *tools,
                                      const char *tool_response_str) {
    static const char *const function = "rkllm_set_function_tools";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    bool isWhole = checkText(function, "system_prompt", system_prompt) && checkText(function, "tools", tools) &&
                   checkText(function, "tool_response_str", tool_response_str);
    bool isDone = model && isWhole && !isToFail(function, script);
    if (isDone) {
        replace(&model->template.toolSystem, system_prompt);
        replace(&model->template.tools, tools);
        replace(&model->template.toolResponse, tool_response_str);
    }
    return end(function, script, isDone ? 0 : -1);
}

static bool isCrossWhole(const RKLLMCrossAttnParam *cross) {
    return cross && cross->encoder_k_cache && cross->encoder_v_cache && cross->encoder_mask && cross->encoder_pos &&
           cross->num_tokens > 0;
}

EXPORTED int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *cross_attn_params) {
    static const char *const function = "rkllm_set_cross_attn_params";
    Script *script = begin(function);
    Model *model = enter(function, handle);
    int status = -1;
    if (!isCrossWhole(cross_attn_params)) {
        violation(function, "the parameters or one of their arrays are NULL, or num_tokens is not positive");
    } else if (model && !model->param.extend_param.use_cross_attn) {
        complain("use_cross_attn was not set at init");
    } else if (model && !isToFail(function, script)) {
        model->cross = *cross_attn_params;
        model->hasCross = true;
        model->crossHash = hashOfCross(model);
        status = 0;
    }
    return end(function, script, status);
}
#endif
