"""The flow's `flow.yaml`, read as plain data.

In the public checkpoints this file is executable YAML: `!new:package.Class` tags that a loader would
import and call. Here a tag is only a label that must be on a short list; any other tag, class, key or
value that this code does not implement is refused, so that no file can run code or change the
mathematics unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cadence.errors import CheckpointError

__all__ = ["DiTConfig", "EncoderConfig", "FlowConfig", "read_flow_config"]

_MAX_BYTES = 64 << 10  # the public file has about 1 KiB
_CLASS = "!class"
_FLOW = "cosyvoice2.flow.flow.CausalMaskedDiffWithXvec"
_ENCODER = "cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2"
_DECODER = "cosyvoice2.flow.flow_matching.CausalConditionalCFM"
_ESTIMATOR = "cosyvoice2.flow.decoder_dit.DiT"
_CLASSES = (_FLOW, _ENCODER, _DECODER, _ESTIMATOR)

# Values that choose a variant of the architecture: only these are implemented.
_FIXED_FLOW = {"output_type": "mel"}
_FIXED_ENCODER = {
    "input_layer": "linear",
    "up_stride": 2,
    "up_scale_factor": 2,
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "normalize_before": True,
}
# Dropout acts in the original's training only; a served model has none.
_TRAINING_ONLY = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes of the upsampling conformer encoder (MODEL: 512 wide, 6 + 4 blocks, 8 heads)."""

    hidden: int
    num_blocks: int
    num_up_blocks: int
    num_heads: int
    linear_units: int
    lookahead: int = 3
    key_bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """Sizes of the diffusion transformer; `in_channels` = noise + mu + speaker + condition."""

    in_channels: int
    out_channels: int
    hidden: int
    depth: int
    num_heads: int
    head_dim: int
    mlp_ratio: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """Sizes of the whole flow. `guidance` is the classifier-free guidance rate; at 0 it is switched off."""

    vocab_size: int
    mel_dim: int
    speaker_dim: int
    guidance: float
    encoder: EncoderConfig
    dit: DiTConfig

    @property
    def groups(self) -> int:
        """Copies of a stream's rows in the DiT: guided and, unless guidance is off, unguided."""
        return 2 if self.guidance else 1


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader whose only extra is to turn a listed `!new:` tag into a labelled dict."""


def _labelled(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    if name not in _CLASSES or not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, f"the class {name!r} is not one of {', '.join(_CLASSES)}", node.start_mark
        )
    keys = loader.construct_mapping(node, deep=True).items()
    return {_CLASS: name} | {str(key): value for key, value in keys if key != _CLASS}


_PlainLoader.add_multi_constructor("!new:", _labelled)


def read_flow_config(path: Path) -> FlowConfig:
    """Read `flow.yaml`.

    Raises:
        CheckpointError: missing, not YAML, a foreign tag or class, an unknown key or value, or sizes
            that do not fit each other.
    """
    flow = _section(_load(path), "flow", _FLOW, path)
    encoder, decoder = _section(flow, "encoder", _ENCODER, path), _section(flow, "decoder", _DECODER, path)
    estimator = _section(decoder, "estimator", _ESTIMATOR, path)
    reader = _Reader(path)
    config = FlowConfig(
        vocab_size=reader.size(flow, "vocab_size"),
        mel_dim=reader.size(flow, "output_size"),
        speaker_dim=reader.size(flow, "spk_embed_dim"),
        guidance=reader.number(decoder, "inference_cfg_rate", or_zero=True),
        encoder=EncoderConfig(
            hidden=reader.size(encoder, "output_size"),
            num_blocks=reader.size(encoder, "num_blocks"),
            num_up_blocks=reader.size(encoder, "num_up_blocks"),
            num_heads=reader.size(encoder, "attention_heads"),
            linear_units=reader.size(encoder, "linear_units"),
            lookahead=reader.size(encoder, "pre_lookahead_len"),
            key_bias=reader.flag(encoder, "key_bias", default=True),
        ),
        dit=DiTConfig(
            in_channels=reader.size(estimator, "in_channels"),
            out_channels=reader.size(estimator, "out_channels"),
            hidden=reader.size(estimator, "hidden_size"),
            depth=reader.size(estimator, "depth"),
            num_heads=reader.size(estimator, "num_heads"),
            head_dim=reader.size(estimator, "head_dim"),
            mlp_ratio=reader.number(estimator, "mlp_ratio", default=4.0),
        ),
    )
    inputs = {reader.size(flow, "input_size"), reader.size(encoder, "input_size"), config.encoder.hidden}
    reader.finish(flow, _FIXED_FLOW, ("encoder", "decoder"))
    reader.finish(encoder, _FIXED_ENCODER, _TRAINING_ONLY)
    reader.finish(decoder, {}, ("estimator",))
    reader.finish(estimator, {}, ())
    _check_sizes(config, inputs, path)
    return config


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: expected at most {_MAX_BYTES} bytes of configuration.")
        # A SafeLoader: it builds plain data only.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read as plain configuration ({error}).") from error


def _section(parent: Any, key: str, expected: str, path: Path) -> dict[str, Any]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, dict) or found.get(_CLASS) != expected:
        raise CheckpointError(f"{path}: expected {key!r} to be a !new:{expected}.", param=key)
    return found


def _check_sizes(config: FlowConfig, inputs: set[int], path: Path) -> None:
    dit, encoder = config.dit, config.encoder
    if len(inputs) != 1:
        raise CheckpointError(f"{path}: input_size and the encoder's sizes must agree, found {inputs}.")
    if dit.out_channels != config.mel_dim or dit.in_channels != 4 * config.mel_dim:
        raise CheckpointError(
            f"{path}: the DiT must take 4 × {config.mel_dim} and give {config.mel_dim} channels, "
            f"found {dit.in_channels} and {dit.out_channels}."
        )
    if encoder.hidden % encoder.num_heads or encoder.hidden % 2:
        raise CheckpointError(f"{path}: {encoder.num_heads} heads do not divide {encoder.hidden} channels.")


class _Reader:
    """Takes values out of a section and remembers them, so that leftovers can be named."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: set[tuple[int, str]] = set()

    def _take(self, section: Mapping[str, Any], key: str, default: Any) -> Any:
        self._taken.add((id(section), key))
        if key not in section and default is None:
            raise CheckpointError(f"{self._path}: the key {key!r} is missing.", param=key)
        return section.get(key, default)

    def size(self, section: Mapping[str, Any], key: str) -> int:
        """A whole number above zero."""
        value = self._take(section, key, None)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{self._path}: {key!r} must be a positive integer, found {value!r}.")
        return value

    def number(
        self, section: Mapping[str, Any], key: str, default: float | None = None, *, or_zero: bool = False
    ) -> float:
        """A finite number above zero, or with `or_zero` from zero."""
        value = self._take(section, key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not (0 < value < 1e6 or (or_zero and value == 0)):
            kind = "a number from 0" if or_zero else "a positive number"
            raise CheckpointError(f"{self._path}: {key!r} must be {kind}, found {value!r}.")
        return float(value)

    def flag(self, section: Mapping[str, Any], key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(section, key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self._path}: {key!r} must be true or false, found {value!r}.")
        return value

    def finish(self, section: Mapping[str, Any], fixed: Mapping[str, Any], inert: tuple[str, ...]) -> None:
        """Refuse keys nobody took and variants that are not implemented."""
        for key, value in section.items():
            if key == _CLASS or key in inert or (id(section), key) in self._taken:
                continue
            if key not in fixed:
                raise CheckpointError(f"{self._path}: unknown key {key!r}.", param=str(key))
            if value != fixed[key]:
                raise CheckpointError(
                    f"{self._path}: {key!r} must be {fixed[key]!r}, found {value!r}.", param=key
                )
