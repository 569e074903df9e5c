"""What ``rkllm.h`` declares, release by release, and the cffi modules generated from it.

One text for all families. A line that not all of them have ends in those that do, ``// 1.2.0..1.2.1`` from one to
another, either of which may be left out; on the first line of a block it holds for the block. Names, types and order
are those of the header of each release; that sizes and offsets follow is tested against figures that were measured with
C compilers.

The generated modules are committed, because setuptools ignores ``cffi_modules`` in setup.cfg and because a generated
module imports in 2 ms where parsing the declarations takes 45 (measured). After a change here::

    python -m rkllm_twisted.backends.rkllm.families.declarations
"""

from __future__ import annotations

import re
from pathlib import Path

ORDER = ("1.1", "1.2.0", "1.2.1b1", "1.2.1", "1.3", "1.3.1")
"""The families, from the oldest to the newest."""

DECLARATIONS = """
typedef void *LLMHandle;

typedef enum {
    RKLLM_RUN_NORMAL = 0,
    RKLLM_RUN_WAITING = 1,
    RKLLM_RUN_FINISH = 2,
    RKLLM_RUN_ERROR = 3,
    RKLLM_RUN_GET_LAST_HIDDEN_LAYER = 4, // ..1.1
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
    RKLLM_INFER_GET_LOGITS = 2, // 1.2.0..
} RKLLMInferMode;

typedef struct {
    int32_t base_domain_id;
    int8_t embed_flash; // 1.2.0..
    int8_t enabled_cpus_num; // 1.2.0..
    uint32_t enabled_cpus_mask; // 1.2.0..
    uint8_t n_batch; // 1.2.1..
    int8_t use_cross_attn; // 1.2.1..
    uint8_t reserved[112]; // ..1.1
    uint8_t reserved[106]; // 1.2.0..1.2.1b1
    uint8_t reserved[104]; // 1.2.1..
} RKLLMExtendParam;

typedef struct {
    const char *model_path;
    int32_t max_context_len;
    int32_t max_new_tokens;
    int32_t top_k;
    int32_t n_keep; // 1.2.0..
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    bool skip_special_token;
    bool ignore_eos_token; // 1.3..
    bool is_async;
    const char *img_start; // ..1.2.1
    const char *img_end; // ..1.2.1
    const char *img_content; // ..1.2.1
    RKLLMExtendParam extend_param;
} RKLLMParam;

typedef struct {
    const char *lora_adapter_path;
    const char *lora_adapter_name;
    float scale;
} RKLLMLoraAdapter;

typedef struct {
    float *embed;
    size_t n_tokens;
} RKLLMEmbedInput;

typedef struct {
    int32_t *input_ids;
    size_t n_tokens;
} RKLLMTokenInput;

typedef struct { // 1.3..
    float *image_embed;
    size_t n_image_tokens;
    size_t n_image;
    const char *image_start;
    const char *image_end;
    const char *image_content;
    size_t image_width;
    size_t image_height;
} RKLLMImageBlock;

typedef struct { // 1.3..
    float *video_embed;
    size_t n_frame_tokens;
    size_t n_frame_per_video;
    size_t n_video;
    const char *video_start;
    const char *video_end;
    const char *video_content;
    size_t frame_width;
    size_t frame_height;
} RKLLMVideoBlock;

typedef struct { // 1.3.1..
    float *audio_embed;
    size_t n_audio_tokens;
    size_t n_audio;
    const char *audio_start;
    const char *audio_end;
    const char *audio_content;
} RKLLMAudioBlock;

typedef struct {
    char *prompt;
    float *image_embed; // ..1.2.1
    size_t n_image_tokens; // ..1.2.1
    size_t n_image; // 1.2.1b1..1.2.1
    size_t image_width; // 1.2.1b1..1.2.1
    size_t image_height; // 1.2.1b1..1.2.1
    RKLLMImageBlock image; // 1.3..
    RKLLMVideoBlock video; // 1.3..
    RKLLMAudioBlock audio; // 1.3.1..
} RKLLMMultiModalInput;

typedef struct {
    const char *role; // 1.2.1..
    bool enable_thinking; // 1.2.1..
    RKLLMInputType input_type;
    union {
        const char *prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
        RKLLMMultiModalInput multimodal_input;
    };
} RKLLMInput;

typedef struct {
    const char *lora_adapter_name;
} RKLLMLoraParam;

typedef struct {
    int save_prompt_cache;
    const char *prompt_cache_path;
} RKLLMPromptCacheParam;

typedef struct { // 1.2.1..
    float *encoder_k_cache;
    float *encoder_v_cache;
    float *encoder_mask;
    int32_t *encoder_pos;
    int num_tokens;
} RKLLMCrossAttnParam;

typedef struct { // 1.3..
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

typedef struct {
    RKLLMInferMode mode;
    RKLLMLoraParam *lora_params;
    RKLLMPromptCacheParam *prompt_cache_params;
    RKLLMSamplingParam *sampling_params; // 1.3..
    int keep_history; // 1.2.0..
    int32_t max_new_tokens; // 1.3..
} RKLLMInferParam;

typedef struct {
    const float *hidden_states;
    int embd_size;
    int num_tokens;
} RKLLMResultLastHiddenLayer;

typedef struct { // 1.2.0..
    const float *logits;
    int vocab_size;
    int num_tokens;
} RKLLMResultLogits;

typedef struct { // 1.2.1..
    float prefill_time_ms;
    int prefill_tokens;
    float generate_time_ms;
    int generate_tokens;
    float memory_usage_mb;
} RKLLMPerfStat;

typedef struct {
    const char *text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
    RKLLMResultLogits logits; // 1.2.0..
    RKLLMPerfStat perf; // 1.2.1..
} RKLLMResult;

typedef int (*LLMResultCallback)(RKLLMResult *result, void *userdata, LLMCallState state);

typedef int (*LLMTokenizerCallback)( // 1.3..
    void *userdata, const char *text, int32_t text_len, int32_t *tokens, int32_t n_tokens_max);

typedef int (*LLMGetEmbedCallback)( // 1.3..
    void *userdata, int32_t *tokens, uint64_t num_tokens, void *embed, uint64_t len);

typedef struct { // 1.3..
    LLMResultCallback result_callback;
    void *result_userdata;
    LLMTokenizerCallback tokenizer_callback;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed_callback;
    void *embed_userdata;
} RKLLMCallback;

RKLLMParam rkllm_createDefaultParam(void);
int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback callback); // ..1.2.1
int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callback); // 1.3..
int rkllm_destroy(LLMHandle handle);
int rkllm_run(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata);
int rkllm_run_async(LLMHandle handle, RKLLMInput *rkllm_input, RKLLMInferParam *rkllm_infer_params, void *userdata);
int rkllm_abort(LLMHandle handle);
int rkllm_is_running(LLMHandle handle);
int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora_adapter);
int rkllm_load_prompt_cache(LLMHandle handle, const char *prompt_cache_path);
int rkllm_release_prompt_cache(LLMHandle handle);
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt); // 1.2.0..1.2.1b1
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos); // 1.2.1..
int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes); // 1.2.1..
int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *cross_attn_params); // 1.2.1..

int rkllm_set_chat_template( // 1.2.0..
    LLMHandle handle, const char *system_prompt, const char *prompt_prefix, const char *prompt_postfix);

int rkllm_set_function_tools( // 1.2.1..
    LLMHandle handle, const char *system_prompt, const char *tools, const char *tool_response_str);
"""
"""Differs from the headers in names only, and in this: the result callback of 1.2.1b1 and older returns void, where an
int that nobody reads does no harm. The multimodal struct is spelled ``RKLLMMultiModelInput`` up to 1.2.2, and its
blocks have no type names."""

PROBE = """
typedef struct { uint8_t bytes[1024]; } Room;
Room rkllm_createDefaultParam(void);
"""
"""For a library whose family is in question: room for the parameters of any."""


def declarationsFor(family: str) -> str:
    """The declarations of one family.

    Args:
        family: One of `ORDER`.
    """
    blocks = DECLARATIONS.strip().split("\n\n")
    return "\n\n".join("\n".join(_linesFor(family, block)) for block in blocks if _has(family, block)) + "\n"


def _linesFor(family: str, block: str) -> list[str]:
    return [line.partition(" // ")[0] for line in block.splitlines() if _has(family, line)]


def _has(family: str, text: str) -> bool:
    """Whether a family has a line, or a block by its first line."""
    first, _, last = text.partition("\n")[0].partition(" // ")[2].partition("..")
    start, end = ORDER.index(first or ORDER[0]), ORDER.index(last or ORDER[-1])
    return start <= ORDER.index(family) <= end


def moduleOf(family: str) -> str:
    """The name of the generated module of a family, or of "probe"."""
    return "_abi_" + re.sub(r"\W", "_", family)


def compileModules(directory: Path) -> list[Path]:
    """Write the cffi module (out of line, ABI mode) of each family and of the probe; returns the files."""
    from cffi import FFI

    written = []
    for name, text in {**{family: declarationsFor(family) for family in ORDER}, "probe": PROBE}.items():
        ffi = FFI()
        ffi.cdef(text)
        ffi.set_source(f"rkllm_twisted.backends.rkllm.families.{moduleOf(name)}", None)
        target = directory / f"{moduleOf(name)}.py"
        ffi.emit_python_code(str(target))
        written.append(target)
    return written


if __name__ == "__main__":
    for path in compileModules(Path(__file__).parent):
        print(path)  # noqa: T201
