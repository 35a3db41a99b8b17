"""Go on from a shipped checkpoint where the training's own files are gone.

    python -m training.nano.restore src/cadence/nano

Writes `start.pt` for the stages whose weights the checkpoint holds; a stage without a checkpoint of its own
begins there, with a fresh optimiser. Heads that exist for training alone begin fresh. The two ONNX networks
are not restored: they take minutes to train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cadence.models.hift_weights import load_hift
from cadence.models.weights import load_pt
from training.nano import phones, text_vocabulary
from training.nano import thinker as thinker_stage
from training.nano.fit import save_start
from training.nano.thinker_model import ThinkerSizes

_COUNTS = (phones.NUM_PHONES, phones.NUM_POSITIONS, phones.NUM_BOUNDARIES, phones.NUM_PITCHES)


def factors(rows: Tensor) -> list[Tensor]:
    """Tables [n_i, D] of a code's four parts whose sums are `rows` [6561, D]: means over the other parts."""
    grid = rows.float().reshape(
        *reversed(_COUNTS), -1
    )  # pitch, boundary, position, phone: phone runs fastest
    axes = range(len(_COUNTS))
    mean = grid.mean(dim=tuple(axes))
    tables = [grid.mean(dim=tuple(a for a in axes if a != len(_COUNTS) - 1 - i)) - mean for i in axes]
    tables[0] = tables[0] + mean
    return tables


def thinker_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model in training form."""
    first = thinker_stage.sizes().num_text
    codes = slice(first, first + phones.NUM_CODES)
    state = {n: v.float() for n, v in tensors.items() if n.startswith("model.")}
    embedding, head = tensors["model.embed_tokens.weight"].float(), tensors["lm_head.weight"].float()
    state["model.embed_tokens.weight"] = torch.cat([embedding[:first], embedding[codes.stop :]])
    state["text_head.weight"] = torch.cat([head[:first], head[codes.stop :]])
    for name, table in (("code_tables", embedding), ("code_heads", head)):
        state |= {f"{name}.{i}.weight": part for i, part in enumerate(factors(table[codes]))}
    return state | silent_layers(state, thinker_stage.sizes())


def silent_layers(state: dict[str, Tensor], sizes: ThinkerSizes) -> dict[str, Tensor]:
    """Projections of layers that a smaller checkpoint has not: zeros, so they begin by changing nothing."""
    shapes = {"self_attn.o_proj": (sizes.hidden, sizes.hidden), "mlp.down_proj": (sizes.hidden, sizes.units)}
    names = {
        f"model.layers.{layer}.{part}.weight": shape
        for layer in range(sizes.layers)
        for part, shape in shapes.items()
    }
    return {name: torch.zeros(shape) for name, shape in names.items() if name not in state}


def flow_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The flow in training form."""
    state = {n: v.float() for n, v in tensors.items() if n != "input_embedding.weight"}
    tables = factors(tensors["input_embedding.weight"])
    return state | {f"input_embedding.tables.{i}.weight": part for i, part in enumerate(tables)}


def restore(checkpoint: Path) -> list[str]:
    """Write the stages' beginnings; returns their names.

    Raises:
        FileNotFoundError: not a checkpoint of nano.
        ValueError: made with another vocabulary than the one in the work folder.
    """
    theirs, ours = ((f / "tokenizer.json").read_bytes() for f in (checkpoint, text_vocabulary.folder()))
    if theirs != ours:
        raise ValueError("the checkpoint has another vocabulary: copy its tokenizer files to the work folder")
    tensors = load_file(checkpoint / "model.safetensors")
    thinker = thinker_state(tensors)
    adapter = {n: v.float() for n, v in tensors.items() if n.startswith("adapter.")}
    flow = flow_state(load_pt(checkpoint / "token2wav" / "flow.pt"))
    vocoder = load_hift(checkpoint / "token2wav").state_dict()
    begun = {
        "thinker": thinker,
        "hearing": {f"thinker.{n}": v for n, v in thinker.items()} | adapter,
        "flow-encoder": flow,
        "flow": flow,
        "vocoder": vocoder,
        "vocoder-tune": vocoder,
    }
    for name, state in begun.items():
        save_start(name, state)
    return list(begun)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    print("restored:", ", ".join(restore(parser.parse_args().checkpoint)))
