#!/usr/bin/env bash
# Chat completions with curl and jq.
#   bash run_curl.sh [audio_to_text|text_to_audio|audio_to_audio]
# Environment:
#   API_BASE    server (http://localhost:8092)     API_KEY     key, when the server wants one
#   MODEL       model name                         AUDIO_OUT   file to write spoken answers to
#   AUDIO_URL   input audio by URL                 AUDIO_PATH  input audio from a file (wins over the URL)
set -euo pipefail

query_type="${1:-audio_to_text}"
api_base="${API_BASE:-http://localhost:8092}"
audio_url="${AUDIO_URL:-https://vllm-public-assets.s3.us-west-2.amazonaws.com/multimodal_asset/mary_had_lamb.ogg}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case "$query_type" in
  audio_to_text)
    system="You are a speech recognition assistant. Transcribe the audio accurately."
    text="Please transcribe this audio."
    sampling='{"repetition_penalty": 1.05, "stop_token_ids": [151645]}'
    ;;
  text_to_audio)
    system="You are a text-to-speech assistant. Read the text aloud exactly as provided."
    text="Hello, this is a test of Step Audio 2 text to speech synthesis.<tts_start>"
    sampling='{"repetition_penalty": 1.1}'
    ;;
  audio_to_audio)
    system="You are an audio processing assistant. Listen and repeat the audio content."
    text="Please listen to this audio and repeat its content.<tts_start>"
    sampling='{"repetition_penalty": 1.1}'
    ;;
  *)
    echo "Error: unknown query type '$query_type'" >&2
    echo "Usage: $0 [audio_to_text|text_to_audio|audio_to_audio]" >&2
    exit 1
    ;;
esac

# The audio may be megabytes of base64, more than a command line holds: it travels through files.
if [[ "$query_type" == text_to_audio ]]; then
  : > "$work/url"
elif [[ -n "${AUDIO_PATH:-}" ]]; then
  { printf 'data:audio/%s;base64,' "${AUDIO_PATH##*.}"; base64 < "$AUDIO_PATH" | tr -d '\n'; } > "$work/url"
else
  printf '%s' "$audio_url" > "$work/url"
fi

jq -n --rawfile url "$work/url" --arg model "${MODEL:-stepfun-ai/Step-Audio2-mini}" \
  --arg system "$system" --arg text "$text" --argjson sampling "$sampling" '
  {
    model: $model,
    sampling_params_list: [
      {temperature: 0.7, top_p: 0.9, top_k: -1, max_tokens: 1024, seed: 42, detokenize: true} + $sampling,
      {temperature: 0.0, top_p: 1.0, top_k: -1, max_tokens: 1, seed: 42, detokenize: false}
    ],
    messages: [
      {role: "system", content: [{type: "text", text: $system}]},
      {role: "user", content: (
        (if $url == "" then [] else [{type: "audio_url", audio_url: {url: $url}}] end)
        + [{type: "text", text: $text}])}
    ]
  }' > "$work/body.json"

printf 'Query type: %s\nAPI base: %s\nSending request...\n\n' "$query_type" "$api_base"
curl -sS -X POST "$api_base/v1/chat/completions" \
  -H "Content-Type: application/json" -H "Authorization: Bearer ${API_KEY:-EMPTY}" \
  --data-binary @"$work/body.json" -o "$work/answer.json"

error=$(jq -c '.error // empty' "$work/answer.json")
if [[ -n "$error" ]]; then
  echo "Error: $error" >&2
  exit 1
fi

content=$(jq -r '.choices[0].message.content // empty' "$work/answer.json")
if [[ -n "$content" ]]; then
  echo "Text output: $content"
fi
if jq -e '.choices[0].message.audio.data // empty' "$work/answer.json" > /dev/null; then
  echo "Audio output received (base64 encoded)"
  if [[ -n "${AUDIO_OUT:-}" ]]; then
    jq -r '.choices[0].message.audio.data' "$work/answer.json" | base64 -d > "$AUDIO_OUT"
    echo "Audio saved to: $AUDIO_OUT"
  else
    echo "To save it, set AUDIO_OUT=answer.wav or use the Python client"
  fi
fi
printf '\nDone!\n'
