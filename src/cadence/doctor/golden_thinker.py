"""The language-model half against golden data: prompt, features, encoder, adapter, logits, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadence.audio.decode import decode_audio
from cadence.audio.features import log_mel, num_patches
from cadence.doctor.checkpoint import Parts
from cadence.doctor.golden import GoldenFile
from cadence.doctor.report import Report
from cadence.models.step_audio import StepAudio
from cadence.prompt import PromptBuilder
from cadence.router import TokenRouter
from cadence.types import AudioPart, Message, Part, TextPart

__all__ = ["check_thinker"]

PIECE_SAMPLES = 25 * 16_000
PADDING_FRAMES = 2  # frames of a piece's mel that its golden length leaves out
# the conversations of the named cases: (role, text or asset) in order, and what the answer is
CASES: dict[str, tuple[tuple[tuple[str, tuple[str, ...]], ...], str]] = {
    "text": (
        (
            ("system", ("You are a helpful assistant.",)),
            ("user", ("Give me a brief introduction to the Great Wall.",)),
        ),
        "speech",
    ),
    "audio3": (
        (
            ("system", ("You are a helpful assistant.",)),
            ("user", ("Translate the speech into Chinese.", "question_3s.wav")),
        ),
        "text",
    ),
    "audio60": ((("user", ("question_60s.wav",)),), "speech"),
}


def check_thinker(parts: Parts, golden: GoldenFile, case: str, report: Report) -> None:
    """Compare one `thinker_<case>` file."""
    assert parts.tokenizer is not None and parts.thinker is not None
    name = golden.path.stem
    ids = torch.from_numpy(np.asarray(golden["ids"], np.int64))[0]
    if case in CASES:
        _check_prompt(parts, golden, case, report)
    elif "mels" in golden:
        _check_recordings(parts.root, golden, report)
    embeds = parts.thinker.embed_ids(ids)
    if "mels" in golden:
        _check_audio(parts, golden, ids, embeds, report)
    with torch.inference_mode():
        hidden = parts.thinker.model(embeds[None], torch.arange(len(ids)))[0]
        logits = parts.thinker.logits(hidden).numpy()
    report.close(name, "last_logits", golden["last_logits"], logits[-1])
    report.close(
        name, "column_logits", golden["column_logits"], logits[:, np.asarray(golden["columns"], np.int64)]
    )
    _check_top(golden, logits, report)
    _check_greedy(parts.thinker, golden, embeds, report)
    _check_returned(parts, golden, report)
    for note in ("segment_alone_diff", "vox_diff"):  # the reference's measurements of itself
        if note in golden:
            _ = golden[note]


def _recording(root: Path, name: str) -> NDArray[np.float32]:
    """An asset as the model hears it, [T] at 16 kHz."""
    return decode_audio((root / "assets" / name).read_bytes())


def _check_prompt(parts: Parts, golden: GoldenFile, case: str, report: Report) -> None:
    """Build the case's conversation as a server does: its ids and mels."""
    assert parts.tokenizer is not None
    turns, output = CASES[case]
    messages = []
    for role, items in turns:
        content: list[Part] = []
        for item in items:
            is_sound = item.endswith(".wav")
            content.append(AudioPart(_recording(parts.root, item)) if is_sound else TextPart(item))
        messages.append(Message(role, tuple(content)))
    prompt = PromptBuilder(parts.tokenizer).build(messages, "speech" if output == "speech" else "text")
    report.equal(golden.path.stem, "prompt ids", golden["ids"], np.asarray(prompt.ids)[None])
    if "mels" in golden:
        _compare_mels(golden, prompt.mels, report)


def _check_recordings(root: Path, golden: GoldenFile, report: Report) -> None:
    """An unnamed case: find the asset whose pieces have the golden lengths and compare its mels."""
    lengths = [int(n) + PADDING_FRAMES for n in np.asarray(golden["mel_lens"])]
    for path in sorted((root / "assets").glob("*.wav")):
        samples = decode_audio(path.read_bytes())
        pieces = [samples[at : at + PIECE_SAMPLES] for at in range(0, len(samples), PIECE_SAMPLES)]
        mels = [log_mel(piece) for piece in pieces]
        if [mel.shape[1] for mel in mels] == lengths:
            _compare_mels(golden, mels, report)
            return
    report.miss(golden.path.stem, "mels", "not compared: no recording in assets has these lengths")


def _compare_mels(golden: GoldenFile, mels: Sequence[NDArray[np.float32]], report: Report) -> None:
    want = np.asarray(golden["mels"], np.float32)
    got = np.zeros((len(mels), mels[0].shape[0], max(mel.shape[1] for mel in mels)), np.float32)
    for row, mel in zip(got, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    report.close(golden.path.stem, "mels", want, got)
    lengths = [mel.shape[1] - PADDING_FRAMES for mel in mels]
    report.equal(golden.path.stem, "mel_lens", golden["mel_lens"], lengths)


def _check_audio(parts: Parts, golden: GoldenFile, ids: Tensor, embeds: Tensor, report: Report) -> None:
    """Encoder and adapter on the golden mels; writes the adapter's rows over the patches of `embeds`."""
    assert parts.thinker is not None and parts.tokenizer is not None
    name, special = golden.path.stem, parts.tokenizer.special
    mels = torch.from_numpy(np.asarray(golden["mels"], np.float32))
    frames = torch.from_numpy(np.asarray(golden["mel_lens"], np.int64)) + PADDING_FRAMES
    counts = [num_patches(int(n)) for n in frames]
    with torch.inference_mode():
        encoded = parts.thinker.encoder(mels, frames)
        adapted = parts.thinker.adapter(encoded)
    report.equal(name, "feat_lens", golden["feat_lens"], counts)
    for key, got in (("encoder", encoded), ("adapter", adapted)):
        want = np.asarray(golden[key], np.float32)
        rows = [parts.thinker.encoder.num_features(int(n)) for n in frames] if key == "encoder" else counts
        # rows past a piece's end are padding, whose values nobody reads
        report.close(
            name,
            key,
            np.concatenate([part[:n] for part, n in zip(want, rows, strict=True)]),
            np.concatenate([part[:n].numpy() for part, n in zip(got, rows, strict=True)]),
        )
    starts = torch.nonzero(ids == special.audio_start)[:, 0].tolist()
    report.equal(name, "audio pieces in the prompt", len(counts), len(starts))
    patches = [
        int((ids[at + 1 : at + 1 + n] == special.audio_patch).sum())
        for at, n in zip(starts, counts, strict=False)
    ]
    report.equal(name, "patches of each piece", counts[: len(starts)], patches)
    for at, count, rows_of_piece in zip(starts, counts, adapted, strict=False):
        embeds[at + 1 : at + 1 + count] = rows_of_piece[:count]


def _check_top(golden: GoldenFile, logits: NDArray[np.float32], report: Report) -> None:
    """The most likely ids of every position; an exchange of near equals is no error."""
    name = golden.path.stem
    want_ids, want = np.asarray(golden["top_ids"], np.int64), np.asarray(golden["top_values"], np.float32)
    got = -np.sort(-np.partition(logits, -want.shape[1], axis=1)[:, -want.shape[1] :], axis=1)
    report.close(name, "top_values", want, got)
    report.close(name, "logits of top_ids", want, np.take_along_axis(logits, want_ids, axis=1))


def _check_greedy(thinker: StepAudio, golden: GoldenFile, embeds: Tensor, report: Report) -> None:
    """Decode along the golden ids; another id is right only where the golden margin is within tolerance."""
    name = golden.path.stem
    want = np.asarray(golden["greedy"], np.int64)
    margins = np.asarray(golden["margins"], np.float64)
    with torch.inference_mode():
        forced = torch.cat([embeds, thinker.embed_ids(torch.from_numpy(want[:-1]))])
        hidden = thinker.model(forced[None], torch.arange(len(forced)))[0][len(embeds) - 1 :]
        logits = thinker.logits(hidden).numpy()
    got = logits.argmax(1)
    tolerance = report.rtol * float(np.asarray(golden["last_logits"], np.float64).std())
    accepted = np.where((got != want) & (margins < tolerance), want, got)
    report.equal(name, "greedy", want, accepted)
    top = -np.sort(-np.partition(logits, -2, axis=1)[:, -2:], axis=1)
    scale = float(np.asarray(golden["last_logits"], np.float64).std()) / max(float(margins.std()), 1e-12)
    # margins are differences of logits: their error is judged on the scale of the logits
    report.close(name, "margins", margins, top[:, 0] - top[:, 1], rtol=2 * report.rtol * scale)


def _check_returned(parts: Parts, golden: GoldenFile, report: Report) -> None:
    """What a caller sees of the greedy ids: the reference drops the last id, then splits text and codes."""
    assert parts.tokenizer is not None
    name, special = golden.path.stem, parts.tokenizer.special
    returned = [int(i) for i in np.asarray(golden["returned"], np.int64)]
    report.equal(name, "returned", returned, np.asarray(golden["greedy"], np.int64)[:-1])
    routed = TokenRouter(special).push(returned)
    report.equal(
        name, "text", golden["text"], parts.tokenizer.decode([i for i in returned if special.is_text(i)])
    )
    report.equal(name, "audio_tokens", golden["audio_tokens"], np.asarray(routed.codes, np.int64))
