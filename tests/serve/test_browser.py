"""The page in a real browser: the system's Chromium, driven by playwright; skipped where one is absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, needs_weights
from PIL import Image
from serve_requests import png
from squares import coco_source

from ufo.data.digits import generate
from ufo.runs import results

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    needs_weights,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system"),
]
PATIENCE = 120_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    generate(folder, train=0, val=2, seed=3, progress=False)
    return folder / "val" / "images"


@pytest.fixture(scope="module")
def seen(scenes, tmp_path_factory) -> list[str]:
    """Options for the second and third view: a yaml of two scenes, and a run with two sheets, one broken."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "scenes.yaml").write_text(coco_source("scenes", scenes.parent, "instances.json"))
    measured = {"val/digits/detection/mAP50": 0.5, "val/digits/detection/mAP_large": None}
    results.write(folder, 7, measured, {"paper": {"val/digits/detection/mAP50": 0.625}})
    sheets = folder / "worst" / "step_000007"
    sheets.mkdir(parents=True)
    Image.new("RGB", (30, 20), "red").save(sheets / "digits_detection.png")
    (sheets / "digits_detection.csv").write_text("score,file\n0.1,<b>1.jpg\n")
    (sheets / "digits_grounding.png").write_bytes(b"no picture")
    return ["--data", str(folder / "scenes.yaml"), "--run", str(folder)]


@pytest.fixture(scope="module")
def address(seen):
    """The page of `ufo serve` as a user starts it; it must end at SIGTERM, with exit code 0."""
    command = [sys.executable, "-m", "ufo.cli.main", "serve", "weights/ufo_vit_tiny_digits", "--port", "0"]
    command += seen
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("page: "))
        yield line.removeprefix("page: ").strip()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "stopped" in rest
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, ready; nothing it does may raise an error of JavaScript or load from elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else wrong.append(r.url)
    )
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    page.close()
    assert not wrong


def pixels(page) -> str:
    return page.evaluate("document.getElementById('stage').toDataURL()")


def choose(page, *tasks: str) -> None:
    for box in page.locator("#tasks input").all():
        box.set_checked(box.get_attribute("value") in tasks)


def ask(page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    expect(page.locator("#file-name")).to_have_text(picture.name)
    page.click("#ask")
    expect(page.locator("#busy")).to_have_text(re.compile("^answered in"))


def test_a_picture_is_asked_about_drawn_and_saved(page, scenes, tmp_path):
    choose(page, "detection", "instance_segmentation", "caption")
    ask(page, scenes / "000001.jpg")
    assert page.locator(".result").count() == 3
    assert "detection: " in page.get_attribute("#stage", "aria-label")
    drawn = pixels(page)
    for box in ("#show-boxes", "#show-masks", "#show-labels"):
        page.uncheck(box)
    plain = pixels(page)
    assert plain != drawn
    page.check("#show-masks")
    assert pixels(page) not in (plain, drawn)
    page.uncheck(".result:nth-child(2) > label input")  # hides the segmentation, whose masks are drawn
    assert pixels(page) == plain
    with page.expect_download() as saved:
        page.click("#save-json")
    saved.value.save_as(tmp_path / "answer.json")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert [r["task"] for r in answer["results"]] == ["detection", "instance_segmentation", "caption"]
    assert all(record["score"] >= 0.3 for record in answer["results"][0]["records"])
    with page.expect_download() as saved:
        page.click("#save-png")
    saved.value.save_as(tmp_path / "answer.png")
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")


def test_how_it_arose_is_told_by_mouse_and_keyboard(page, scenes):
    choose(page, "instance_segmentation")
    ask(page, scenes / "000001.jpg")
    assert page.locator("#planes canvas").count() == 17  # sixteen planes and the mask
    assert page.locator("#times tr").count() == 4
    assert "x  " in page.text_content("#raw")
    page.check("#show-points")
    page.hover("#stage", position={"x": 30, "y": 30})
    first = page.text_content("#point")
    assert "probability" in first
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#point")).not_to_have_text(first)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#point")).to_have_text(first)


def test_an_expression_is_asked_for(page, scenes):
    choose(page, "grounding")
    page.set_input_files("#file", scenes / "000001.jpg")
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")
    assert "needs a text" in page.text_content("#error")
    page.fill("#text", "the seven")
    ask(page, scenes / "000001.jpg")
    assert page.is_hidden("#error") and '"the seven"' in page.text_content(".result")


def test_errors_are_shown(page, tmp_path):
    page.click("#ask")
    page.wait_for_selector("#error:not([hidden])")
    assert "no picture" in page.text_content("#error")
    (tmp_path / "broken.png").write_bytes(png()[:300])
    page.set_input_files("#file", tmp_path / "broken.png")
    page.click("#ask")
    expect(page.locator("#error")).to_contain_text("cannot be used")
    assert page.is_enabled("#ask")


def test_the_data_are_looked_through(page):
    """Samples as `ufo data show` draws them, with prompt and answers; the ends are ends."""
    page.click("#tab-data")
    expect(page.locator("#data-prompt")).to_contain_text("Task: ")
    assert page.get_attribute("#view-ask", "hidden") is not None
    tasks = page.locator("#data-task option").all_text_contents()
    assert "detection" in tasks
    page.select_option("#data-task", "detection")
    expect(page.locator("#data-prompt")).to_contain_text("Task: detection")
    expect(page.locator("#data-place")).to_have_text("sample 1 of 2")
    assert page.is_disabled("#data-back") and page.is_enabled("#data-on")
    first = page.get_attribute("#data-picture", "src")
    assert page.get_attribute("#data-picture", "alt").startswith("sample 1 of detection")
    assert page.locator("#data-answers li").count() > 0
    page.click("#data-on")
    expect(page.locator("#data-picture")).to_have_attribute("alt", re.compile("^sample 2 of detection"))
    assert page.get_attribute("#data-picture", "src") != first and page.is_disabled("#data-on")
    page.click("#data-back")
    expect(page.locator("#data-picture")).to_have_attribute("src", first)
    assert page.is_hidden("#error")


def test_a_run_is_looked_at(page):
    """Metrics beside published ones, the worst predictions of each source; a broken sheet is an error."""
    page.click("#tab-run")
    expect(page.locator("#run-name")).to_contain_text("after 7 steps")
    cells = page.locator("#run-metrics tr").all_inner_texts()
    assert [row.split() for row in cells] == [
        ["metric", "measured", "paper"],
        ["val/digits/detection/mAP50", "0.5000", "0.6250"],
        ["val/digits/detection/mAP_large", "-"],
    ]
    expect(page.locator("#run-picture")).to_have_attribute("alt", re.compile("digits_detection"))
    assert page.evaluate("document.getElementById('run-picture').naturalWidth") == 30
    assert "<b>1.jpg" in page.inner_text("#run-worst")
    page.select_option("#run-source", label="digits_grounding")
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot show this picture" in page.text_content("#error")
    page.select_option("#run-source", label="digits_detection")
    expect(page.locator("#run-picture")).to_have_attribute("alt", re.compile("digits_detection"))


def test_views_are_reached_with_the_keyboard(page):
    page.focus("#tab-ask")
    for name in ("data", "run", "ask", "run"):
        page.keyboard.press("ArrowLeft" if name == "run" and page.is_visible("#view-ask") else "ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.is_visible(f"#view-{name}")
        assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"
        shown = page.locator("[role=tabpanel]:visible").evaluate_all("all => all.map(e => e.id)")
        assert shown == [f"view-{name}"]


def test_whatever_is_written_can_be_read(page, scenes):
    """Computed colours of all text that is seen, in every view: at least 4.5 to 1 (WCAG 2, AA)."""
    choose(page, "detection", "semantic_segmentation")
    ask(page, scenes / "000001.jpg")
    page.evaluate("document.querySelector('details').open = true")
    for name in ("ask", "data", "run"):
        page.click(f"#tab-{name}")
        if name != "ask":
            page.wait_for_selector(f"#{name}-picture[src]")
        pairs = page.evaluate(COLORS)
        assert len(pairs) > 8
        for text, ink, paper in pairs:
            assert contrast(ink, paper) >= 4.5, (name, text, ink, paper)
        for picture in page.locator("img:visible, canvas:visible").all():
            said = picture.get_attribute("alt") or picture.get_attribute("aria-label")
            assert said, picture.evaluate("e => e.outerHTML.slice(0, 200)")


COLORS = """() => {
  const hex = (color) => "#" + color.match(/[\\d.]+/g).slice(0, 3)
    .map((v) => Math.round(v).toString(16).padStart(2, "0")).join("");
  const paper = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(color)) return hex(color);
    }
    return "#ffffff";
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility() && own(e) && !e.disabled)
    .map((e) => [e.textContent.trim().slice(0, 40), hex(getComputedStyle(e).color), paper(e)]);
}"""


def test_odd_files_are_told(page, scenes, tmp_path):
    (tmp_path / "empty.png").touch()
    page.set_input_files("#file", tmp_path / "empty.png")
    expect(page.locator("#error")).to_contain_text("empty.png is empty")
    with Image.open(scenes / "000001.jpg") as scene:
        scene.save(tmp_path / "scene.tiff")
    page.set_input_files("#file", tmp_path / "scene.tiff")
    expect(page.locator("#file-name")).to_contain_text("cannot show it")
    choose(page, "caption")
    page.click("#ask")
    expect(page.locator("#busy")).to_have_text(re.compile("^answered in"))
    assert page.locator(".result").count() == 1 and page.is_hidden("#error")


def test_two_users_at_once_see_their_own(browser, address, scenes):
    """Both have asked before either is answered, and each reads what was found in the own picture."""
    users = [browser.new_context().new_page() for _ in range(2)]
    for user in users:
        user.set_default_timeout(PATIENCE)
        user.goto(address)
        user.wait_for_selector("body[data-ready=yes]")
    pictures = [scenes / "000001.jpg", scenes / "000002.jpg"]
    seen: dict[Path, set[str]] = {picture: set() for picture in pictures}
    for turn in range(4):
        pairs = [(user, pictures[(number + turn) % 2]) for number, user in enumerate(users)]
        for user, picture in pairs:
            user.set_input_files("#file", picture)
            expect(user.locator("#file-name")).to_have_text(picture.name)
        for user, _ in pairs:
            user.click("#ask")
        for user, picture in pairs:
            user.wait_for_selector(".result")
            seen[picture].add(user.text_content(".result"))
    for user in users:
        user.context.close()
    first, second = seen.values()
    assert len(first) == len(second) == 1 and first != second


def test_the_page_can_be_used_without_a_mouse_and_read_aloud(page):
    """Every control has a name, every picture a text; dark text on light ground, at least 4.5 to 1."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, canvas, img')].filter((e) =>
             !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')
             || e.hasAttribute('alt'))).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    style = (ROOT / "ufo" / "serve" / "page" / "page.css").read_text()
    colors = dict(re.findall(r"--(\w+): (#\w+);", style))
    for ink, paper in (
        ("ink", "paper"),
        ("ink", "sheet"),
        ("quiet", "paper"),
        ("quiet", "sheet"),
        ("accent", "paper"),
    ):
        assert contrast(colors[ink], colors[paper]) >= 4.5, (ink, paper)
    assert contrast("#8c1d18", "#ffffff") >= 4.5


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours, 1 to 21."""

    def light(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
