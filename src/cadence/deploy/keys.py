"""Keys of vLLM-Omni's stage YAML that are known and have nothing to act on in Cadence."""

from __future__ import annotations

__all__ = ["ENGINE_KEYS", "OLD_STAGE_KEYS", "OLD_TOP_KEYS", "STAGE_KEYS", "TOP_KEYS"]

_NAMES = {
    # old schema, top level: how its orchestrator joins stages
    "old_top": "runtime connectors model_type trust_remote_code dtype enable_prefix_caching",
    # old schema, one stage
    "old_stage": """
        is_comprehension engine_input_source custom_process_input_func final_output final_output_type
        input_connectors output_connectors output_modalities worker_type scheduler_cls hf_config_name
    """,
    # new schema, top level
    "top": """
        trust_remote_code enable_prefix_caching session_mode model_runner active_stream_window
        duplex_session connectors edges distributed_executor_backend quantization enable_chunked_prefill
        data_parallel_size pipeline_parallel_size custom_voice_dir
    """,
    # new schema, one stage
    "stage": """
        num_replicas env input_connectors output_connectors default_pooling_params final_output
        final_output_type subtalker_sampling_params
    """,
    # engine arguments, in either schema
    "engine": """
        model_stage model_arch worker_cls worker_type scheduler_cls engine_output_type hf_overrides
        custom_process_next_stage_input_func tensor_parallel_size pipeline_parallel_size
        data_parallel_size data_parallel_size_local enable_expert_parallel distributed_executor_backend
        gpu_memory_utilization cpu_offload_gb swap_space compilation_config cudagraph_mode
        trust_remote_code enable_prefix_caching enable_chunked_prefill async_scheduling
        skip_mm_profiling limit_mm_per_prompt mm_processor_kwargs mm_processor_cache_gb
        quantization quantization_config load_format kv_cache_dtype kv_cache_memory_bytes block_size
        num_gpu_blocks_override max_num_partial_prefills long_prefill_token_threshold
        tokenizer tokenizer_mode config_format model_impl revision code_revision tokenizer_revision
        download_dir seed disable_log_stats enable_sleep_mode attention_backend attention_config
        additional_config kv_transfer_config speculative_config structured_outputs_config
        disable_hybrid_kv_cache_manager enable_log_requests logits_processors max_logprobs
    """,
}

OLD_TOP_KEYS = tuple(_NAMES["old_top"].split())
OLD_STAGE_KEYS = tuple(_NAMES["old_stage"].split())
TOP_KEYS = tuple(_NAMES["top"].split())
STAGE_KEYS = tuple(_NAMES["stage"].split())
ENGINE_KEYS = tuple(_NAMES["engine"].split())
