"""Stage `corpus`: the sentences that everything is trained on, and the ones that nothing is trained on.

WordNet's example sentences (Debian package wordnet-base, WordNet licence), our own templates and our own
everyday sentences, each line with its domain: `template`, `common` (only words among the commonest), `open`
(the rest of WordNet's), `spoken` (spoken.txt), `everyday` (everyday.py, for tests only).
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from training.nano import settings, templates
from training.nano.everyday import EVERYDAY

COMMON_WORDS = 3000
NUM_TEMPLATES = 6000
NUM_HELD_OUT = 60
SPOKEN = Path(__file__).with_name("spoken.txt")
_UNWANTED = re.compile(
    r"\b(rap(e|ed|ist)|nigg\w*|fuck\w*|shit\w*|cunt\w*|whore\w*|slut\w*|bitch\w*|fag\w*|jew(s|ish)?|negro\w*|"
    r"sex\w*|penis|vagina\w*|nazi\w*|hitler|terroris\w*|suicid\w*|slave\w*|gypsy|retard\w*|bastard\w*|nud(e|ity)|"
    r"murder\w*|kill(ed|s|er|ing)?|drunk\w*|prostitut\w*|damn\w*|ass|breasts?|blacks|lesbian|gays?|cripple\w*)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of text, its domain, and whether it is kept for tests."""

    text: str
    domain: str
    held_out: bool


def _wordnet_dir() -> Path:
    installed = Path("/usr/share/wordnet")
    if (installed / "data.noun").exists():
        return installed
    folder = settings.work_dir() / "wordnet"
    unpacked = folder / "usr/share/wordnet"
    if not (unpacked / "data.noun").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")).name, "."], cwd=folder, check=True)
    return unpacked


def _wordnet_examples() -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in (_wordnet_dir() / f"data.{part}").read_text(encoding="latin1").splitlines():
            if not line.startswith("  "):
                yield from re.findall(r'"([^"]+)"', line.partition("|")[2])


def clean(text: str) -> str | None:
    """A speakable sentence with a capital and an end mark, or None if it is not one."""
    text = text.strip().replace(";", ",").rstrip(" ,.:")
    if not 3 <= len(text.split()) <= 18 or not re.fullmatch(r"[A-Za-z][A-Za-z' ,!?-]*", text):
        return None
    if re.search(r"[A-Z]{2,}|--|- | -|\s'|'\s", text) or _UNWANTED.search(text):
        return None
    text = text[0].upper() + text[1:]
    return text if text[-1] in "!?" else text + "."


def words_of(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[a-z']+", text.lower())


def build() -> list[Sentence]:
    """Every sentence, shuffled within the seed's order, held-out ones marked."""
    from wordfreq import top_n_list

    common = set(top_n_list("en", COMMON_WORDS))
    draw = random.Random(settings.SEED)
    never = {text.lower() for text in EVERYDAY}
    open_lines = sorted({line for example in _wordnet_examples() if (line := clean(example))})
    domains: dict[str, list[str]] = {
        "template": templates.sentences(NUM_TEMPLATES, settings.SEED),
        "common": [],
        "open": [],
    }
    for line in open_lines:
        if line.lower() not in never:
            domains["common" if set(words_of(line)) <= common else "open"].append(line)
    sentences: list[Sentence] = []
    for domain, lines in domains.items():
        draw.shuffle(lines)
        sentences += [Sentence(line, domain, i < NUM_HELD_OUT) for i, line in enumerate(lines)]
    sentences += [Sentence(line, "everyday", True) for line in EVERYDAY]
    draw.shuffle(sentences)
    # Behind the rest, so that a corpus made before these lines existed keeps its order.
    spoken = [line for line in SPOKEN.read_text().splitlines() if line.lower() not in never]
    return sentences + [Sentence(line, "spoken", False) for line in dict.fromkeys(spoken)]


def path() -> Path:
    """The corpus file: one JSON object a line."""
    return settings.work_dir() / "corpus.jsonl"


def load() -> list[Sentence]:
    """The sentences that `run` wrote."""
    return [Sentence(**json.loads(line)) for line in path().read_text().splitlines()]


def run() -> dict[str, int]:
    """Write the corpus and return how many sentences each domain has."""
    sentences = build()
    path().write_text("".join(json.dumps(asdict(s)) + "\n" for s in sentences))
    counts = {
        domain: sum(s.domain == domain for s in sentences)
        for domain in ("template", "common", "open", "spoken", "everyday")
    }
    return counts | {"word_types": len({word for s in sentences for word in words_of(s.text)})}
