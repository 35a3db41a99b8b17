"""Chromium as the tests use it; importing this skips a module whose machine has no driver for it."""

from __future__ import annotations

import os
import shutil

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install 'cadence[dev]', and a Chromium from your system"
)
expect = sync_api.expect
expect.set_options(timeout=60_000)
Page = sync_api.Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "no Chromium found: install it (Debian: apt-get install chromium) or name one in CADENCE_TEST_CHROMIUM"
)
ARGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def executable() -> str | None:
    """A Chromium of this machine."""
    return os.environ.get("CADENCE_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
