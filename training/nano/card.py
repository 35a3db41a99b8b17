"""The model card: MODEL_CARD.md with its tables filled from the figures that `measure` wrote.

python -m training.nano.measure src/cadence/nano --json figures.json
python -m training.nano.card figures.json src/cadence/nano/README.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from training.nano.held_out import DOMAINS, VOICES

TEMPLATE = Path(__file__).with_name("MODEL_CARD.md")
MARK = "<!-- figures -->"
_NAMES = {
    "template": "templates (requests, times, places)",
    "common": "dictionary examples of the 3,000 commonest words",
    "everyday": "everyday sentences",
}
Figures = Mapping[str, float]


def _percent(figures: Figures, name: str) -> str:
    return f"{100 * figures[name]:.1f} %" if name in figures else "–"


def _table(title: str, figures: Figures, columns: Mapping[str, str]) -> str:
    """A row for each kind of sentence; columns name figures with {domain} left open."""
    rows = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for domain in DOMAINS:
        cells = (_percent(figures, name.format(domain=domain)) for name in columns.values())
        rows.append(f"| {_NAMES[domain]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def tables(figures: Figures) -> str:
    """All tables and the line of speeds, as Markdown."""
    speech = {
        head: name
        for voice in VOICES
        for head, name in (
            (voice, f"speech_{voice}_{{domain}}"),
            (f"{voice}, sequential", f"speech_{voice}_{{domain}}_whole"),
            (f"{voice}'s teacher", f"teacher_{voice}_{{domain}}"),
        )
    }
    heard = {
        head: name
        for voice in VOICES
        for head, name in (
            (voice, f"transcribe_{voice}_{{domain}}"),
            (f"{voice}, in noise", f"transcribe_{voice}_{{domain}}_noisy"),
            (f"{voice}, two at once", f"transcribe_{voice}_{{domain}}_pairs"),
            (f"{voice}, repeated", f"repeat_{voice}_{{domain}}"),
        )
    }
    parts = [f"{int(figures['sentences'])} sentences of each kind."] if "sentences" in figures else []
    parts += [
        _table("Word error rate of speech", figures, speech),
        _table("Word error rate of transcription and repetition", figures, heard),
    ]
    strangers = [
        f"{n.removeprefix('transcribe_flite_')} {_percent(figures, n)}" for n in figures if "_flite_" in n
    ]
    if strangers:
        parts.append("Transcription of flite's voices, unknown to it: " + ", ".join(strangers) + ".")
    spoken = [f"speech_{voice}_{domain}" for voice in VOICES for domain in DOMAINS]
    spoken = [name for name in spoken if name in figures]

    def span(part: str, digits: int) -> str:
        values = [figures[f"{name}_{part}"] for name in spoken]
        return f"{min(values):.{digits}f}–{max(values):.{digits}f}"

    if spoken:
        parts.append(
            f"Pace beside the teacher {span('pace', 2)}, longest pause inside a sentence "
            f"{span('longest_pause_s', 2)} s, peak level {span('peak', 2)}. One thread per stage: real-time "
            f"factor {span('rtf', 2)}, first sound after {span('first_audio_s', 3)} s (medians), loaded in "
            f"{figures['load_s']:.1f} s."
        )
    if "voices_told_apart" in figures:
        apart, near = _percent(figures, "voices_told_apart"), figures["voice_similarity"]
        parts.append(
            f"The speaker encoder tells the two voices apart in {apart} of utterances; an utterance and its "
            f"teacher have a cosine similarity of {near:.2f}."
        )
    return "\n\n".join(parts)


def write(figures: Figures, out: Path) -> None:
    """Fill the template's mark."""
    out.write_text(TEMPLATE.read_text().replace(MARK, tables(figures)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write(json.loads(args.figures.read_text()), args.out)
