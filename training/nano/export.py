"""Stage `export`: the trained parts as a checkpoint in the public layout, at most 60 MB.

Weights are stored in half precision except the vocoder's. Nothing is special to nano but sizes; the
vocoder's are in token2wav/hift.json, as the public layout has no place for them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from cadence.models.audio_encoder import Adapter
from cadence.models.flow_config import FlowConfig
from cadence.models.hift_weights import save_hift
from training.nano import card, generate, settings, speaker, speech_tokenizer, text_vocabulary, whisper
from training.nano import flow as flow_stage
from training.nano.evaluate import load_flow, load_thinker, load_vocoder, under, write_wav
from training.nano.fit import stage_dir, trained
from training.nano.hearing import ADAPTER_HIDDEN
from training.nano.speech import Store, prompt_of
from training.nano.thinker_model import NanoThinker

MAX_BYTES = 60_000_000
GENERATION = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "max_new_tokens": 3000,
    "tts_max_wait": generate.MAX_WAIT,
    "tts_single_sentences": True,  # two in a request lose a third of their words
    "flow_steps": flow_stage.STEPS,
    "flow_history_s": 20,
}


def thinker_tensors(model: NanoThinker) -> dict[str, Tensor]:
    """The language model under the public names, plain rows in place of the factored tables."""
    embedding, head = model.export_rows()
    tensors = {
        f"model.{name}": value
        for name, value in model.model.state_dict().items()
        if name != "embed_tokens.weight"
    }
    return tensors | {"model.embed_tokens.weight": embedding, "lm_head.weight": head}


def hearing_tensors(hidden: int) -> dict[str, Tensor]:
    """Whisper's encoder, and the adapter: trained if the stage `hearing` ran, else fresh."""
    config = whisper.encoder_config(hidden, ADAPTER_HIDDEN)
    torch.manual_seed(settings.SEED)
    adapter = Adapter(config)
    if (stage_dir("hearing") / "last.pt").exists():
        adapter.load_state_dict(under("adapter.", trained("hearing", averaged=True)[0]))
    tensors = {
        f"encoder.{name}": value
        for name, value in whisper.load_encoder(hidden, ADAPTER_HIDDEN).state_dict().items()
    }
    return tensors | {f"adapter.{name}": value for name, value in adapter.state_dict().items()}


def config_json(model: NanoThinker) -> dict[str, Any]:
    """The content of config.json."""
    sizes, decoder = model.sizes, model.model.config
    special = text_vocabulary.open_tokenizer().special
    ends = {"eos_token_id": special.eot, "pad_token_id": special.endoftext}
    text = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.units,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_attention_groups": sizes.kv_heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.num_ids,
        "max_seq_len": decoder.max_position_embeddings,
        "max_position_embeddings": decoder.max_position_embeddings,
        "rms_norm_eps": decoder.rms_norm_eps,
        "rope_theta": decoder.rope_theta,
        "rope_scaling": None,
        "torch_dtype": "float16",
        **ends,
    }
    audio = {
        "n_mels": whisper.MELS,
        "n_audio_ctx": 1500,
        "n_audio_state": whisper.STATE,
        "n_audio_head": whisper.HEADS,
        "n_audio_layer": whisper.LAYERS,
        "n_codebook_size": 4096,
        "llm_dim": sizes.hidden,
        "kernel_size": 3,
        "adapter_stride": 2,
    }
    return {
        "architectures": ["StepAudio2ForCausalLM"],
        "model_type": "step_audio_2",
        "text_config": text,
        "audio_encoder_config": audio,
        "vocab_size": sizes.num_ids,
        "torch_dtype": "float16",
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        **ends,
    }


def flow_yaml(sizes: FlowConfig) -> str:
    """flow.yaml with the public file's class tags."""
    encoder, dit = sizes.encoder, sizes.dit
    parts = {
        "encoder": (
            "cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2",
            {
                "input_size": encoder.hidden,
                "output_size": encoder.hidden,
                "input_layer": "linear",
                "pre_lookahead_len": encoder.lookahead,
                "num_blocks": encoder.num_blocks,
                "num_up_blocks": encoder.num_up_blocks,
                "up_stride": 2,
                "up_scale_factor": 2,
                "attention_heads": encoder.num_heads,
                "pos_enc_layer_type": "rel_pos_espnet",
                "selfattention_layer_type": "rel_selfattn",
                "key_bias": encoder.key_bias,
                "linear_units": encoder.linear_units,
                "normalize_before": True,
            },
        ),
        "estimator": (
            "cosyvoice2.flow.decoder_dit.DiT",
            {
                "in_channels": dit.in_channels,
                "out_channels": dit.out_channels,
                "mlp_ratio": dit.mlp_ratio,
                "depth": dit.depth,
                "num_heads": dit.num_heads,
                "head_dim": dit.head_dim,
                "hidden_size": dit.hidden,
            },
        ),
    }

    def block(name: str, indent: str) -> str:
        tag, values = parts[name]
        body = "".join(
            f"{indent}    {line}\n" for line in yaml.safe_dump(values, sort_keys=False).splitlines()
        )
        return f"{indent}{name}: !new:{tag}\n{body}"

    return (
        "flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec\n"
        f"    input_size: {encoder.hidden}\n    output_size: {sizes.mel_dim}\n"
        f"    spk_embed_dim: {sizes.speaker_dim}\n"
        f"    output_type: mel\n    vocab_size: {sizes.vocab_size}\n{block('encoder', '    ')}"
        f"    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM\n"
        f"        inference_cfg_rate: {sizes.guidance}\n{block('estimator', '        ')}"
    )


def write_voices(folder: Path) -> None:
    """One held-out utterance of each teacher as voice prompt."""
    for voice in ("female", "male"):
        store = Store(voice)
        write_wav(folder / f"default_{voice}.wav", store.samples(prompt_of(store)))


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to(torch.float16).contiguous() for name, value in tensors.items()}


def run(out: str = "") -> dict[str, float]:
    """Write the checkpoint into a folder, by default `export` in the work folder."""
    folder = Path(out) if out else settings.work_dir() / "export"
    (folder / "token2wav").mkdir(parents=True, exist_ok=True)
    model = load_thinker()
    save_file(
        _half(thinker_tensors(model) | hearing_tensors(model.sizes.hidden)),
        folder / "model.safetensors",
        {"format": "pt"},
    )
    for name, content in (
        ("config.json", config_json(model)),
        ("generation_config.json", GENERATION | {"eos_token_id": config_json(model)["eos_token_id"]}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    for file in text_vocabulary.folder().iterdir():
        shutil.copy(file, folder / file.name)
    flow = load_flow()
    torch.save(
        _half({k: v.contiguous() for k, v in flow.state_dict().items()}), folder / "token2wav" / "flow.pt"
    )
    (folder / "token2wav" / "flow.yaml").write_text(flow_yaml(flow_stage.SIZES))
    save_hift(load_vocoder(), folder / "token2wav")
    speech_tokenizer.export(folder / "token2wav" / "speech_tokenizer_v2_25hz.onnx")
    speaker.export(folder / "token2wav" / "campplus.onnx")
    write_voices(folder / "assets")
    if not (folder / "README.md").exists():  # `card` writes the real one, from measured figures
        card.write({}, folder / "README.md")
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"the checkpoint has {num_bytes / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} are allowed"
        )
    return {"megabytes": round(num_bytes / 1e6, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default="")
    print(run(parser.parse_args().out))
