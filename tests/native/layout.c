/*
 * Sizes and offsets of every struct that crosses the interface, asserted by the compiler. The columns are the families
 * 1.1, 1.2.0, 1.2.1b1, 1.2.1, 1.3 and 1.3.1; _ stands where a family lacks the field. They hold where a pointer has
 * eight bytes: x86-64 and aarch64 agree.
 *
 * Sources: the vendor's headers of 1.1.0, 1.2.0, 1.2.1b1, 1.2.1 and 1.3.0; for 1.3.1 the numbers that
 * dmmdea/offload-harness (accelerators/rknpu) printed on a board. RKLLMLoraAdapter and RKLLMCrossAttnParam of 1.3.1 are
 * taken as in 1.3.0.
 */
#include "standin.h"

#define IN_1(a, b, c, d, e, f) a
#define IN_2(a, b, c, d, e, f) b
#define IN_3(a, b, c, d, e, f) c
#define IN_4(a, b, c, d, e, f) d
#define IN_5(a, b, c, d, e, f) e
#define IN_6(a, b, c, d, e, f) f
#define COLUMN(abi) IN_##abi
#define OF_FAMILY(abi, ...) COLUMN(abi)(__VA_ARGS__)
#define HERE(...) OF_FAMILY(ABI, __VA_ARGS__)

#define SIZE(type, ...) _Static_assert(sizeof(type) == HERE(__VA_ARGS__), "sizeof " #type)
#define SIZE_OF_BLOCK(type, block, ...) \
    _Static_assert(sizeof(((type *)0)->block) == HERE(__VA_ARGS__), "sizeof " #type "." #block)
#define AT(type, field, ...) _Static_assert(offsetof(type, field) == HERE(__VA_ARGS__), #type "." #field)

_Static_assert(sizeof(void *) == 8 && sizeof(size_t) == 8 && sizeof(int) == 4 && sizeof(bool) == 1, "LP64");
_Static_assert(sizeof(LLMCallState) == 4 && sizeof(RKLLMInputType) == 4 && sizeof(RKLLMInferMode) == 4, "enums");

SIZE(RKLLMExtendParam, 116, 120, 120, 120, 120, 120);
AT(RKLLMExtendParam, base_domain_id, 0, 0, 0, 0, 0, 0);
AT(RKLLMExtendParam, reserved, 4, 12, 12, 14, 14, 14);
#if ABI >= ABI_1_2_0
AT(RKLLMExtendParam, embed_flash, _, 4, 4, 4, 4, 4);
AT(RKLLMExtendParam, enabled_cpus_num, _, 5, 5, 5, 5, 5);
AT(RKLLMExtendParam, enabled_cpus_mask, _, 8, 8, 8, 8, 8);
#endif
#if ABI >= ABI_1_2_1
AT(RKLLMExtendParam, n_batch, _, _, _, 12, 12, 12);
AT(RKLLMExtendParam, use_cross_attn, _, _, _, 13, 13, 13);
#endif

SIZE(RKLLMParam, 200, 208, 208, 208, 184, 184);
AT(RKLLMParam, model_path, 0, 0, 0, 0, 0, 0);
AT(RKLLMParam, max_context_len, 8, 8, 8, 8, 8, 8);
AT(RKLLMParam, max_new_tokens, 12, 12, 12, 12, 12, 12);
AT(RKLLMParam, top_k, 16, 16, 16, 16, 16, 16);
AT(RKLLMParam, top_p, 20, 24, 24, 24, 24, 24);
AT(RKLLMParam, temperature, 24, 28, 28, 28, 28, 28);
AT(RKLLMParam, repeat_penalty, 28, 32, 32, 32, 32, 32);
AT(RKLLMParam, frequency_penalty, 32, 36, 36, 36, 36, 36);
AT(RKLLMParam, presence_penalty, 36, 40, 40, 40, 40, 40);
AT(RKLLMParam, mirostat, 40, 44, 44, 44, 44, 44);
AT(RKLLMParam, mirostat_tau, 44, 48, 48, 48, 48, 48);
AT(RKLLMParam, mirostat_eta, 48, 52, 52, 52, 52, 52);
AT(RKLLMParam, skip_special_token, 52, 56, 56, 56, 56, 56);
AT(RKLLMParam, is_async, 53, 57, 57, 57, 58, 58);
#if ABI <= ABI_1_2_1
AT(RKLLMParam, img_start, 56, 64, 64, 64, _, _);
AT(RKLLMParam, img_end, 64, 72, 72, 72, _, _);
AT(RKLLMParam, img_content, 72, 80, 80, 80, _, _);
#endif
AT(RKLLMParam, extend_param, 80, 88, 88, 88, 60, 60);
#if ABI >= ABI_1_2_0
AT(RKLLMParam, n_keep, _, 20, 20, 20, 20, 20);
#endif
#if ABI >= ABI_1_3
AT(RKLLMParam, ignore_eos_token, _, _, _, _, 57, 57);
#endif

SIZE(RKLLMLoraAdapter, 24, 24, 24, 24, 24, 24);
AT(RKLLMLoraAdapter, lora_adapter_path, 0, 0, 0, 0, 0, 0);
AT(RKLLMLoraAdapter, lora_adapter_name, 8, 8, 8, 8, 8, 8);
AT(RKLLMLoraAdapter, scale, 16, 16, 16, 16, 16, 16);

SIZE(RKLLMEmbedInput, 16, 16, 16, 16, 16, 16);
AT(RKLLMEmbedInput, embed, 0, 0, 0, 0, 0, 0);
AT(RKLLMEmbedInput, n_tokens, 8, 8, 8, 8, 8, 8);

SIZE(RKLLMTokenInput, 16, 16, 16, 16, 16, 16);
AT(RKLLMTokenInput, input_ids, 0, 0, 0, 0, 0, 0);
AT(RKLLMTokenInput, n_tokens, 8, 8, 8, 8, 8, 8);

SIZE(RKLLMMultiModalInput, 24, 24, 48, 48, 144, 192);
AT(RKLLMMultiModalInput, prompt, 0, 0, 0, 0, 0, 0);
#if ABI <= ABI_1_2_1
AT(RKLLMMultiModalInput, image_embed, 8, 8, 8, 8, _, _);
AT(RKLLMMultiModalInput, n_image_tokens, 16, 16, 16, 16, _, _);
#endif
#if ABI >= ABI_1_2_1b1 && ABI <= ABI_1_2_1
AT(RKLLMMultiModalInput, n_image, _, _, 24, 24, _, _);
AT(RKLLMMultiModalInput, image_width, _, _, 32, 32, _, _);
AT(RKLLMMultiModalInput, image_height, _, _, 40, 40, _, _);
#endif
#if ABI >= ABI_1_3
AT(RKLLMMultiModalInput, image, _, _, _, _, 8, 8);
AT(RKLLMMultiModalInput, video, _, _, _, _, 72, 72);
#endif
#if ABI == ABI_1_3_1
AT(RKLLMMultiModalInput, audio, _, _, _, _, _, 144);
#endif

SIZE(RKLLMInput, 32, 32, 56, 64, 160, 208);
AT(RKLLMInput, input_type, 0, 0, 0, 12, 12, 12);
#if ABI >= ABI_1_2_1
AT(RKLLMInput, role, _, _, _, 0, 0, 0);
AT(RKLLMInput, enable_thinking, _, _, _, 8, 8, 8);
#endif

SIZE(RKLLMLoraParam, 8, 8, 8, 8, 8, 8);
AT(RKLLMLoraParam, lora_adapter_name, 0, 0, 0, 0, 0, 0);

SIZE(RKLLMPromptCacheParam, 16, 16, 16, 16, 16, 16);
AT(RKLLMPromptCacheParam, save_prompt_cache, 0, 0, 0, 0, 0, 0);
AT(RKLLMPromptCacheParam, prompt_cache_path, 8, 8, 8, 8, 8, 8);

SIZE(RKLLMInferParam, 24, 32, 32, 32, 40, 40);
AT(RKLLMInferParam, mode, 0, 0, 0, 0, 0, 0);
AT(RKLLMInferParam, lora_params, 8, 8, 8, 8, 8, 8);
AT(RKLLMInferParam, prompt_cache_params, 16, 16, 16, 16, 16, 16);
#if ABI >= ABI_1_2_0
AT(RKLLMInferParam, keep_history, _, 24, 24, 24, 32, 32);
#endif
#if ABI >= ABI_1_3
AT(RKLLMInferParam, sampling_params, _, _, _, _, 24, 24);
AT(RKLLMInferParam, max_new_tokens, _, _, _, _, 36, 36);
#endif

SIZE(RKLLMResultLastHiddenLayer, 16, 16, 16, 16, 16, 16);
AT(RKLLMResultLastHiddenLayer, hidden_states, 0, 0, 0, 0, 0, 0);
AT(RKLLMResultLastHiddenLayer, embd_size, 8, 8, 8, 8, 8, 8);
AT(RKLLMResultLastHiddenLayer, num_tokens, 12, 12, 12, 12, 12, 12);

SIZE(RKLLMResult, 32, 48, 48, 72, 72, 72);
AT(RKLLMResult, text, 0, 0, 0, 0, 0, 0);
AT(RKLLMResult, token_id, 8, 8, 8, 8, 8, 8);
AT(RKLLMResult, last_hidden_layer, 16, 16, 16, 16, 16, 16);
#if ABI >= ABI_1_2_0
AT(RKLLMResult, logits, _, 32, 32, 32, 32, 32);
#endif
#if ABI >= ABI_1_2_1
AT(RKLLMResult, perf, _, _, _, 48, 48, 48);
#endif

AT(RKLLMInput, prompt_input, 8, 8, 8, 16, 16, 16);
AT(RKLLMInput, embed_input, 8, 8, 8, 16, 16, 16);
AT(RKLLMInput, token_input, 8, 8, 8, 16, 16, 16);
AT(RKLLMInput, multimodal_input, 8, 8, 8, 16, 16, 16);

#if ABI >= ABI_1_2_0
SIZE(RKLLMResultLogits, _, 16, 16, 16, 16, 16);
AT(RKLLMResultLogits, logits, _, 0, 0, 0, 0, 0);
AT(RKLLMResultLogits, vocab_size, _, 8, 8, 8, 8, 8);
AT(RKLLMResultLogits, num_tokens, _, 12, 12, 12, 12, 12);
#endif

#if ABI >= ABI_1_2_1
SIZE(RKLLMCrossAttnParam, _, _, _, 40, 40, 40);
AT(RKLLMCrossAttnParam, encoder_k_cache, _, _, _, 0, 0, 0);
AT(RKLLMCrossAttnParam, encoder_v_cache, _, _, _, 8, 8, 8);
AT(RKLLMCrossAttnParam, encoder_mask, _, _, _, 16, 16, 16);
AT(RKLLMCrossAttnParam, encoder_pos, _, _, _, 24, 24, 24);
AT(RKLLMCrossAttnParam, num_tokens, _, _, _, 32, 32, 32);
#endif

#if ABI >= ABI_1_2_1
SIZE(RKLLMPerfStat, _, _, _, 20, 20, 20);
AT(RKLLMPerfStat, prefill_time_ms, _, _, _, 0, 0, 0);
AT(RKLLMPerfStat, prefill_tokens, _, _, _, 4, 4, 4);
AT(RKLLMPerfStat, generate_time_ms, _, _, _, 8, 8, 8);
AT(RKLLMPerfStat, generate_tokens, _, _, _, 12, 12, 12);
AT(RKLLMPerfStat, memory_usage_mb, _, _, _, 16, 16, 16);
#endif

#if ABI >= ABI_1_3
SIZE_OF_BLOCK(RKLLMMultiModalInput, image, _, _, _, _, 64, 64);
AT(RKLLMMultiModalInput, image.image_embed, _, _, _, _, 8, 8);
AT(RKLLMMultiModalInput, image.n_image_tokens, _, _, _, _, 16, 16);
AT(RKLLMMultiModalInput, image.n_image, _, _, _, _, 24, 24);
AT(RKLLMMultiModalInput, image.image_start, _, _, _, _, 32, 32);
AT(RKLLMMultiModalInput, image.image_end, _, _, _, _, 40, 40);
AT(RKLLMMultiModalInput, image.image_content, _, _, _, _, 48, 48);
AT(RKLLMMultiModalInput, image.image_width, _, _, _, _, 56, 56);
AT(RKLLMMultiModalInput, image.image_height, _, _, _, _, 64, 64);
#endif

#if ABI >= ABI_1_3
SIZE_OF_BLOCK(RKLLMMultiModalInput, video, _, _, _, _, 72, 72);
AT(RKLLMMultiModalInput, video.video_embed, _, _, _, _, 72, 72);
AT(RKLLMMultiModalInput, video.n_frame_tokens, _, _, _, _, 80, 80);
AT(RKLLMMultiModalInput, video.n_frame_per_video, _, _, _, _, 88, 88);
AT(RKLLMMultiModalInput, video.n_video, _, _, _, _, 96, 96);
AT(RKLLMMultiModalInput, video.video_start, _, _, _, _, 104, 104);
AT(RKLLMMultiModalInput, video.video_end, _, _, _, _, 112, 112);
AT(RKLLMMultiModalInput, video.video_content, _, _, _, _, 120, 120);
AT(RKLLMMultiModalInput, video.frame_width, _, _, _, _, 128, 128);
AT(RKLLMMultiModalInput, video.frame_height, _, _, _, _, 136, 136);
#endif

#if ABI >= ABI_1_3
SIZE(RKLLMSamplingParam, _, _, _, _, 36, 36);
AT(RKLLMSamplingParam, top_k, _, _, _, _, 0, 0);
AT(RKLLMSamplingParam, top_p, _, _, _, _, 4, 4);
AT(RKLLMSamplingParam, temperature, _, _, _, _, 8, 8);
AT(RKLLMSamplingParam, repeat_penalty, _, _, _, _, 12, 12);
AT(RKLLMSamplingParam, frequency_penalty, _, _, _, _, 16, 16);
AT(RKLLMSamplingParam, presence_penalty, _, _, _, _, 20, 20);
AT(RKLLMSamplingParam, mirostat, _, _, _, _, 24, 24);
AT(RKLLMSamplingParam, mirostat_tau, _, _, _, _, 28, 28);
AT(RKLLMSamplingParam, mirostat_eta, _, _, _, _, 32, 32);
#endif

#if ABI >= ABI_1_3
SIZE(RKLLMCallback, _, _, _, _, 48, 48);
AT(RKLLMCallback, result_callback, _, _, _, _, 0, 0);
AT(RKLLMCallback, result_userdata, _, _, _, _, 8, 8);
AT(RKLLMCallback, tokenizer_callback, _, _, _, _, 16, 16);
AT(RKLLMCallback, tokenizer_userdata, _, _, _, _, 24, 24);
AT(RKLLMCallback, embed_callback, _, _, _, _, 32, 32);
AT(RKLLMCallback, embed_userdata, _, _, _, _, 40, 40);
#endif

#if ABI == ABI_1_3_1
SIZE_OF_BLOCK(RKLLMMultiModalInput, audio, _, _, _, _, _, 48);
AT(RKLLMMultiModalInput, audio.audio_embed, _, _, _, _, _, 144);
AT(RKLLMMultiModalInput, audio.n_audio_tokens, _, _, _, _, _, 152);
AT(RKLLMMultiModalInput, audio.n_audio, _, _, _, _, _, 160);
AT(RKLLMMultiModalInput, audio.audio_start, _, _, _, _, _, 168);
AT(RKLLMMultiModalInput, audio.audio_end, _, _, _, _, _, 176);
AT(RKLLMMultiModalInput, audio.audio_content, _, _, _, _, _, 184);
#endif
