"""The functions and structs of ``llama.h`` that this backend uses, and the cffi modules generated from them.

Follows ``include/llama.h``, ``ggml.h`` and ``ggml-cpu.h`` as they are in the source distributions of the two providers.
Of the parameter structs every field is declared, in the header's order: their layout must be right to the last byte.
Each has room behind its last field, so that a library that knows more fields than we do cannot write past ours.

The generated modules are committed, because setuptools ignores ``cffi_modules`` in setup.cfg and because a generated
module imports in 2 ms where parsing the declarations takes 45 (measured). After a change here::

    python -m rkllm_twisted.backends.llamacpp.declarations
"""

from __future__ import annotations

from pathlib import Path

from rkllm_twisted.backends.llamacpp.providers import LLAMA_CPP_PYTHON, XLLAMACPP, Provider

DECLARATIONS = """
typedef int32_t llama_token;
typedef int32_t llama_pos;
typedef int32_t llama_seq_id;

typedef struct llama_model llama_model;
typedef struct llama_vocab llama_vocab;
typedef struct llama_context llama_context;
typedef struct llama_memory llama_memory;
typedef struct llama_sampler llama_sampler;
typedef struct llama_adapter_lora llama_adapter_lora;

typedef bool (*ggml_abort_callback)(void *data);
typedef void (*ggml_abort_callback_t)(const char *error_message);
typedef void (*ggml_log_callback)(int level, const char *text, void *user_data);

typedef struct {
    void *devices, *tensor_buft_overrides;
    int32_t n_gpu_layers;
    int split_mode, load_mode, lazy_mode;
    int32_t main_gpu;
    const float *tensor_split;
    void *progress_callback, *progress_callback_user_data, *kv_overrides;
    bool vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp;
    uint64_t room[32];
} llama_model_params;

typedef struct {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, n_outputs_max_per_seq;
    int32_t n_threads, n_threads_batch;
    int ctx_type, rope_scaling_type, pooling_type, attention_type, flash_attn_type;
    float rope_freq_base, rope_freq_scale, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void *cb_eval, *cb_eval_user_data;
    int type_k, type_v;
    $moe_cache_size
    ggml_abort_callback abort_callback;
    void *abort_callback_data;
    bool embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified;
    void *samplers;
    size_t n_samplers;
    llama_context *ctx_other;
    uint64_t room[32];
} llama_context_params;

typedef struct {
    int32_t n_tokens;
    llama_token *token;
    float *embd;
    llama_pos *pos;
    int32_t *n_seq_id;
    llama_seq_id **seq_id;
    int8_t *logits;
} llama_batch;

typedef struct {
    bool no_perf;
} llama_sampler_chain_params;

void llama_backend_init(void);
void llama_log_set(ggml_log_callback log_callback, void *user_data);
ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback);

llama_model_params llama_model_default_params(void);
llama_context_params llama_context_default_params(void);
llama_sampler_chain_params llama_sampler_chain_default_params(void);

llama_model *llama_model_load_from_file(const char *path_model, llama_model_params params);
void llama_model_free(llama_model *model);
const llama_vocab *llama_model_get_vocab(const llama_model *model);
int32_t llama_model_n_ctx_train(const llama_model *model);
int32_t llama_model_n_embd_inp(const llama_model *model);
int32_t llama_model_n_embd_out(const llama_model *model);
int llama_model_rope_type(const llama_model *model);
const char *llama_model_chat_template(const llama_model *model, const char *name);
bool llama_model_has_encoder(const llama_model *model);
bool llama_model_has_decoder(const llama_model *model);

llama_context *llama_init_from_model(llama_model *model, llama_context_params params);
void llama_free(llama_context *ctx);
llama_memory *llama_get_memory(const llama_context *ctx);
bool llama_memory_seq_rm(llama_memory *mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
void llama_memory_seq_add(llama_memory *mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta);
llama_pos llama_memory_seq_pos_max(llama_memory *mem, llama_seq_id seq_id);
bool llama_memory_can_shift(llama_memory *mem);
size_t llama_state_seq_get_size(llama_context *ctx, llama_seq_id seq_id);
size_t llama_state_seq_get_data(llama_context *ctx, uint8_t *dst, size_t size, llama_seq_id seq_id);
size_t llama_state_seq_set_data(llama_context *ctx, const uint8_t *src, size_t size, llama_seq_id dest_seq_id);
llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
void llama_batch_free(llama_batch batch);
int32_t llama_decode(llama_context *ctx, llama_batch batch);
float *llama_get_logits(llama_context *ctx);
void llama_set_embeddings(llama_context *ctx, bool embeddings);
float *llama_get_embeddings(llama_context *ctx);

llama_adapter_lora *llama_adapter_lora_init(llama_model *model, const char *path_lora);
int32_t llama_set_adapters_lora(llama_context *ctx, llama_adapter_lora **adapters, size_t n_adapters, float *scales);

int llama_vocab_type(const llama_vocab *vocab);
int32_t llama_vocab_n_tokens(const llama_vocab *vocab);
bool llama_vocab_is_eog(const llama_vocab *vocab, llama_token token);
llama_token llama_vocab_bos(const llama_vocab *vocab);
llama_token llama_vocab_eos(const llama_vocab *vocab);
bool llama_vocab_get_add_bos(const llama_vocab *vocab);
int32_t llama_tokenize(const llama_vocab *vocab, const char *text, int32_t text_len, llama_token *tokens,
                       int32_t n_tokens_max, bool add_special, bool parse_special);
int32_t llama_token_to_piece(const llama_vocab *vocab, llama_token token, char *buf, int32_t length, int32_t lstrip,
                             bool special);

llama_sampler *llama_sampler_chain_init(llama_sampler_chain_params params);
void llama_sampler_chain_add(llama_sampler *chain, llama_sampler *smpl);
llama_token llama_sampler_sample(llama_sampler *smpl, llama_context *ctx, int32_t idx);
void llama_sampler_free(llama_sampler *smpl);
llama_sampler *llama_sampler_init_greedy(void);
llama_sampler *llama_sampler_init_dist(uint32_t seed);
llama_sampler *llama_sampler_init_top_k(int32_t k);
llama_sampler *llama_sampler_init_top_p(float p, size_t min_keep);
llama_sampler *llama_sampler_init_temp(float t);
llama_sampler *llama_sampler_init_penalties(int32_t n_vocab, int32_t penalty_last_n, float penalty_repeat,
                                            float penalty_freq, float penalty_present);
llama_sampler *llama_sampler_init_mirostat(int32_t n_vocab, uint32_t seed, float tau, float eta, int32_t m);
llama_sampler *llama_sampler_init_mirostat_v2(uint32_t seed, float tau, float eta);

size_t strlen(const char *text);
int malloc_trim(size_t pad);
"""

DIFFERENCES: dict[Provider, dict[str, str]] = {
    XLLAMACPP: {"moe_cache_size": "size_t moe_cache_size;"},
    LLAMA_CPP_PYTHON: {"moe_cache_size": ""},  # its llama.cpp is a little older than that field
}
"""What stands for each ``$name`` above; all in which the two headers differ for us."""


def declarationsFor(provider: Provider) -> str:
    """The declarations with the layouts of one provider."""
    text = DECLARATIONS
    for name, value in DIFFERENCES[provider].items():
        text = text.replace(f"${name}", value)
    return text


def compileModules(directory: Path) -> list[Path]:
    """Write the cffi module (out of line, ABI mode) of each provider into a directory; returns the files."""
    from cffi import FFI

    written = []
    for provider in DIFFERENCES:
        ffi = FFI()
        ffi.cdef(declarationsFor(provider))
        ffi.set_source(f"rkllm_twisted.backends.llamacpp.{provider.abi}", None)
        target = directory / f"{provider.abi}.py"
        ffi.emit_python_code(str(target))
        written.append(target)
    return written


if __name__ == "__main__":
    for path in compileModules(Path(__file__).parent):
        print(path)  # noqa: T201
