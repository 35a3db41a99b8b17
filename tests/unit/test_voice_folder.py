"""The folder of voices under several processes that write, read and die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_voices import wav

from cadence.errors import InvalidRequest, StorageFailed
from cadence.types import VoiceSample
from cadence.voices.library import VoiceLibrary
from cadence.voices.sample import make_sample, sample_key

SAMPLES = [make_sample(wav(1.0, seed=seed)) for seed in range(3)]


def library(folder: Path, **limits: int) -> VoiceLibrary:
    return VoiceLibrary(folder, max_voices=limits.get("max_voices", 9), max_bytes=1 << 30)


CHURN = """
import random, sys
from pathlib import Path
from cadence.types import VoiceSample
from cadence.voices.library import VoiceLibrary
from cadence.voices.sample import sample_key

folder, recordings, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
wavs = [path.read_bytes() for path in sorted(recordings.iterdir())]
samples = [VoiceSample(sample_key(wav), wav) for wav in wavs]
dice, voices = random.Random(seed), VoiceLibrary(folder, max_voices=9, max_bytes=1 << 30)
while (folder / "go").exists():
    name = dice.choice("abc")
    if dice.random() < 0.7:
        voices.add(name, dice.choice(samples), consent="x")
    else:
        voices.remove(name)
"""


def test_processes_that_write_and_die_leave_whole_voices(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    recordings, folder = tmp_path / "recordings", tmp_path / "voices"
    recordings.mkdir()
    folder.mkdir()
    (folder / "go").touch()
    for number, sample in enumerate(SAMPLES):
        (recordings / f"{number}.wav").write_bytes(sample.wav)
    crowd = [
        subprocess.Popen([sys.executable, "-c", CHURN, str(folder), str(recordings), str(seed + number)])
        for number in range(4)
    ]
    keys = {sample.key for sample in SAMPLES}
    voices, num_read, num_killed = library(folder), 0, 0
    end_s = time.monotonic() + 60
    while num_read < 400 or num_killed < 2:
        assert time.monotonic() < end_s, "the writers write nothing"
        for voice in list(voices.voices().values()):
            found = voices.sample(voice.name)  # never half of one
            assert found is None or (found.key in keys and sample_key(found.wav) == found.key)
            num_read += found is not None
        if num_killed < 2 and num_read > 100 and dice.random() < 0.1:
            crowd[num_killed].kill()
            num_killed += 1
    (folder / "go").unlink()
    ends = [process.wait(60) for process in crowd]
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0, 0]
    voices.add("last", SAMPLES[0], consent="x")  # clears what the dead left
    voices.remove("last")
    files = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    assert len(files) == 2 * len(voices.voices()), files


def test_the_quota_holds_between_processes(tmp_path: Path) -> None:
    one, two = library(tmp_path, max_voices=2), library(tmp_path, max_voices=2)
    one.add("a", SAMPLES[0], consent="x")
    two.add("b", SAMPLES[0], consent="x")
    for voices in (one, two):
        with pytest.raises(InvalidRequest, match="at most 2 voices"):
            voices.add("c", SAMPLES[0], consent="x")
    assert one.remove("B")
    two.add("c", SAMPLES[0], consent="x")
    assert set(one.voices()) == set(two.voices()) == {"a", "c"}


def test_what_another_process_changes_is_seen_at_once(tmp_path: Path) -> None:
    one, two = library(tmp_path), library(tmp_path)
    for number in range(30):  # far quicker than a file system's clock ticks
        sample = SAMPLES[number % 3]
        one.add("a", sample, consent=str(number))
        seen = two.voices()["a"]
        assert (seen.key, seen.consent) == (sample.key, str(number))
        assert two.sample("A") == sample
    one.remove("a")
    assert two.voices() == {} and two.sample("a") is None and two.find("a") is None


def test_nothing_is_read_again_while_nothing_changes(tmp_path: Path) -> None:
    voices = library(tmp_path)
    voices.add("a", SAMPLES[0], consent="x")
    old = time.time() - 60
    os.utime(tmp_path, (old, old))
    assert voices.voices() is voices.voices()
    listing = voices._folder._listing
    voices.voices()
    assert voices._folder._listing is listing


def test_a_busy_folder_is_an_error_not_a_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    voices = library(tmp_path)
    voices.add("a", SAMPLES[0], consent="x")
    monkeypatch.setattr("cadence.voices.folder._LOCK_WAIT_S", 0.05)
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(StorageFailed, match="busy"):
            voices.add("b", SAMPLES[0], consent="x")
        assert voices.sample("a") == SAMPLES[0]  # readers need no lock


def test_a_sample_shows_its_key_and_not_its_sound() -> None:
    assert "RIFF" not in repr(VoiceSample("k", b"RIFF"))
