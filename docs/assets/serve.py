"""The pictures of docs/serve.md: the page of `ufo serve`, as Chromium shows it.

ufo data digits --out data/few --train 0 --val 8
ufo serve weights/ufo_vit_tiny_digits                           # in another terminal
python docs/assets/serve.py http://127.0.0.1:8000/ data/few/val/images/000001.jpg
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTH = 1000  # pixels of the pictures


def main(address: str, picture: str) -> None:
    """Ask about a picture and save what is seen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1250, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("body[data-ready=yes]")
        for task in ("detection", "instance_segmentation", "grounding"):
            page.check(f"input[value={task}]")
        page.uncheck("input[value=detection]")
        page.fill("#text", "the seven")
        page.set_input_files("#file", picture)
        page.click("#ask")
        page.wait_for_selector(".result")
        shoot(page, "serve_ask")
        for box in ("#show-masks", "#show-boxes", "#show-labels"):
            page.uncheck(box)
        page.check("#show-points")
        page.evaluate("document.getElementById('stage').scrollIntoView()")
        page.set_viewport_size({"width": 1250, "height": 1500})
        shoot(page, "serve_arose")
        browser.close()


def shoot(page: Page, name: str) -> None:
    """What the window shows, as a small file."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS).save(
        HERE / f"{name}.webp", quality=70, method=6
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
