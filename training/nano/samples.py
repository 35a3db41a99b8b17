"""Sounds to judge a checkpoint by ear and eye: held-out sentences as MP3, and a spectrogram of each.

python -m training.nano.samples src/cadence/nano docs/nano
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np

from cadence.audio.encode import make_encoder
from cadence.config import EngineConfig, ServeConfig, ThinkerConfig, Token2WavConfig
from cadence.engine import start_engine
from training.nano.everyday import EVERYDAY
from training.nano.held_out import VOICES, Wave
from training.nano.measure import ask, speech_request
from training.nano.settings import SAMPLE_RATE_HZ

LINES = (0, 8, 11)  # of the everyday sentences


def write_mp3(samples: Wave, out: Path) -> None:
    """One file."""
    encoder = make_encoder("mp3", SAMPLE_RATE_HZ)
    out.write_bytes(encoder.encode(samples) + encoder.flush())


def draw(sounds: dict[str, Wave], titles: dict[str, str], out: Path) -> None:
    """A panel of 0 to 8 kHz over time for each sound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(sounds), 1, figsize=(8, 1.5 * len(sounds)), squeeze=False)
    for axis, (name, samples) in zip(axes.flat, sounds.items(), strict=True):
        axis.specgram(samples + 1e-5 * np.random.default_rng(0).standard_normal(len(samples)), NFFT=1024,
                      Fs=SAMPLE_RATE_HZ, noverlap=512, cmap="magma", vmin=-140, vmax=-40)  # fmt: skip
        axis.set_ylim(0, 8000)
        axis.set_yticks([0, 4000, 8000], ["0", "4", "8 kHz"], fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{name}: {titles[name]}", fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(out, dpi=60)
    pyplot.close(figure)


async def speak(model: Path) -> tuple[dict[str, Wave], dict[str, str]]:
    """The lines in both voices by name, and their texts."""
    config = ServeConfig(
        model=str(model), engine=EngineConfig(in_process=True),
        thinker=ThinkerConfig(threads=1), token2wav=Token2WavConfig(threads=1),
    )  # fmt: skip
    engine = await start_engine(config)
    sounds: dict[str, Wave] = {}
    titles: dict[str, str] = {}
    try:
        for voice in VOICES:
            for number, line in enumerate(LINES, 1):
                name = f"{voice}-{number}"
                answer = await ask(engine, speech_request(engine, EVERYDAY[line], voice, True))
                sounds[name], titles[name] = answer.samples, EVERYDAY[line]
    finally:
        await engine.aclose()
    return sounds, titles


def make(model: Path, out: Path) -> None:
    """Write the files."""
    sounds, titles = asyncio.run(speak(model))
    out.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        write_mp3(samples, out / f"{name}.mp3")
    draw(sounds, titles, out / "spectrograms.jpg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make(args.model, args.out)
