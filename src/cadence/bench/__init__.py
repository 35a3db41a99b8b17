"""Measures any server with OpenAI's speech API over HTTP; knows nothing of how Cadence is built."""
