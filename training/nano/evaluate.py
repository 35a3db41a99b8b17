"""Stage `evaluate`: how well each part speaks, by the independent recogniser, on held-out sentences.

teacher   the teacher's own speech: the ceiling
copy      its mel through the vocoder
mu        its codes through the flow's encoder alone, then the vocoder
flow      its codes through the whole flow, then the vocoder
speech    the text through the Thinker, the flow and the vocoder
"""

from __future__ import annotations

import argparse
import json
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cadence.audio.features import prompt_mel
from cadence.models.conformer import NoMemory
from cadence.models.flow import Flow
from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_sampler import Utterance as FlowInput
from cadence.models.hift import HiFT, HiFTConfig
from training.nano import flow as flow_stage
from training.nano import generate, settings, text_vocabulary
from training.nano import thinker as thinker_stage
from training.nano.fit import stage_dir, trained
from training.nano.recogniser import Recogniser
from training.nano.speaker_vectors import speaker_vector
from training.nano.speech import Store, Utterance, prompt_of
from training.nano.thinker_model import NanoThinker

Wave = npt.NDArray[np.float32]
PARTS = ("teacher", "copy", "mu", "flow", "speech")


def load_flow(averaged: bool = True) -> Flow:
    """The trained flow, plain embedding rows in place; before the stage `flow`, its encoder's."""
    flow = flow_stage.build()
    stage = "flow" if (stage_dir("flow") / "last.pt").exists() else "flow-encoder"
    flow.load_state_dict(trained(stage, averaged=averaged)[0])
    if stage == "flow-encoder":
        flow_stage.aim_at_mu(flow.estimator)
    rows = flow.input_embedding.rows()  # type: ignore[operator]
    flow.input_embedding = torch.nn.Embedding.from_pretrained(rows)
    return flow.prepare_inference()


def load_vocoder() -> HiFT:
    """The trained vocoder: the stage `vocoder-tune`'s if that ran, else the stage `vocoder`'s."""
    stage = "vocoder-tune" if (stage_dir("vocoder-tune") / "last.pt").exists() else "vocoder"
    state, sizes = trained(stage, averaged=True)
    model = HiFT(HiFTConfig(**sizes))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def load_thinker() -> NanoThinker:
    """The trained language model: the stage `hearing`'s if that ran, else the stage `thinker`'s."""
    model = NanoThinker(thinker_stage.sizes())
    hears = (stage_dir("hearing") / "last.pt").exists()
    state, _ = trained("hearing" if hears else "thinker", averaged=True)
    model.load_state_dict(under("thinker.", state) if hears else state)
    return model.eval().requires_grad_(False)


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a state dict below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class Chain:
    """The parts joined for one voice; each method gives sound for a held-out utterance."""

    def __init__(self, voice: str, parts: list[str]) -> None:
        self.store = Store(voice)
        self.voice = voice
        self.vocoder = load_vocoder() if set(parts) - {"teacher"} else None
        needs_flow = set(parts) & {"mu", "flow", "speech"}
        self.sampler = FlowSampler(load_flow(), num_steps=flow_stage.STEPS) if needs_flow else None
        self.thinker = load_thinker() if "speech" in parts else None
        self.prompt = prompt_of(self.store)
        self.said: dict[str, npt.NDArray[np.int64]] = {}

    def prepare(self, utterances: list[Utterance]) -> None:
        """Run the Thinker over all texts at once."""
        if self.thinker is not None:
            texts = [u.text for u in utterances]
            self.said = dict(
                zip(texts, generate.speak(self.thinker, text_vocabulary.open_tokenizer(), texts), strict=True)
            )

    def teacher(self, utterance: Utterance) -> Wave:
        """Unchanged."""
        return self.store.samples(utterance)

    def copy(self, utterance: Utterance) -> Wave:
        """The vocoder on the true mel."""
        return self._vocode(torch.from_numpy(prompt_mel(self.store.samples(utterance))))

    def mu(self, utterance: Utterance) -> Wave:
        """The encoder's guess."""
        assert self.sampler is not None
        with torch.inference_mode():
            return self._vocode(
                self.sampler.flow.encode([torch.tensor(utterance.codes)], [NoMemory()], [True])[0]
            )

    def flow(self, utterance: Utterance) -> Wave:
        """True codes after the voice's prompt."""
        return self._render(torch.tensor(utterance.codes))

    def speech(self, utterance: Utterance) -> Wave:
        """From the text alone."""
        codes = self.said[utterance.text]
        return self._render(torch.from_numpy(codes)) if len(codes) > 4 else np.zeros(12_000, np.float32)

    def _render(self, codes: torch.Tensor) -> Wave:
        assert self.sampler is not None
        mel = torch.from_numpy(prompt_mel(self.store.samples(self.prompt)))
        given = FlowInput(codes, torch.tensor(self.prompt.codes), mel, speaker_vector(self.voice))
        return self._vocode(self.sampler.generate([given])[0])

    def _vocode(self, mel: torch.Tensor) -> Wave:
        assert self.vocoder is not None
        sound, _ = self.vocoder.vocode(mel.T[None], generators=[torch.Generator().manual_seed(0)])
        return sound[0].numpy()


def run(
    voice: str = "female",
    count: int = 30,
    parts: str = "teacher,copy,mu,flow,speech",
    domains: str = "template,common,everyday",
    save: bool = True,
) -> dict[str, float]:
    """Word error rates by part and domain."""
    torch.set_num_threads(1)
    chosen = parts.split(",")
    chain, recogniser = Chain(voice, chosen), Recogniser()
    found: dict[str, float] = {}
    for domain in domains.split(","):
        utterances = chain.store.split(held_out=True, domains=[domain])[:count]
        chain.prepare(utterances)
        for part in chosen:
            begun = time.process_time()
            name = f"{voice}_{part}_{domain}"
            found[name], heard = _measure(
                getattr(chain, part), utterances, recogniser, name if save else None
            )
            print(
                f"{name}: WER {found[name]:.3f} ({time.process_time() - begun:.0f} s)  {heard[:2]}",
                flush=True,
            )
    return found


def _measure(
    render: Callable[[Utterance], Wave],
    utterances: list[Utterance],
    recogniser: Recogniser,
    save_as: str | None,
) -> tuple[float, list[str]]:
    sounds = [render(utterance) for utterance in utterances]
    if save_as:
        for i, sound in enumerate(sounds[:4]):
            write_wav(settings.work_dir() / "samples" / f"{save_as}_{i}.wav", sound)
    heard = [recogniser.transcribe(sound) for sound in sounds]
    return round(recogniser.word_error_rate([u.text for u in utterances], heard), 4), heard


def write_wav(path: Path, samples: Wave) -> None:
    """16-bit mono at 24 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(settings.SAMPLE_RATE_HZ)
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


def main() -> None:
    """`python -m training.nano.evaluate --parts flow,speech`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voice", default="female")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--parts", default="teacher,copy", help=f"of {','.join(PARTS)}")
    parser.add_argument("--domains", default="template,common,everyday")
    args = parser.parse_args()
    found = run(args.voice, args.count, args.parts, args.domains)
    with open(settings.work_dir() / "logs" / "evaluate.jsonl", "a") as file:
        file.write(json.dumps({"time": time.strftime("%F %T"), **found}) + "\n")


if __name__ == "__main__":
    main()
