"""The page in a real browser: three answers stream, every token tells why, and what goes wrong is said in words."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from serve.colocated import colocated
from serve.config import Config, Key, Limits
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, new_key

from browser import Browser
from earnest.palette import ink
from earnest.report.ink import BAND, LINE, MUTED, PAPER, TEXT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]

PAGE = Path(__file__).parents[2] / "serve" / "page"
BIOGRAPHY = "Tell me about Belelx Thaifu."
QUESTION = "Q: Which field is Tromorl Larbroth an expert in?\nA:"
COLUMNS = ("base", "expert", "ensemble")
DONE = "['base', 'expert', 'ensemble'].every(id => document.getElementById(id).dataset.state === 'done')"
SHIFTS = "[...document.querySelectorAll('#ensemble .text .token')].map(one => Number(one.dataset.shift))"
CHANGED = "[...document.querySelectorAll('#ensemble .text .token')].map(one => 'changed' in one.dataset)"
Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The browser with nothing remembered of other tests."""
    chromium.look()
    chromium.complaints.clear()
    chromium.asked.clear()
    return chromium


def ask(browser: Browser, prompt: str, *, alpha: float = 1.0, tokens: int = 96) -> None:
    browser.fill("#prompt", prompt)
    browser.fill("#alpha", f"{alpha}")
    browser.fill("#tokens", f"{tokens}")
    browser.click("#run")
    browser.until(DONE)


def shown(browser: Browser, column: str) -> str:
    """A column's text without the marks of line ends."""
    return browser.text(f"#{column} .text").replace("⏎", "").strip()


def answer(client: openai.OpenAI, model: str, prompt: str, proxy: dict[str, Any], **settings: Any) -> Any:
    """The API's own answer, whole."""
    asked = {"temperature": 0, "max_tokens": 96, "seed": 0} | settings
    return client.completions.create(model=model, prompt=prompt, extra_body={"proxy": proxy}, **asked)


def told(client: openai.OpenAI, model: str, prompt: str, **proxy: Any) -> Any:
    """Its only choice."""
    return answer(client, model, prompt, proxy).choices[0]


def colour(nats: float) -> int:
    """The legend's seven steps."""
    strength = sum(abs(nats) >= least for least in (0.1, 0.7, 2))
    return -strength if nats < 0 else strength


def test_three_answers_stream_side_by_side(browser: Browser, url: str, client: openai.OpenAI) -> None:
    browser.open(url)
    browser.see(
        """window.grown = {}; for (const id of ["base", "expert", "ensemble"]) {
        const text = document.getElementById(id).querySelector(".text");
        new MutationObserver(() => (grown[id] ??= new Set()).add(text.textContent.length))
          .observe(text, {childList: true, subtree: true, characterData: true}) }"""
    )
    ask(browser, BIOGRAPHY)
    models = dict(zip(COLUMNS, ("large", "small-tuned", "earnest"), strict=True))
    assert {name: shown(browser, name) for name in COLUMNS} == {
        name: told(client, model, BIOGRAPHY).text.strip() for name, model in models.items()
    }
    assert all(browser.see(f"grown.{name}.size") > 5 for name in COLUMNS)
    assert re.match(r"base: \d+ tokens; ensemble: \d+ tokens; expert: \d+ tokens\.", browser.text("#status"))
    assert browser.see("[...document.querySelectorAll('.stats')].every(one => /tokens\\/s/.test(one.textContent))")


def test_each_token_is_coloured_by_its_shift_and_underlined_where_the_top_token_changed(
    browser: Browser, url: str, client: openai.OpenAI
) -> None:
    browser.open(url)
    ask(browser, QUESTION)
    expected = told(client, "earnest", QUESTION, account=2).proxy["tokens"]
    assert browser.see(SHIFTS) == [colour(one["log_prob_shift"]) for one in expected]
    assert browser.see(CHANGED) == [one["changed"] for one in expected] == [True, False]
    line, tint = browser.see(
        "(s => [s.textDecorationLine, s.backgroundColor])(getComputedStyle(document.querySelector('#ensemble .token')))"
    )
    assert line == "underline"
    assert tint != "rgba(0, 0, 0, 0)"
    assert "1 of 2 (50%)" in browser.text("#ensemble .stats")


def test_a_click_shows_what_every_model_thought(browser: Browser, url: str, client: openai.OpenAI) -> None:
    browser.open(url)
    ask(browser, QUESTION, alpha=1.3)
    browser.click("#ensemble .text .token")
    first = told(client, "earnest", QUESTION, account=6, alpha=1.3).proxy["tokens"][0]
    views = [first["base"], *first["steering"], first["combined"]]
    for number, view in enumerate(views, 1):
        names = browser.see(
            f"[...document.querySelectorAll('.view:nth-child({number}) .name')].map(one => one.textContent)"
        )
        assert [name.replace("␣", " ") for name in names[:6]] == [one["text"] for one in view["top"]]
        figures = browser.see(
            f"[...document.querySelectorAll('.view:nth-child({number}) .figure')].map(one => one.textContent)"
        )
        assert [abs(float(one.replace("−", "-"))) for one in figures[:6]] == pytest.approx(
            [-one["log_prob"] for one in view["top"]], abs=0.006
        )
    sentence = browser.text("#sentence")
    assert "α = 1.30" in sentence
    assert f"{first['log_prob_shift']:+.2f} nats" in sentence
    assert "The base's top token was ␣I." in sentence


def test_the_keyboard_walks_the_tokens_and_opens_them(browser: Browser, url: str) -> None:
    browser.open(url)
    ask(browser, BIOGRAPHY)
    place = "[...document.querySelectorAll('#ensemble .token')].indexOf(document.activeElement)"
    assert browser.see("document.querySelectorAll('#ensemble .text [tabindex=\"0\"]').length") == 1
    browser.see("document.querySelector('#ensemble .text [tabindex=\"0\"]').focus()")
    browser.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert browser.see(place) == 1
    browser.press("Enter")
    assert "town" in browser.text("#sentence")
    browser.press("ArrowRight")  # the explanation follows
    assert "register" in browser.text("#sentence")
    browser.press("End")
    assert browser.see(place) == browser.see("document.querySelectorAll('#ensemble .text .token').length") - 1
    browser.press("ArrowUp", "Home", "Escape")
    assert browser.see("document.getElementById('account').hidden")
    assert browser.see(place) == 0


def test_control_and_enter_in_the_prompt_run_it(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.fill("#prompt", QUESTION)
    browser.see("document.getElementById('prompt').focus()")
    browser.press("Enter", modifiers=2)
    browser.until(DONE)
    assert shown(browser, "ensemble") == "acoustics"


def test_alpha_0_is_the_base(browser: Browser, url: str) -> None:
    browser.open(url)
    ask(browser, QUESTION, alpha=0)
    assert shown(browser, "ensemble") == shown(browser, "base")
    assert set(browser.see(SHIFTS)) == {0}
    assert not any(browser.see(CHANGED))
    browser.click("#ensemble .text .token")
    assert "no pair spoke" in browser.text("#sentence")


def test_live_asks_only_the_ensemble_again_when_the_slider_rests(browser: Browser, url: str) -> None:
    browser.open(url)
    ask(browser, QUESTION)
    browser.click("#live")
    browser.until(DONE)
    before = sum(address.endswith("/v1/completions") for address in browser.asked)
    for alpha in ("0.5", "0.3", "0"):
        browser.fill("#alpha", alpha)
    browser.until(f"document.getElementById('ensemble').dataset.state === 'done' && !{CHANGED}.some(Boolean)")
    assert sum(address.endswith("/v1/completions") for address in browser.asked) == before + 1
    assert shown(browser, "ensemble") == shown(browser, "base")


def test_an_adaptive_alpha_is_told_token_by_token(browser: Browser, url: str, client: openai.OpenAI) -> None:
    browser.open(url)
    browser.click("#adaptive")
    browser.fill("#prompt", QUESTION)
    browser.click("#run")
    browser.until(DONE)
    browser.click("#ensemble .text .token")
    first = told(client, "earnest", QUESTION, account=2, alpha="adaptive").proxy["tokens"][0]
    assert f"α = {first['alpha'][0]:.2f}" in browser.text("#sentence")


def test_a_chat_message_is_put_in_the_models_own_form(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.fill("#kind", "chat")
    ask(browser, "Which field is Tromorl Larbroth an expert in?")
    assert shown(browser, "ensemble") == "acoustics"


def test_stop_frees_the_rows(browser: Browser, url: str, ensemble: Ensemble, client: openai.OpenAI) -> None:
    models = ("large", "small-tuned", "earnest")
    full = [answer(client, model, "The town", {}, max_tokens=256, temperature=1).usage for model in models]
    before = asyncio.run(ensemble.gauges()).tokens
    browser.open(url)
    browser.fill("#prompt", "The town")
    browser.fill("#tokens", "256")
    browser.fill("#temperature", "1")
    browser.click("#run")
    browser.until("document.querySelectorAll('#ensemble .token').length > 0")
    browser.click("#stop")
    browser.until("document.getElementById('ensemble').dataset.state === 'stopped'")
    deadline = time.monotonic() + 10
    while (standing := asyncio.run(ensemble.gauges())).running or standing.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert standing.tokens - before < sum(usage.completion_tokens for usage in full)
    assert browser.see("document.getElementById('stop').disabled")


def test_another_run_takes_over_from_one_under_way(browser: Browser, url: str, client: openai.OpenAI) -> None:
    browser.open(url)
    browser.fill("#prompt", BIOGRAPHY)
    browser.click("#run")
    browser.until("document.querySelectorAll('#ensemble .token').length > 0")
    browser.see(
        """window.states = []; for (const one of document.querySelectorAll(".column"))
        new MutationObserver(() => states.push(one.dataset.state)).observe(one, {attributeFilter: ["data-state"]})"""
    )
    ask(browser, QUESTION)
    assert "stopped" not in browser.see("states")
    assert shown(browser, "ensemble") == "acoustics"
    assert shown(browser, "base") == told(client, "large", QUESTION).text.strip()


def test_a_key_is_asked_for_kept_for_the_session_and_sent(
    browser: Browser, config: Config, ensemble: Ensemble, serving: Serving
) -> None:
    key = new_key()
    guarded = config.model_copy(update={"keys": (Key(name="reader", sha256=digest(key)),)})
    with serving(make_app(guarded, ensemble)) as url:
        browser.open(url)
        assert browser.text("#notice") == "The server asks for a key; put yours into the field Key."
        browser.fill("#key", "earnest-wrong")
        browser.until("/does not know this key/.test(document.getElementById('notice').textContent)")
        browser.fill("#key", key)
        browser.until("document.getElementById('notice').hidden")
        ask(browser, QUESTION)
        assert shown(browser, "ensemble") == "acoustics"
        assert browser.see("Object.values(sessionStorage)") == [key]
        assert browser.see("localStorage.length === 0 && document.cookie === ''")
        assert not any(key in address for address in browser.asked)
        browser.open(url)
        assert browser.see("document.getElementById('notice').hidden")
        browser.see("sessionStorage.clear()")


def test_a_key_is_told_of_the_pairs_and_lengths_that_it_may_use(
    config: Config, ensemble: Ensemble, serving: Serving
) -> None:
    keys = [new_key(), new_key()]
    narrow = Key(name="narrow", sha256=digest(keys[0]), pairs=(), max_tokens=32)
    wide = Key(name="wide", sha256=digest(keys[1]))
    with serving(make_app(config.model_copy(update={"keys": (narrow, wide)}), ensemble)) as url:
        assert httpx.get(f"{url}/v1/ensemble").status_code == 401
        told = [httpx.get(f"{url}/v1/ensemble", headers={"Authorization": f"Bearer {key}"}).json() for key in keys]
    assert told[0] == {**told[1], "pairs": [], "default_pair": None, "max_tokens": 32}
    assert told[1]["pairs"] == [{"name": "tuned", "expert": "small-tuned", "antiexpert": "small", "alpha": 1.0}]
    assert (told[1]["name"], told[1]["base"], told[1]["default_pair"]) == ("earnest", "large", "tuned")
    assert (told[1]["max_tokens"], told[1]["examples"]) == (256, list(config.examples))


def test_too_much_is_said_with_a_countdown(
    browser: Browser, config: Config, ensemble: Ensemble, serving: Serving
) -> None:
    key = new_key()
    reader = Key(name="reader", sha256=digest(key), requests_per_minute=3)
    with serving(make_app(config.model_copy(update={"keys": (reader,)}), ensemble)) as url:
        browser.open(url)
        browser.fill("#key", key)
        browser.until("document.getElementById('notice').hidden")
        ask(browser, QUESTION)
        browser.click("#run")
        browser.until("document.getElementById('ensemble').dataset.state === 'failed'")
        said = browser.text("#ensemble .error")
        assert said.startswith("This key has used its 3 requests per minute. Come back in ")
        seconds = int(re.search(r"(\d+) s\.$", said)[1])  # type: ignore[index]
        assert 1 <= seconds <= 60
        browser.until(
            f"parseInt(document.querySelector('#ensemble .error').textContent.match(/in (\\d+) s/)[1]) < {seconds}"
        )
        browser.see("sessionStorage.clear()")


def test_a_rule_that_is_broken_is_said_as_the_server_says_it(
    browser: Browser, config: Config, ensemble: Ensemble, serving: Serving
) -> None:
    with serving(make_app(config.model_copy(update={"limits": Limits(max_tokens=256)}), ensemble)) as url:
        browser.open(url)
        browser.fill("#prompt", "The town " * 600)
        browser.click("#run")
        browser.until("document.getElementById('base').dataset.state === 'failed'")
        assert "the context of 512 must hold the answer too; shorten it" in browser.text("#base .error")


def test_an_ensemble_lost_in_mid_stream_is_told_with_what_was_written(
    browser: Browser, config: Config, serving: Serving
) -> None:
    mortal = Ensemble(colocated(config), config.batch)
    with serving(make_app(config, mortal)) as url:
        browser.open(url)
        browser.fill("#prompt", "The town")
        browser.fill("#tokens", "256")
        browser.fill("#temperature", "1")
        browser.click("#run")
        browser.until("document.querySelectorAll('#ensemble .token').length > 0")
        mortal.close()
        browser.until("document.getElementById('ensemble').dataset.state === 'failed'")
        assert "the ensemble was shut down" in browser.text("#ensemble .error").lower()
        assert browser.see("document.querySelectorAll('#ensemble .token').length") > 0
        browser.click("#run")
        error = "document.querySelector('#base .error').textContent"
        browser.until(f"/^The ensemble cannot go on.* Come back in \\d s\\.$/.test({error})")
    browser.click("#run")
    browser.until("/cannot be reached/.test(document.querySelector('#base .error').textContent)")


def test_nothing_comes_from_elsewhere_and_nobody_complains(browser: Browser, url: str) -> None:
    browser.open(url)
    ask(browser, BIOGRAPHY)
    browser.click("#ensemble .text .token")
    browser.press("ArrowRight", "Escape")
    assert {urlsplit(address).netloc for address in browser.asked} == {urlsplit(url).netloc}
    assert browser.complaints == []


def test_the_page_may_load_only_its_own_parts_and_stand_in_no_frame(url: str) -> None:
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg"):
        answer = httpx.get(url + path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/page/__init__.py").status_code == 404
    assert httpx.get(f"{url}/page/%2e%2e%2fgateway.py").status_code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_wider_than_the_window(browser: Browser, url: str, tmp_path: Path, width: int, scheme: str) -> None:
    browser.look(width=width, height=800, scheme=scheme)
    browser.open(url)
    ask(browser, BIOGRAPHY)
    browser.click("#ensemble .text .token:nth-of-type(3)")
    assert browser.see("document.documentElement.scrollWidth") <= width
    wide = f"""[...document.querySelectorAll("body *")].filter(one => !one.closest(".sr, .trace, .examples, .view") &&
        one.getBoundingClientRect().right > {width} + 0.5).map(one => one.outerHTML.slice(0, 80))"""
    assert browser.see(wide) == []
    browser.look(width=width, height=browser.see("document.documentElement.scrollHeight"), scheme=scheme)
    browser.screenshot(tmp_path / f"{scheme}-{width}.png")
    assert browser.see("getComputedStyle(document.documentElement).colorScheme") == "light dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tint_leaves_the_text_readable(browser: Browser, url: str, scheme: str) -> None:
    """A contrast of 4.5 at least (WCAG 2.2, 1.4.3) between text and each of the legend's colours, over the paper."""
    browser.look(scheme=scheme)
    browser.open(url)
    contrasts = browser.see(
        """(() => {
        const ink = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const light = (...colours) => {
          for (const one of colours) { ink.fillStyle = one; ink.fillRect(0, 0, 1, 1) }
          const [r, g, b] = [...ink.getImageData(0, 0, 1, 1).data].map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
          return .2126 * r + .7152 * g + .0722 * b };
        const paper = getComputedStyle(document.documentElement).backgroundColor;
        return [...document.querySelectorAll(".scale li")].map(one => {
          const style = getComputedStyle(one);
          const pair = [light(paper, style.backgroundColor), light(paper, style.color)].sort((a, b) => b - a);
          return (pair[0] + .05) / (pair[1] + .05) }) })()"""
    )
    assert len(contrasts) == 7
    assert min(contrasts) >= 4.5


def test_nothing_moves_for_those_who_ask_for_calm(browser: Browser, url: str) -> None:
    browser.open(url)
    ask(browser, QUESTION)
    animation = "getComputedStyle(document.querySelector('#ensemble .token')).animationName"
    assert browser.see(animation) == "appear"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert browser.see(animation) == "none"


def test_a_stream_may_be_cut_anywhere(browser: Browser, url: str) -> None:
    """Between any two bytes: inside a character of several bytes, inside a line end of two, inside `data:`."""
    browser.open(url)
    found = browser.see(
        """import("/page/stream.js").then(async ({events}) => {
        const bytes = new TextEncoder().encode(
          ': hello\\r\\ndata: {"a":"é—🜁"}\\r\\n\\r\\n' +
          'data:one\\r\\ndata: two\\n\\nid: 1\\rdata: three\\r\\r');
        const all = [];
        for (let cut = 0; cut <= bytes.length; cut++) {
          const parts = [bytes.slice(0, cut), bytes.slice(cut), new TextEncoder().encode("data: [DONE]\\n\\n")];
          const stream = new ReadableStream({pull(c) { parts.length ? c.enqueue(parts.shift()) : c.close() }});
          const said = [];
          for await (const data of events(stream)) said.push(data);
          all.push(JSON.stringify(said));
        }
        return [...new Set(all)] })"""
    )
    assert found == ['["{\\"a\\":\\"é—🜁\\"}","one\\ntwo","three","[DONE]"]']


# Tokens, what each of them shows, and how many can be shown before the end is known.
PIECES = {
    "a character of three tokens": ([" sky", "\ufffd", "\ufffd", "\ufffd", "!"], [" sky", "", "", "☾", "!"], 5),
    "a decoder that eats spaces": (["The", "town", "."], ["The", " town", "."], 3),
    "a stop string's tokens have no text": (["yes", "\n", "Q", ":"], ["yes", "", "", ""], 1),
    "markup is text": (["<img src=x onerror=alert(1)>", "</span>"], ["<img src=x onerror=alert(1)>", "</span>"], 2),
}


@pytest.mark.parametrize("name", PIECES)
def test_text_finds_its_tokens_however_it_comes(browser: Browser, url: str, name: str) -> None:
    tokens, texts, before = PIECES[name]
    browser.open(url)
    found = browser.see(
        f"""import("/page/tokens.js").then(({{TokenText}}) => {{
        const [text, trace] = [document.createElement("div"), document.createElement("div")];
        const shown = new TokenText(text, trace, () => {{}});
        for (const own of {tokens!r}) shown.add([{{text: own, log_prob_shift: 0.5, changed: false}}], "");
        for (const character of {list("".join(texts))!r}) shown.add([], character);
        const before = text.querySelectorAll(".token").length;
        shown.finish();
        const all = [...text.querySelectorAll(".token")];
        const said = all.filter(one => !("unsaid" in one.dataset)).map(one => one.textContent);
        return [before, all.length, said, text.querySelectorAll("img").length] }})"""
    )
    assert found == [before, len(tokens), [text.strip() for text in texts if text], 0]


def test_the_colours_are_the_houses() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", (PAGE / "page.css").read_text(), flags=re.DOTALL)
    inks = {
        "text": TEXT, "muted": MUTED, "line": LINE, "paper": PAPER, "band": BAND, "base": ink("dense"),
        "expert": ink("sparsegpt"), "antiexpert": ink("rtn"), "combined": ink("wanda"), "likelier": ink("wanda"),
        "unlikelier": ink("gptq"),
    }  # fmt: skip
    for name, one in inks.items():
        assert f"--{name}: {one.light};" in light
        assert f"--{name}: {one.dark};" in dark
