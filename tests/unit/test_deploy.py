"""Deployment YAML of both schemas: used, set aside by name, or refused with the key's path."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from cadence.config import ServeConfig
from cadence.deploy import load_deploy_config
from cadence.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"

OLD = """
async_chunk: true
stage_args:
  - stage_id: 0
    stage_type: llm
    runtime: {process: true, devices: "1,2", max_batch_size: 4}
    is_comprehension: true
    final_output: true
    final_output_type: text
    engine_args:
      model_stage: step_audio2_thinker
      model_arch: SomeThinker
      tensor_parallel_size: 2
      gpu_memory_utilization: 0.8
      max_num_batched_tokens: 1024
      max_model_len: 8192
      dtype: half
    default_sampling_params: {temperature: 0.7, top_k: -1, max_tokens: 1024, detokenize: true, stop: "x"}
  - stage_id: 1
    runtime: {devices: "3"}
    engine_input_source: [0]
    engine_args: {model_stage: token2wav, worker_type: generation}
    default_sampling_params: {temperature: 0, max_tokens: 1}
runtime: {enabled: true, edges: [{from: 0, to: 1}]}
"""
NEW = """
async_chunk: false
trust_remote_code: true
dtype: bfloat16
stages:
  - {stage_id: 0, devices: "0,1", max_num_seqs: 2, max_num_batched_tokens: 64, enforce_eager: true}
  - {stage_id: 1, runtime: {devices: 1}, max_num_seqs: 3, engine_args: {dtype: float32}}
"""


def load(folder: Path, text: str, *, has_cuda: bool = False) -> tuple[ServeConfig, list[str]]:
    path = folder / "deploy.yaml"
    path.write_text(textwrap.dedent(text))
    lines: list[str] = []
    return load_deploy_config(path, say=lines.append, has_cuda=has_cuda), lines


def test_the_old_schema(tmp_path: Path) -> None:
    config, lines = load(tmp_path, OLD, has_cuda=True)
    assert config.engine.async_chunk and not config.engine.thinker_only
    thinker = config.thinker
    assert (thinker.device, thinker.dtype, thinker.max_num_seqs) == ("cuda:1", "float16", 4)
    assert (thinker.max_num_batched_tokens, thinker.max_model_len) == (1024, 8192)
    assert thinker.default_sampling == {"temperature": 0.7, "top_k": -1, "max_tokens": 1024, "stop": ("x",)}
    assert config.token2wav.device == "cuda:3"
    [aside, devices] = lines
    for key in (
        "process",
        "model_arch",
        "tensor_parallel_size",
        "worker_type",
        "is_comprehension",
        "runtime",
    ):
        assert key in aside
    assert aside.count("final_output,") == 1 and "default_sampling_params of Token2Wav" in aside
    assert "one device" in devices


def test_the_new_schema(tmp_path: Path) -> None:
    config, lines = load(tmp_path, NEW)
    assert not config.engine.async_chunk and not config.engine.thinker_only
    assert (config.thinker.dtype, config.thinker.max_num_seqs) == ("bfloat16", 2)
    assert config.thinker.max_num_batched_tokens == 64
    assert (config.token2wav.dtype, config.token2wav.max_num_seqs, config.token2wav.max_batch_size) == (
        *("float32", 3),
        3,
    )
    assert (config.thinker.device, config.token2wav.device) == ("auto", "auto")
    assert (config.thinker.enforce_eager, config.token2wav.enforce_eager) == (True, False)
    assert lines == [
        "deploy.yaml: keys that do not apply to Cadence: trust_remote_code.",
        "The file names GPU devices; no CUDA device is here, so they are not used.",
    ]


def test_which_stages_there_are(tmp_path: Path) -> None:
    alone = "stage_args: [{stage_id: 0, engine_args: {model_stage: thinker}}]"
    assert load(tmp_path, alone)[0].engine.thinker_only
    assert load(tmp_path, "pipeline: step_audio_2_asr")[0].engine.thinker_only
    knobs = load(tmp_path, "stages: [{stage_id: 0, max_model_len: 100}]")[0]
    assert not knobs.engine.thinker_only and knobs.thinker.max_model_len == 100


def test_a_stage_may_opt_out_of_streaming(tmp_path: Path) -> None:
    text = "async_chunk: true\nstages: [{stage_id: 1, async_chunk: false}]"
    assert not load(tmp_path, text)[0].engine.async_chunk


def test_one_sequence_is_honoured_and_noted(tmp_path: Path) -> None:
    config, lines = load(tmp_path, "stages: [{stage_id: 0, max_num_seqs: 1}]")
    assert config.thinker.max_num_seqs == 1
    assert any("one after the other" in line for line in lines)


def test_a_base_is_laid_under(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(NEW)
    text = """
    base_config: base.yaml
    async_chunk: true
    stages:
      - {stage_id: 0, max_num_seqs: 8}
    platforms: {cuda: {stages: [{stage_id: 0, max_num_batched_tokens: 4096}]}, npu: {stages: []}}
    """
    config, _ = load(tmp_path, text)
    assert config.engine.async_chunk
    assert (config.thinker.max_num_seqs, config.thinker.max_num_batched_tokens) == (8, 64)
    assert config.token2wav.max_num_seqs == 3
    assert load(tmp_path, text, has_cuda=True)[0].thinker.max_num_batched_tokens == 4096


@pytest.mark.parametrize(
    ("text", "param", "message"),
    [
        ("asyncchunk: true", "asyncchunk", "unknown key.*Did you mean 'async_chunk'"),
        ("async_chunk: maybe", "async_chunk", "expected true or false, found 'maybe'"),
        ("pipeline: qwen", "pipeline", "expected one of step_audio_2, step_audio_2_asr, found 'qwen'"),
        ("stages: {stage_id: 0}", "stages", "expected a list of mappings"),
        ("stages: [{stage_id: 2}]", "stages.0.stage_id", "expected 0"),
        ("stages: [{stage_id: 0}, {stage_id: 0}]", "stages.1.stage_id", "each stage once"),
        ("stages: [{stage_id: 0, max_num_seqs: 0}]", "stages.0.max_num_seqs", "an integer from 1, found 0"),
        ("stages: [{stage_id: 0, max_num_seqs: true}]", "stages.0.max_num_seqs", "found True"),
        ("stages: [{stage_id: 0, devices: cuda}]", "stages.0.devices", "device numbers"),
        ("stages: [{stage_id: 0, dtype: int3}]", "stages.0.dtype", "found 'int3'"),
        ("stages: [{stage_id: 1, engine_args: {x: 1}}]", "stages.0.engine_args.x", "unknown key"),
        (
            "stages: [{stage_id: 0, default_sampling_params: {top_p: 2}}]",
            "stages.0.default_sampling_params.top_p",
            "expected a number from 1e-06 to 1, found 2",
        ),
        (
            "stages: [{stage_id: 0, default_sampling_params: {stop_token_ids: [a]}}]",
            "stages.0.default_sampling_params.stop_token_ids",
            "a list of int",
        ),
        ("stage_args: [{stage_id: 1}]", "stage_args", "a Thinker as stage 0"),
        (
            "stage_args: [{stage_id: 0, stage_type: diffusion}]",
            "stage_args.0.stage_type",
            "found 'diffusion'",
        ),
        (
            "stage_args: [{stage_id: 0, engine_args: {model_stage: token2wav}}]",
            "stage_args.0.engine_args.model_stage",
            "thinker in stage 0",
        ),
        ("base_config: deploy.yaml", "base_config", "back to itself"),
        ("base_config: [a]", "base_config", "a file name"),
    ],
)
def test_bad_values_name_file_key_expected_and_found(
    tmp_path: Path, text: str, param: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as info:
        load(tmp_path, text)
    assert info.value.param == param
    assert "deploy.yaml" in str(info.value) and param in str(info.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "!!python/object/apply:os.getcwd []"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"deploy\.yaml"):
        load(tmp_path, text)


def test_a_missing_file_is_refused_unless_its_meaning_is_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_deploy_config(tmp_path / "mine.yaml")
    lines: list[str] = []
    known = load_deploy_config(tmp_path / "stage_configs" / "step_audio_2.yaml", say=lines.append)
    assert not known.engine.async_chunk and "well-known" in lines[0]
    assert load_deploy_config(tmp_path / "step_audio_2_async_chunk.yaml", say=lines.append).engine.async_chunk


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_examples_read_without_leftovers(path: Path) -> None:
    lines: list[str] = []
    config = load_deploy_config(path, say=lines.append, has_cuda=True)
    assert config.thinker.max_num_seqs == 16 and not lines
    assert config.engine.async_chunk is (path.stem != "step_audio_2")
    assert config.engine.thinker_only is (path.stem == "transcribe_only")
