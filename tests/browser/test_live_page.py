"""The live page in Chromium. After every test: nothing left the machine, no red line was logged."""

from __future__ import annotations

import re
import time

import pytest

from specdec.view.text import SHOWN_CONTROLS

OVER = ".st-key-replay button:visible:not([disabled])"
RUNNING = ".st-key-stop button:visible:not([disabled])"


def generate(tab):
    tab.click(".st-key-generate button:visible")
    tab.wait_for_selector(RUNNING, timeout=30_000)


def wait_until_over(tab):
    tab.wait_for_selector(OVER, timeout=90_000)


def text_of(tab):
    """Return the answer as it stands on the page."""
    return tab.evaluate(
        "[...document.querySelectorAll('.tk:not(.mark)')].map(e => e.textContent).join('')"
    )


def poll(tab, condition, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        tab.wait_for_timeout(50)


def canvas_is_blank(tab):
    """Say whether the tree's canvas shows nothing but its background."""
    frame = next(f for f in tab.frames if "agraph" in f.url)
    return frame.evaluate(
        """() => {
            const canvas = document.querySelector('canvas');
            if (!canvas) return true;
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return !new Uint32Array(data.data.buffer).some(pixel => pixel !== 0);
        }"""
    )


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_a_run_is_drawn_from_its_first_token_to_its_last(open_tab, scheme, width):
    tab = open_tab("max_tokens=256", scheme=scheme, width=width)
    generate(tab)
    tab.wait_for_selector(".tk", timeout=30_000)
    poll(tab, lambda: not canvas_is_blank(tab))
    wait_until_over(tab)
    tab.wait_for_selector("text=drafted tokens accepted")
    poll(tab, lambda: not canvas_is_blank(tab))
    assert tab.locator("canvas.marks, .stVegaLiteChart").count() >= 6
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


IS_CUT = """chart => {
    const frame = chart.querySelector('svg').getBoundingClientRect();
    return [...chart.querySelectorAll('.mark-arc path')].map(arc => arc.getBoundingClientRect())
        .map(arc => arc.top < frame.top || arc.bottom > frame.bottom);
}"""

SCENE = [
    ".status",
    ".figures",
    ".verdict",
    ".st-key-live_tree iframe",
    ".st-key-answer_text",
    *(f"[data-testid=stVegaLiteChart] >> nth={number}" for number in range(3)),
]


def test_the_scene_is_one_screen_and_nothing_of_it_moves_when_the_run_ends(open_tab):
    tab = open_tab("max_tokens=1024&k=3", height=800)
    generate(tab)
    tab.wait_for_selector(".tk", timeout=30_000)
    poll(tab, lambda: tab.locator("[data-testid=stVegaLiteChart]").count() >= 3)
    tab.wait_for_timeout(500)
    during = [tab.locator(part).first.bounding_box() for part in SCENE]
    assert not tab.inner_text(".verdict").strip()
    tab.click(".st-key-stop button:visible")
    wait_until_over(tab)
    tab.wait_for_selector(".verdict:has-text('times plain decoding')")
    tab.wait_for_timeout(1000)
    after = [tab.locator(part).first.bounding_box() for part in SCENE]
    for part, was, now in zip(SCENE, during, after, strict=True):
        assert was["y"] + was["height"] <= 800, part
        assert all(abs(was[side] - now[side]) <= 4 for side in was), part
    assert tab.locator("[data-testid=stVegaLiteChart]").first.evaluate(IS_CUT) == [False] * 2
    sizes = "[...document.querySelectorAll('.figure b')].map(e => getComputedStyle(e).fontSize)"
    assert [float(size[:-2]) >= 32 for size in tab.evaluate(sizes)] == [True] * 4
    assert all(one[0].isdigit() for one in tab.locator(".figure b").all_inner_texts())
    assert tab.locator(".figure .segments i").count() == tab.locator(".segments").count() * 4


def test_stop_ends_a_run_and_keeps_its_text(open_tab, server):
    before = len(server.saved())
    tab = open_tab("max_tokens=1024")
    generate(tab)
    tab.wait_for_selector(".tk.accepted", timeout=30_000)
    tab.click(".st-key-stop button:visible")
    poll(tab, lambda: len(server.saved()) > before, 5)
    saved = server.saved()[-1]
    assert saved["finish_reason"] == "stopped"
    wait_until_over(tab)
    assert "you stopped it" in tab.content()
    half = "\N{REPLACEMENT CHARACTER}"
    assert text_of(tab).rstrip(half) == saved["text"].translate(SHOWN_CONTROLS).rstrip(half)


@pytest.mark.parametrize("how", ["reload", "close"])
def test_a_tab_that_goes_away_keeps_the_partial_run(open_tab, server, how):
    before = len(server.saved())
    tab, other = open_tab("max_tokens=1024"), open_tab()
    generate(tab)
    tab.wait_for_selector(".tk.accepted", timeout=30_000)
    if how == "reload":
        tab.reload()
        tab.wait_for_selector(".st-key-generate button:visible:not([disabled])")
    else:
        tab.close()
    poll(other, lambda: len(server.saved()) > before, 10)
    assert server.saved()[-1]["rounds"] > 0
    assert server.saved()[-1]["finish_reason"] == "stopped"


def test_two_tabs_run_at_once(open_tab, server):
    before = len(server.saved())
    first, second = open_tab("max_tokens=128&seed=1"), open_tab("max_tokens=128&seed=2")
    generate(first)
    generate(second)
    wait_until_over(first)
    wait_until_over(second)
    texts = {text_of(first), text_of(second)}
    assert len(texts) == 2
    assert len(server.saved()) == before + 2


def type_target(tab, name):
    """Type a name into the box of targets, one that it does not list."""
    tab.fill(".st-key-target input", name)
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(1000)


def test_what_a_model_writes_runs_nowhere_and_is_shown_as_text(open_tab):
    tab = open_tab("max_tokens=128&temperature=0")
    type_target(tab, "hostile")
    assert "hostile" not in tab.url  # what is typed in may be somebody's folder
    generate(tab)
    tab.wait_for_selector(".tk", timeout=30_000)
    wait_until_over(tab)
    assert "<script>window.ran=1</script> <img src=x onerror=window.ran=1>" in text_of(tab)
    assert "**b** $x$ :red[y] [a](javascript:alert(1)) \n\n# no heading\n" in text_of(tab)
    for frame in tab.frames:
        assert frame.evaluate("window.ran") is None
    canvas = tab.frame_locator(".st-key-final_tree iframe").locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for step in range(12):
        tab.mouse.move(box["x"] + 40 + step * 55, box["y"] + 60)
        tab.wait_for_timeout(120)
    for frame in tab.frames:
        assert frame.evaluate("window.ran") is None


def test_everything_can_be_reached_with_the_keyboard(open_tab):
    tab = open_tab("max_tokens=64")
    tab.focus(".st-key-generate button:visible")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(RUNNING, timeout=30_000)
    wait_until_over(tab)
    tab.focus(".tk input >> nth=0")
    tab.keyboard.press("ArrowRight")
    focused = "document.activeElement.parentElement"
    assert tab.evaluate(f"{focused}.classList.contains('tk')")
    content = tab.evaluate(f"getComputedStyle({focused}, '::after').content")
    assert "round" in content
    tab.keyboard.press("Tab")
    assert not tab.evaluate(f"{focused}.classList.contains('tk')")


RESAMPLED_PIXELS = """canvas => {
    const {width, height} = canvas, ratio = width / canvas.clientWidth;
    const data = canvas.getContext('2d').getImageData(0, 0, width, height).data, found = [];
    const isAmber = (x, y) => {
        const [r, g, b] = data.slice(4 * (y * width + x));
        return r === 245 && g === 158 && b === 11;
    };
    // Inside a chip: a line of the same colour is thin.
    for (let y = 6; y < Math.min(height - 6, 300 * ratio); y += 3)
        for (let x = 0; x < width; x += 3)
            if ([-5, 0, 5].every(dy => isAmber(x, y + dy))) found.push([x / ratio, y / ratio]);
    return found;
}"""


def test_a_click_on_a_token_tells_its_round_and_a_double_click_opens_nothing(open_tab):
    tab = open_tab("max_tokens=64")
    generate(tab)
    wait_until_over(tab)
    canvas = tab.frame_locator(".st-key-final_tree iframe").locator("canvas")
    canvas.scroll_into_view_if_needed()
    poll(tab, lambda: canvas.evaluate(RESAMPLED_PIXELS))
    left, right = (
        choose(canvas.evaluate(RESAMPLED_PIXELS), key=lambda place: place[0])
        for choose in (min, max)
    )
    box = canvas.bounding_box()
    told = []
    for x, y in (left, right):
        tab.mouse.click(box["x"] + x + 2, box["y"] + y)
        poll(tab, lambda: tab.input_value(".st-key-round input") not in told, 5)
        told.append(tab.input_value(".st-key-round input"))
        tab.wait_for_timeout(1000)
    assert told[0] != told[1]
    tab.mouse.dblclick(box["x"] + right[0] + 2, box["y"] + right[1])
    tab.mouse.dblclick(box["x"] + 3, box["y"] + 3)
    tab.wait_for_timeout(1000)
    assert len(tab.context.pages) == 1


def test_a_race_is_run_and_played_back(open_tab, server):
    before = len(server.saved())
    tab = open_tab("max_tokens=64")
    tab.click(".st-key-race label:visible >> nth=0")
    generate(tab)
    wait_until_over(tab)
    tab.wait_for_selector("text=plain decoding 64 in")
    tab.click(".st-key-play_race button:visible")
    tab.wait_for_selector("text=plain decoding 64 in", state="detached", timeout=20_000)
    tab.wait_for_selector("text=plain decoding 64 in", timeout=60_000)
    assert len(server.saved()) == before + 1


def test_slow_motion_and_replay_show_each_state_of_a_token(open_tab):
    tab = open_tab("max_tokens=64")
    tab.get_by_text("Slow motion").click()
    generate(tab)
    for status in ("pending", "accepted", "resampled"):
        tab.wait_for_selector(f".tk.{status}", timeout=60_000)
    tab.click(".st-key-stop button:visible")
    wait_until_over(tab)
    whole = text_of(tab)
    told = tab.inner_text(".verdict")
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_selector(f".verdict:not(:has-text('{told[:12]}'))", timeout=20_000)
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector(f".verdict:has-text('{told[:12]}')", timeout=20_000)
    tab.click(".st-key-replay button:visible")
    tab.wait_for_selector(RUNNING)
    tab.wait_for_selector(".tk.accepted", timeout=30_000)
    assert len(text_of(tab)) < len(whole)
    tab.click(".st-key-stop button:visible")
    wait_until_over(tab)
    assert text_of(tab) == whole


def test_settings_travel_in_the_url(open_tab):
    tab = open_tab("k=7&temperature=1.2&link=same+city+(10+ms)&draft=ngram")
    assert "7" in tab.inner_text(".st-key-k")
    assert "1.20" in tab.inner_text(".st-key-temperature")
    assert tab.input_value(".st-key-draft input") == "ngram"
    assert tab.input_value(".st-key-link input") == "same city (10 ms)"


def test_presenting_leaves_the_stage_alone_and_the_address_says_so(open_tab):
    tab = open_tab("max_tokens=64&present=1", width=1920, height=1080, scheme="dark")
    sidebar, marks = (
        tab.locator("[data-testid=stSidebar]"),
        tab.locator("[data-testid=stTooltipIcon] svg"),
    )
    assert not sidebar.is_visible()
    generate(tab)
    wait_until_over(tab)
    tab.wait_for_selector(".figure b:visible")
    size = tab.evaluate("getComputedStyle(document.querySelector('.figure b')).fontSize")
    assert float(size[:-2]) >= 48
    buttons = tab.locator("[data-testid=stTooltipIcon]:has([data-testid^=stBaseButton]) svg")
    shown = [mark for mark in marks.all() if mark.is_visible()]
    assert len(shown) == sum(button.is_visible() for button in buttons.all())
    tab.click(".st-key-present label:visible >> nth=0")
    sidebar.wait_for(state="visible")
    poll(tab, lambda: "present" not in tab.url)


def told(tab):
    return tab.inner_text(".verdict")


def next_beat(tab, before):
    tab.keyboard.press("ArrowRight")
    poll(tab, lambda: told(tab) != before)
    return told(tab)


def test_step_by_step_every_beat_of_a_round_is_drawn_in_order_and_none_is_skipped(open_tab):
    tab = open_tab("max_tokens=64&k=3&seed=4")
    tab.get_by_text("Step", exact=True).click()
    generate(tab)
    tab.wait_for_selector("text=the run itself is over", timeout=60_000)
    tab.wait_for_timeout(500)
    beats = [next_beat(tab, told(tab))]
    while len(beats) < 30 and sum("puts" in one or "adds" in one for one in beats) < 2:
        beats.append(next_beat(tab, beats[-1]))
    signs = {"read": "r", "proposes": "d", "go to": "s", "accepted": "+", "rejected by": "-"}
    signs |= {"falls": "f", "puts": "n", "adds": "n"}
    melody = "".join(next(sign for word, sign in signs.items() if word in one) for one in beats)
    assert re.fullmatch(r"r(ddds(\+{3}|\+{0,2}-f)n){2}", melody), beats
    tab.keyboard.press("ArrowLeft")
    poll(tab, lambda: told(tab) == beats[-2])
    tab.keyboard.press("Space")
    tab.wait_for_selector(".st-key-pause button:has-text('Pause')")
    poll(tab, lambda: told(tab) not in beats[-2:])
    tab.keyboard.press("Space")
    tab.wait_for_selector(".st-key-pause button:has-text('Play')")
