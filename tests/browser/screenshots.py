"""Take the pictures of docs/images from a running server: python tests/browser/screenshots.py URL [NAME…]"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser.chromium import ARGS, executable, expect, sync_api
from cadence.audio.encode import encode_wav
from talker import talk

OUT = Path(__file__).parents[2] / "docs" / "images"
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1080, "height": 860}, "device_scale_factor": 1.5},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
MOST_BYTES = 150_000
HEARD = "The river keeps on, and takes you along."


def main(url: str, *only: str) -> None:
    """Each tab, light and dark, on a desk and on a phone."""
    expect.set_options(timeout=180_000)
    OUT.mkdir(parents=True, exist_ok=True)
    quiet = Path(tempfile.mkdtemp()) / "quiet.wav"
    quiet.write_bytes(encode_wav(np.zeros(48_000, np.float32), 48_000))
    args = [*ARGS, f"--use-file-for-fake-audio-capture={quiet}"]
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=args)
        for screen, options in SCREENS.items():
            for scheme in ("light", "dark"):
                name = f"{screen}-{scheme}"
                if not only or name in only:
                    context = browser.new_context(
                        base_url=url,
                        color_scheme=scheme,
                        permissions=["microphone"],
                        accept_downloads=True,
                        **options,
                    )
                    take_all(context.new_page(), url, name)
                    context.close()
        browser.close()


def take_all(page: Any, url: str, name: str) -> None:
    """Use every tab, and take its picture."""
    page.goto(url)
    expect(page.locator("#model")).not_to_be_empty()
    if page.locator("#random-weights").is_visible():  # they do not know when to end
        page.locator("#speak-input").fill("Keeps on.")
    page.locator("#speak input[name=seed]").evaluate("(seed) => { seed.value = '7'; }")
    page.locator("#speak-go").click()
    expect(page.locator("#speak-status")).to_contain_text("Complete")
    take(page, f"speak-{name}")
    page.locator("#tab-listen").click()
    page.locator("#listen-file").set_input_files(listened(page))
    expect(page.locator("#listen-copy")).to_be_enabled()
    take(page, f"listen-{name}")
    page.locator("#tab-talk").click()
    page.locator("#talk-text").fill("What can you do?")
    page.keyboard.press("Enter")
    expect(page.locator("#talk-state")).to_have_text("Speaking")
    expect(page.locator(".bubble.assistant").last).to_have_text(re.compile(".{20}", re.DOTALL))
    page.evaluate("document.activeElement.blur()")
    take(page, f"talk-{name}")
    page.locator("#talk-go").click()
    page.locator("#tab-voices").click()
    take(page, f"voices-{name}")


def listened(page: Any) -> dict[str, Any]:
    """What the Listen tab hears: the server's own speech if it is any, else a talker without words."""
    if page.locator("#random-weights").is_visible():
        sound = encode_wav(talk(4.0, seed=5, rate_hz=24_000), 24_000)
    else:
        answer = page.request.post("/v1/audio/speech", data={"input": HEARD, "seed": 1, "stream": False})
        sound = answer.body()
    return {"name": "recording.wav", "mimeType": "audio/wav", "buffer": sound}


def take(page: Any, name: str) -> None:
    """One picture, from the top of the page, in few enough colours to be small."""
    page.mouse.move(2, 2)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(600)
    path = OUT / f"{name}.png"
    page.screenshot(path=path)
    picture = Image.open(path).convert("RGB")
    for num_colours in (128, 64, 32):
        picture.quantize(num_colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            break
    print(f"{path.name}: {path.stat().st_size // 1000} KB", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
