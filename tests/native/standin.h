/*
 * The C interface of librkllmrt for one release family, in our own words: what the stand-in implements and what its
 * tests include. Compile with exactly one of FAMILY_1_1, FAMILY_1_2_0, FAMILY_1_2_1b1, FAMILY_1_2_1, FAMILY_1_3 and
 * FAMILY_1_3_1.
 *
 * Names, order and types of the fields are those of the vendor's rkllm.h in the releases 1.1.0 to 1.3.0; the audio
 * block of 1.3.1 is known from a public measurement on a board (dmmdea/offload-harness, accelerators/rknpu). layout.c
 * asserts every size and offset.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ABI_1_1 1
#define ABI_1_2_0 2
#define ABI_1_2_1b1 3
#define ABI_1_2_1 4
#define ABI_1_3 5
#define ABI_1_3_1 6

#if defined(FAMILY_1_1)
#define ABI ABI_1_1
#elif defined(FAMILY_1_2_0)
#define ABI ABI_1_2_0
#elif defined(FAMILY_1_2_1b1)
#define ABI ABI_1_2_1b1
#elif defined(FAMILY_1_2_1)
#define ABI ABI_1_2_1
#elif defined(FAMILY_1_3)
#define ABI ABI_1_3
#elif defined(FAMILY_1_3_1)
#define ABI ABI_1_3_1
#else
#error "say for which family: -DFAMILY_1_1, _1_2_0, _1_2_1b1, _1_2_1, _1_3 or _1_3_1"
#endif

/* Everything else of the library is hidden (-fvisibility=hidden). */
#define EXPORTED __attribute__((visibility("default")))

typedef void *LLMHandle;

typedef enum {
    RKLLM_RUN_NORMAL = 0,
    RKLLM_RUN_WAITING = 1,
    RKLLM_RUN_FINISH = 2,
    RKLLM_RUN_ERROR = 3,
#if ABI == ABI_1_1
    RKLLM_RUN_GET_LAST_HIDDEN_LAYER = 4,
#endif
} LLMCallState;

typedef enum {
    RKLLM_INPUT_PROMPT = 0,
    RKLLM_INPUT_TOKEN = 1,
    RKLLM_INPUT_EMBED = 2,
    RKLLM_INPUT_MULTIMODAL = 3,
} RKLLMInputType;

typedef enum {
    RKLLM_INFER_GENERATE = 0,
    RKLLM_INFER_GET_LAST_HIDDEN_LAYER = 1,
#if ABI >= ABI_1_2_0
    RKLLM_INFER_GET_LOGITS = 2,
#endif
} RKLLMInferMode;

/* Parameters of a model */

typedef struct {
    int32_t base_domain_id;
#if ABI == ABI_1_1
    uint8_t reserved[112];
#else
    int8_t embed_flash;
    int8_t enabled_cpus_num;
    uint32_t enabled_cpus_mask;
#if ABI >= ABI_1_2_1
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
#else
    uint8_t reserved[106];
#endif
#endif
} RKLLMExtendParam;

typedef struct {
    const char *model_path;
    int32_t max_context_len;
    int32_t max_new_tokens;
    int32_t top_k;
#if ABI >= ABI_1_2_0
    int32_t n_keep;
#endif
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    bool skip_special_token;
#if ABI >= ABI_1_3
    bool ignore_eos_token;
#endif
    bool is_async;
#if ABI < ABI_1_3
    const char *img_start;
    const char *img_end;
    const char *img_content;
#endif
    RKLLMExtendParam extend_param;
} RKLLMParam;

typedef struct {
    const char *lora_adapter_path;
    const char *lora_adapter_name;
    float scale;
} RKLLMLoraAdapter;

/* Input of a run */

typedef struct {
    float *embed;
    size_t n_tokens;
} RKLLMEmbedInput;

typedef struct {
    int32_t *input_ids;
    size_t n_tokens;
} RKLLMTokenInput;

typedef struct {
    char *prompt;
#if ABI < ABI_1_3
    float *image_embed;
    size_t n_image_tokens;
#if ABI >= ABI_1_2_1b1
    size_t n_image;
    size_t image_width;
    size_t image_height;
#endif
#else
    struct {
        float *image_embed;
        size_t n_image_tokens;
        size_t n_image;
        const char *image_start;
        const char *image_end;
        const char *image_content;
        size_t image_width;
        size_t image_height;
    } image;
    struct {
        float *video_embed;
        size_t n_frame_tokens;
        size_t n_frame_per_video;
        size_t n_video;
        const char *video_start;
        const char *video_end;
        const char *video_content;
        size_t frame_width;
        size_t frame_height;
    } video;
#if ABI >= ABI_1_3_1
    struct {
        float *audio_embed;
        size_t n_audio_tokens;
        size_t n_audio;
        const char *audio_start;
        const char *audio_end;
        const char *audio_content;
    } audio;
#endif
#endif
} RKLLMMultiModalInput;

typedef struct {
#if ABI >= ABI_1_2_1
    const char *role;
    bool enable_thinking;
#endif
    RKLLMInputType input_type;
    union {
        const char *prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
        RKLLMMultiModalInput multimodal_input;
    };
} RKLLMInput;

/* How a run infers */

typedef struct {
    const char *lora_adapter_name;
} RKLLMLoraParam;

typedef struct {
    int save_prompt_cache;
    const char *prompt_cache_path;
} RKLLMPromptCacheParam;

#if ABI >= ABI_1_3
typedef struct {
    int32_t top_k;
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
} RKLLMSamplingParam;
#endif

typedef struct {
    RKLLMInferMode mode;
    RKLLMLoraParam *lora_params;
    RKLLMPromptCacheParam *prompt_cache_params;
#if ABI >= ABI_1_3
    RKLLMSamplingParam *sampling_params;
#endif
#if ABI >= ABI_1_2_0
    int keep_history;
#endif
#if ABI >= ABI_1_3
    int32_t max_new_tokens;
#endif
} RKLLMInferParam;

#if ABI >= ABI_1_2_1
typedef struct {
    float *encoder_k_cache;
    float *encoder_v_cache;
    float *encoder_mask;
    int32_t *encoder_pos;
    int num_tokens;
} RKLLMCrossAttnParam;
#endif

/* Results */

typedef struct {
    const float *hidden_states;
    int embd_size;
    int num_tokens;
} RKLLMResultLastHiddenLayer;

#if ABI >= ABI_1_2_0
typedef struct {
    const float *logits;
    int vocab_size;
    int num_tokens;
} RKLLMResultLogits;
#endif

#if ABI >= ABI_1_2_1
typedef struct {
    float prefill_time_ms;
    int prefill_tokens;
    float generate_time_ms;
    int generate_tokens;
    float memory_usage_mb;
} RKLLMPerfStat;
#endif

typedef struct {
    const char *text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
#if ABI >= ABI_1_2_0
    RKLLMResultLogits logits;
#endif
#if ABI >= ABI_1_2_1
    RKLLMPerfStat perf;
#endif
} RKLLMResult;

#if ABI >= ABI_1_2_1
typedef int (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);
#else
typedef void (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);
#endif

#if ABI >= ABI_1_3
typedef int (*LLMTokenizerCallback)(void *userdata, const char *text, int32_t text_len, int32_t *tokens,
                                    int32_t n_tokens_max);
typedef int (*LLMGetEmbedCallback)(void *userdata, int32_t *tokens, uint64_t num_tokens, void *embed, uint64_t len);

typedef struct {
    LLMResultCallback result_callback;
    void *result_userdata;
    LLMTokenizerCallback tokenizer_callback;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed_callback;
    void *embed_userdata;
} RKLLMCallback;
#endif

/* Functions */

EXPORTED RKLLMParam rkllm_createDefaultParam(void);
#if ABI >= ABI_1_3
EXPORTED int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callback);
#else
EXPORTED int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback callback);
#endif
EXPORTED int rkllm_destroy(LLMHandle handle);
EXPORTED int rkllm_run(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata);
EXPORTED int rkllm_run_async(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params,
                             void *userdata);
EXPORTED int rkllm_abort(LLMHandle handle);
EXPORTED int rkllm_is_running(LLMHandle handle);
EXPORTED int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora_adapter);
EXPORTED int rkllm_load_prompt_cache(LLMHandle handle, const char *prompt_cache_path);
EXPORTED int rkllm_release_prompt_cache(LLMHandle handle);
#if ABI >= ABI_1_2_1
EXPORTED int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos);
#elif ABI >= ABI_1_2_0
EXPORTED int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt);
#endif
#if ABI >= ABI_1_2_0
EXPORTED int rkllm_set_chat_template(LLMHandle handle, const char *system_prompt, const char *prompt_prefix,
                                     const char *prompt_postfix);
#endif
#if ABI >= ABI_1_2_1
EXPORTED int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes);
EXPORTED int rkllm_set_function_tools(LLMHandle handle, const char *system_prompt, const char *tools,
                                      const char *tool_response_str);
EXPORTED int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *cross_attn_params);
#endif

#endif
