"""The command line: what flags mean, what is said about those that mean nothing, and the client commands."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

import cadence.cli.chat
import cadence.cli.speech
import cadence.cli.transcribe
import cadence.cli.voices
from cadence.cli import COMMANDS, default_model, main
from cadence.cli.backend import connect
from cadence.cli.options import ServeCommand
from cadence.cli.serve import build_config, notices, serve
from cadence.cli.voices import default_voices_dir
from cadence.config import ServeConfig, ServerConfig
from cadence.errors import CadenceError, ConfigError, NotReady


def parse(*args: str) -> dict[str, Any]:
    """What `cadence serve ARGS` passes on."""
    return serve.make_context("serve", list(args)).params


def config(*args: str) -> ServeConfig:
    """The configuration of `cadence serve ARGS`."""
    return build_config(parse(*args), say=lambda _: None)


# ------------------------------------------------------------------ group
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    answer = CliRunner().invoke(main, [name, "--help"])
    assert answer.exit_code == 0 and "Usage:" in answer.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cadence.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'httpx', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_our_errors_are_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ConfigError("The file x is missing.", hint="Name another.")

    monkeypatch.setattr(main, "get_command", lambda ctx, name: click.Command(name, callback=fail))
    answer = CliRunner().invoke(main, ["serve"])
    assert (answer.exit_code, answer.stderr) == (2, "Error: The file x is missing. Name another.\n")


def test_unknown_commands_and_flags_are_refused() -> None:
    assert CliRunner().invoke(main, ["sreve"]).exit_code == 2
    assert "No such option" in CliRunner().invoke(main, ["serve", "--async-chnk"]).output


# ------------------------------------------------------------------ serve
def test_the_documented_command_works_as_it_is() -> None:
    got = parse(
        "stepfun-ai/Step-Audio2-mini", "--omni", "--port", "8092", "--stage-configs-path", "stages.yaml",
        "--trust-remote-code", "--enforce-eager",
    )  # fmt: skip
    assert (got["model"], got["port"]) == ("stepfun-ai/Step-Audio2-mini", 8092)
    assert got["deploy_config"] == Path("stages.yaml")
    assert [line.split()[0] for line in notices(got)] == ["--omni", "--trust-remote-code"]


def test_flags_without_meaning_here_are_named_not_swallowed() -> None:
    lines = notices(parse("m", "--gpu-memory-utilization", "0.8", "-tp", "2"))
    assert len(lines) == 2 and all("does not apply" in line for line in lines)
    assert notices(parse("m")) == []


def test_enforce_eager_reaches_both_stages() -> None:
    for args, eager in (((), False), (("--enforce-eager",), True)):
        got = config("m", *args)
        assert (got.thinker.enforce_eager, got.token2wav.enforce_eager) == (eager, eager)


def test_speed_flags_reach_their_stages() -> None:
    got = config("m", "--thinker-weights", "int8", "--first-chunk", "8", "--flow-history", "20")
    assert got.thinker.weights == "int8"
    assert got.token2wav.flow_history_s == 20.0
    assert (got.token2wav.schedule.first, got.token2wav.schedule.steady) == (8, 25)
    usual = config("m")
    assert (usual.thinker.weights, usual.token2wav.schedule.first) == ("plain", 5)


def test_flags_reach_both_stages() -> None:
    got = config("m", "--device", "cpu", "--dtype", "float32", "--threads", "2", "--max-num-seqs", "4")
    for stage in (got.thinker, got.token2wav):
        assert (stage.device, stage.dtype, stage.threads, stage.max_num_seqs) == ("cpu", "float32", 2, 4)


def test_flags_that_were_not_given_leave_the_defaults() -> None:
    server = ServerConfig(voices_dir=str(default_voices_dir()))
    assert config("m") == ServeConfig(model="m", server=server)
    assert config("m", "--no-async-chunk").engine.async_chunk is False
    assert config("m", "--in-process").engine.in_process is True
    assert config("m", "--no-url-fetch").server.allow_url_fetch is False
    assert config("m", "--no-playground").server.playground is False


def test_where_voices_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAKER_SAMPLES_DIR", "theirs")  # a deployment of vLLM-Omni goes on as it was
    monkeypatch.setenv("SPEAKER_MAX_UPLOADED", "7")
    monkeypatch.setenv("VLLM_OMNI_SPEAKER_REGISTRATION_POLICY", "immutable")
    got = config("m").server
    assert (got.voices_dir, got.max_voices, got.voice_policy) == ("theirs", 7, "immutable")
    monkeypatch.setenv("CADENCE_VOICES_DIR", "ours")
    assert config("m").server.voices_dir == "ours"
    got = config("m", "--voices-dir", "v", "--voice-uploads", "overwrite", "--max-voices", "3").server
    assert (got.voices_dir, got.max_voices, got.voice_policy) == ("v", 3, "overwrite")
    assert config("m", "--voice-uploads", "off").server.voices_dir is None


def test_list_options_take_several_values_as_in_vllm() -> None:
    got = config("--api-key", "k1", "k2", "--served-model-name", "a", "b", "--max_num_seqs=3", "--", "m")
    assert (got.model, got.served_model_names) == ("m", ("a", "b"))
    assert (got.server.api_keys, got.thinker.max_num_seqs) == (("k1", "k2"), 3)
    assert config("m", "--served-model-name", "a", "--served-model-name", "b").served_model_names == (
        "a",
        "b",
    )


@pytest.mark.parametrize("name", ["CADENCE_API_KEY", "VLLM_API_KEY"])
def test_keys_come_from_the_environment_unless_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("CADENCE_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "k1, k2")
    assert config("m").server.api_keys == ("k1", "k2")
    assert config("m", "--api-key", "k3").server.api_keys == ("k3",)


def test_a_taken_port_is_an_error_before_anything_loads(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = CliRunner().invoke(main, ["serve", str(tmp_path), "--port", port])
    assert answer.exit_code == 2 and f"Cannot listen on 127.0.0.1 port {port}" in answer.stderr
    assert "Loading" not in answer.stderr


def test_serve_command_is_a_plain_click_command_otherwise() -> None:
    @click.command(cls=ServeCommand)
    @click.option("--x")
    def command(x: str) -> None:
        click.echo(x)

    assert CliRunner().invoke(command, ["--x", "a_b"]).output == "a_b\n"


# ------------------------------------------------------------------ default model
def test_default_model_is_the_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(default_model, "NANO", tmp_path)
    said: list[str] = []
    assert default_model.default_model(said.append) == (tmp_path, "cadence-nano")
    assert said == []


def test_without_it_a_labelled_sample_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_written = 0

    def write(out: Path, *, preset: str) -> None:
        nonlocal num_written
        num_written += 1
        out.mkdir()
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(default_model, "NANO", tmp_path / "absent")
    monkeypatch.setattr("cadence.models.sample.write_sample_checkpoint", write)
    monkeypatch.setenv("CADENCE_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    (first, name), second = (default_model.default_model(said.append) for _ in range(2))
    assert second == (first, name) and num_written == 1
    assert name == "cadence-sample"
    assert sum("RANDOM WEIGHTS" in line for line in said) == 2
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_an_unwritable_cache_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(default_model, "NANO", tmp_path / "absent")
    monkeypatch.setenv("CADENCE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match="CADENCE_CACHE"):
        default_model.default_model(lambda _: None)


# ------------------------------------------------------------------ client commands
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], list[httpx.Request]]:
    """Put a handler where the commands look for a server; returns the requests it sees."""

    def install(handler: Handler) -> list[httpx.Request]:
        seen: list[httpx.Request] = []

        def record(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return handler(request)

        @contextlib.asynccontextmanager
        async def fake_connect(url: Any, model: Any, api_key: Any) -> AsyncIterator[httpx.AsyncClient]:
            async with httpx.AsyncClient(
                transport=httpx.MockTransport(record), base_url="http://x"
            ) as client:
                yield client

        for module in (cadence.cli.speech, cadence.cli.transcribe, cadence.cli.chat, cadence.cli.voices):
            monkeypatch.setattr(module, "connect", fake_connect)
        return seen

    return install


def events(*deltas: dict[str, Any]) -> bytes:
    """A chat stream."""
    lines = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def test_say_writes_the_format_of_the_suffix(server: Any, tmp_path: Path) -> None:
    seen = server(lambda _: httpx.Response(200, content=b"sound"))
    out = tmp_path / "hello.mp3"
    answer = CliRunner().invoke(main, ["say", "hello", "-o", str(out), "--voice", "v", "--seed", "7"])
    assert answer.exit_code == 0, answer.output
    assert out.read_bytes() == b"sound"
    body = json.loads(seen[0].content)
    assert body == {"input": "hello", "voice": "v", "response_format": "mp3", "seed": 7, "stream": False}


@pytest.mark.parametrize(
    ("suffix", "name"), [("opus", "opus"), ("ogg", "opus"), ("aac", "aac"), ("flac", "flac"), ("pcm", "pcm")]
)
def test_say_takes_every_format_rate_and_speed(server: Any, tmp_path: Path, suffix: str, name: str) -> None:
    seen = server(lambda _: httpx.Response(200, content=b"sound"))
    options = ["--sample-rate", "16000", "--speed", "1.5"]
    answer = CliRunner().invoke(main, ["say", "hello", "-o", str(tmp_path / f"hello.{suffix}"), *options])
    assert answer.exit_code == 0, answer.output
    body = json.loads(seen[0].content)
    assert (body["response_format"], body["sample_rate"], body["speed"]) == (name, 16_000, 1.5)


def test_say_refuses_a_suffix_it_does_not_know(server: Any, tmp_path: Path) -> None:
    seen = server(lambda _: httpx.Response(200))
    answer = CliRunner().invoke(main, ["say", "hello", "-o", str(tmp_path / "hello.txt")])
    assert (answer.exit_code, seen) == (2, []) and "use a suffix of" in answer.stderr


def test_a_refusal_shows_the_servers_own_words(server: Any, tmp_path: Path) -> None:
    server(lambda _: httpx.Response(400, json={"error": {"message": "No voice 'v'."}}))
    out = tmp_path / "hello.wav"
    answer = CliRunner().invoke(main, ["say", "hello", "-o", str(out)])
    assert answer.exit_code == 2 and "No voice 'v'." in answer.stderr
    assert not out.exists()


def test_say_tells_when_the_speech_was_cut(server: Any, tmp_path: Path) -> None:
    server(lambda _: httpx.Response(200, content=b"sound", headers={"X-Finish-Reason": "length"}))
    answer = CliRunner().invoke(main, ["say", "hello", "-o", str(tmp_path / "hello.wav")])
    assert answer.exit_code == 0 and "cut at its limit" in answer.stderr


def test_transcribe_prints_the_text_as_it_comes(server: Any, tmp_path: Path) -> None:
    events = [
        {"type": "transcript.text.delta", "delta": "good"},
        {"type": "transcript.text.delta", "delta": " morning"},
        {"type": "transcript.text.done", "text": "good morning", "finish_reason": "length"},
    ]
    seen = server(lambda _: httpx.Response(200, text="".join(f"data: {json.dumps(e)}\n\n" for e in events)))
    file = tmp_path / "in.flac"
    file.write_bytes(b"abc")
    answer = CliRunner().invoke(main, ["transcribe", str(file), "--language", "en", "--max-tokens", "9"])
    assert answer.stdout == "good morning\n" and "cut off" in answer.stderr
    assert seen[0].url.path == "/v1/audio/transcriptions" and b"abc" in seen[0].content
    for name, value in (("language", "en"), ("max_completion_tokens", "9"), ("stream", "true")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in seen[0].content


def test_transcribe_writes_subtitles(server: Any, tmp_path: Path) -> None:
    seen = server(lambda _: httpx.Response(200, text="WEBVTT\n\n"))
    (tmp_path / "in.wav").write_bytes(b"abc")
    arguments = ["transcribe", str(tmp_path / "in.wav"), "--translate", "-o", str(tmp_path / "out.vtt")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (tmp_path / "out.vtt").read_text() == "WEBVTT\n\n"
    assert seen[0].url.path == "/v1/audio/translations"
    assert b'name="response_format"\r\n\r\nvtt' in seen[0].content


def test_transcribe_shows_what_went_wrong(server: Any, tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(b"abc")
    server(lambda _: httpx.Response(400, json={"error": {"message": "No sound."}}))
    answer = CliRunner().invoke(main, ["transcribe", str(tmp_path / "in.wav")])
    assert answer.exit_code == 2 and "No sound." in answer.stderr
    server(lambda _: httpx.Response(200, text='data: {"error": {"message": "It broke."}}\n\n'))
    answer = CliRunner().invoke(main, ["transcribe", str(tmp_path / "in.wav")])
    assert answer.exit_code == 2 and "It broke." in answer.stderr


def test_voices_are_listed_in_either_shape(server: Any) -> None:
    server(lambda _: httpx.Response(200, json={"voices": [{"id": "default"}, "other"]}))
    assert CliRunner().invoke(main, ["voices"]).stdout == "default\nother\n"


def test_chat_keeps_the_conversation(server: Any) -> None:
    seen = server(lambda _: httpx.Response(200, content=events({"content": "hi "}, {"content": "there"})))
    answer = CliRunner().invoke(main, ["chat"], input="hello\nand again\n")
    assert answer.stdout.count("hi there") == 2
    roles = [m["role"] for m in json.loads(seen[1].content)["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_chat_writes_its_speech(server: Any, tmp_path: Path) -> None:
    pcm = base64.b64encode(b"\0\1" * 2400).decode()
    seen = server(
        lambda _: httpx.Response(
            200, content=events({"audio": {"transcript": "yes"}}, {"audio": {"data": pcm}})
        )
    )
    out = tmp_path / "answer.wav"
    answer = CliRunner().invoke(main, ["chat", "are you there?", "--speak", str(out)])
    assert answer.stdout == "yes\n"
    assert json.loads(seen[0].content)["audio"] == {"voice": "default", "format": "pcm16"}
    with wave.open(str(out)) as file:
        assert (file.getframerate(), file.getnframes()) == (24_000, 2400)


def test_an_error_in_the_stream_is_an_error(server: Any) -> None:
    server(lambda _: httpx.Response(200, content=b'data: {"error": {"message": "stage failed"}}\n\n'))
    answer = CliRunner().invoke(main, ["chat", "hello"])
    assert answer.exit_code == 2 and "stage failed" in answer.stderr


async def test_a_named_server_must_answer() -> None:
    with pytest.raises(NotReady, match=r"127\.0\.0\.1:9"):
        async with connect("http://127.0.0.1:9", None, None):
            pass
    with pytest.raises(CadenceError, match="exclude each other"):
        async with connect("http://127.0.0.1:9", "model", None):
            pass
