"""Writes flow_tiny.npz: what the reference implementation computes with the weights of flow_kit.

    PYTHONPATH=src:tests/parity:<reference package> python tests/data/make_flow_golden.py

needs the reference package (`step-audio2` 1.0.0) unpacked on the path, with torch and hyperpyyaml.
"""

import tempfile
from pathlib import Path

import flow_kit
import numpy as np
import torch
from hyperpyyaml import load_hyperpyyaml

from cadence.models.noise import NoiseStrip

KEEP = 6  # every sixth frame is enough to compare


def load_reference(folder: Path) -> torch.nn.Module:
    """The reference's flow, with its buffers made to measure and our noise in place of its own."""
    with open(folder / "flow.yaml") as file:
        flow = load_hyperpyyaml(file)["flow"]
    flow.load_state_dict(torch.load(folder / "flow.pt", weights_only=True), strict=True)
    depth, heads, dim, hidden, steps = 2, 2, 32, 64, 16
    estimator = flow.decoder.estimator
    estimator.att_cache_buffer = torch.zeros(depth, 2, heads, 1000, 2 * dim)
    estimator.cnn_cache_buffer = torch.zeros(depth, 2, 2 * hidden, 2)
    flow.decoder.att_cache_buffer = torch.zeros(steps, depth, 2, heads, 1000, 2 * dim)
    flow.decoder.cnn_cache_buffer = torch.zeros(steps, depth, 2, 2 * hidden, 2)
    flow.decoder.rand_noise = NoiseStrip(80).frames(0, 2000).T[None].contiguous()
    return flow.eval()


def stream(flow: torch.nn.Module, name: str) -> np.ndarray:
    """Mel of a streamed utterance, [F, 80]."""
    codes, mel, embedding = flow_kit.prompt(flow_kit.PROMPT_CODES[name])
    speech = flow_kit.draw(flow_kit.SPEECH_CODES, seed=3001)
    cache = flow.setup_cache(torch.cat([codes, codes[:3]])[None], mel[None], embedding[None])
    cache = {key: value.clone() for key, value in cache.items()}
    chunks = []
    for start, stop, last in flow_kit.schedule(len(speech)):
        part, cache = flow.inference_chunk(speech[None, start:stop], embedding[None], cache, last_chunk=last)
        attention = cache["estimator_att_cache"]
        if attention.shape[4] > len(mel) + 100:
            attention = torch.cat([attention[..., : len(mel), :], attention[..., -100:, :]], dim=4)
        cache = {key: value.clone() for key, value in {**cache, "estimator_att_cache": attention}.items()}
        chunks.append(part[0].T.clone())
    return torch.cat(chunks).numpy()


def whole(flow: torch.nn.Module, name: str) -> np.ndarray:
    """Mel of an utterance rendered at once, [F, 80]."""
    codes, mel, embedding = flow_kit.prompt(flow_kit.PROMPT_CODES[name])
    speech = flow_kit.draw(flow_kit.SPEECH_CODES, seed=3001)
    lengths = torch.tensor([len(speech)]), torch.tensor([len(codes)])
    found = flow.inference(
        speech[None], lengths[0], codes[None], lengths[1], mel[None], None, embedding[None]
    )
    return found[0].T.numpy()


def main() -> None:
    """Write the file."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        flow = load_reference(flow_kit.write_flow(Path(folder)))
        arrays = {
            f"{kind.__name__}_{name}": kind(flow, name)[::KEEP]
            for kind in (whole, stream)
            for name in flow_kit.PROMPT_CODES
        }
    np.savez_compressed(Path(__file__).with_name("flow_tiny.npz"), **arrays)


if __name__ == "__main__":
    main()
