"""The page in a real browser: clicked through, on a phone, in the dark, without a word on the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphclone.report.facts import Facts
from graphclone.report.page import write
from graphclone.report.story import Given, tell
from tests.report.browser import Browser
from tests.report.conftest import Made

DRAWN = "document.documentElement.dataset.drawn"
PHONE = 360
READABLE = 4.5  # WCAG 2.2, 1.4.3: contrast of text
PLACES = """[...document.querySelectorAll('.chart')].filter(place => place.offsetWidth > 0).map(place => {
  const drawn = place.querySelector('svg, canvas');
  return drawn ? drawn.getBoundingClientRect().height : 0;
})"""
WIDE = """[...document.querySelectorAll('main *')]
  .filter(e => e.offsetWidth > 0 && !e.closest('table.wide thead') && e.getBoundingClientRect().right > %d + 0.5)
  .map(e => e.outerHTML.slice(0, 90))"""
CONTRASTS = """(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(', 0)') && colour !== 'transparent') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const text = 'h1,h2,h3,p,td,th,small,summary,button,a,pre,code,.box,.way,.what,.figure';
  const seen = [...document.querySelectorAll(text)]
    .filter(e => e.offsetWidth > 0 && e.innerText.trim());
  return seen.map(e => {
    const two = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
    return [(two[0] + 0.05) / (two[1] + 0.05), e.tagName + ' ' + e.className + ' ' + e.innerText.slice(0, 40)];
  });
})()"""


def through(browser: Browser) -> dict[str, int]:
    """Click whatever can be clicked, and see that every chart is drawn."""
    clicked = {}
    for selector in ("details > summary", "[role=tab]", "nav.contents a", "button.copy", "button.theme"):
        clicked[selector] = browser.click_all(selector)
        browser.until(f"{PLACES}.every(height => height > 20)")
    return clicked


def test_a_person_clicks_through_it_and_nothing_complains(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.until(f"{DRAWN} === 'light'")
    clicked = through(browser)
    assert clicked["[role=tab]"] >= 2
    assert clicked["nav.contents a"] == 7
    assert all(clicked.values()), clicked
    assert len(browser.ask(PLACES)) >= 6
    assert browser.complaints() == []


def test_a_family_and_a_parent_alone_open_too(browser: Browser, family: Facts, made: Made, tmp_path: Path) -> None:
    shown: list[str] = []
    for facts in (family, tell(Given(made.parent))):
        write(facts, tmp_path / "one.html")
        browser.open(tmp_path / "one.html")
        browser.until(f"{DRAWN} === 'light'")
        assert through(browser)["[role=tab]"] >= 2
        assert browser.complaints() == []
        if facts is family:
            shown.append(browser.ask("document.body.innerText"))
    assert "third" in shown[0]
    assert "hidden 7 is not a multiple of 4" in shown[0]


def _written(facts: Facts, path: Path) -> Path:
    write(facts, path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: Browser, family: Facts, tmp_path: Path, scheme: str
) -> None:
    browser.open(_written(family, tmp_path / "page.html"), width=PHONE, scheme=scheme)
    browser.until(f"{DRAWN} === '{scheme}'")
    through(browser)
    assert browser.ask("document.documentElement.scrollWidth") <= PHONE
    wide = browser.ask(WIDE % PHONE)
    assert wide == []
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    browser.until(f"{DRAWN} === '{scheme}'")
    browser.click_all("details > summary")
    found = browser.ask(CONTRASTS)
    assert len(found) > 100
    assert [(round(ratio, 2), what) for ratio, what in found if ratio < READABLE] == []
    light = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(251, 250, 247)") == (scheme == "light")


def test_the_theme_follows_the_system_until_the_reader_chooses(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.until(f"{DRAWN} === 'light'")
    before = browser.ask("document.querySelector('.chart path[fill^=\"#\"]').getAttribute('fill')")
    browser.prefer("dark")
    browser.until(f"{DRAWN} === 'dark'")
    after = browser.ask("document.querySelector('.chart path[fill^=\"#\"]').getAttribute('fill')")
    assert before != after
    browser.click_all("button.theme")
    browser.until(f"{DRAWN} === 'light'")
    assert browser.complaints() == []


def test_what_is_dropped_is_hatched_and_arms_differ_without_colour(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.until(f"{DRAWN} === 'light'")
    kept = "document.querySelector('#kept')"
    assert browser.ask(f"{kept}.querySelectorAll('path[fill=\"url(#hatch)\"]').length") > 2
    dashes = browser.ask(
        "[...document.querySelectorAll('#training .mark-line path')].map(e => e.getAttribute('stroke-dasharray') || '')"
    )
    assert len(set(dashes) - {""}) >= 1
    shapes = browser.ask(
        "[...document.querySelectorAll('#training .mark-symbol.role-mark path')].map(e => e.getAttribute('d'))"
    )
    assert len(set(shapes)) >= 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("<script>console.error('a word')</script>", "a word"),
        ("<script>nowhere()</script>", "ReferenceError"),
        ("<img src='http://127.0.0.1:9/a.png'>", "request: http://127.0.0.1:9/a.png"),
    ],
)
def test_complaints_are_heard(browser: Browser, tmp_path: Path, fault: str, said: str) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(f"<!doctype html><link rel='icon' href='data:,'><p>text</p>{fault}")
    browser.open(page)
    assert said in " ".join(browser.complaints())
