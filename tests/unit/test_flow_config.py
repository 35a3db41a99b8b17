"""flow.yaml is data: nothing in it runs, and nothing in it is overlooked."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadence.errors import CheckpointError
from cadence.models.flow_config import read_flow_config
from cadence.models.sample_layout import FLOWS, flow_yaml

PLAIN = flow_yaml(FLOWS["tiny"])


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "flow.yaml"
    path.write_text(text, encoding="utf-8")
    return read_flow_config(path)


def test_reads_the_public_layout(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(flow_yaml(FLOWS["full"]), encoding="utf-8")
    config = read_flow_config(path)
    assert (config.encoder.num_blocks, config.encoder.num_up_blocks, config.dit.depth) == (6, 4, 16)
    assert (config.guidance, config.encoder.lookahead, config.mel_dim) == (0.7, 3, 80)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec", "flow: !new:os.system", "os.system"),
        ("output_type: 'mel'", "output_type: !apply:os.system [ls]", "!apply"),
        ("output_type: 'mel'", "output_type: !!python/object/apply:os.system [ls]", "python/object"),
        ("output_type: 'mel'", "output_type: wave", "output_type"),
        ("vocab_size: 6561", "vocab_size: -1", "vocab_size"),
        ("vocab_size: 6561", "vocab_size: true", "vocab_size"),
        ("vocab_size: 6561", "vocab_size: 6561\n    surprise: 1", "surprise"),
        ("up_stride: 2", "up_stride: 3", "up_stride"),
        ("depth: 2", "deep: 2", "depth"),
        ("in_channels: 320", "in_channels: 240", "240"),
        ("pre_lookahead_len: 3", "pre_lookahead_len: [3", "plain configuration"),
        ("normalize_before: true", "normalize_before: false", "normalize_before"),
        ("inference_cfg_rate: 0.7", "inference_cfg_rate: .nan", "inference_cfg_rate"),
    ],
)
def test_refuses_what_it_does_not_know(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in PLAIN
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, PLAIN.replace(old, new))
    assert "flow.yaml" in str(caught.value) and named in str(caught.value)


def test_refuses_a_missing_an_empty_and_a_huge_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_flow_config(tmp_path / "flow.yaml")
    for text in ("", "x: 1", PLAIN + "#" * (64 << 10)):
        with pytest.raises(CheckpointError):
            read(tmp_path, text)
