"""The site builds without a warning, and shows itself without asking anyone for anything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import graphclone as gc
from graphclone.cli.app import run
from tests.report.browser import chromium
from tools import generated_pages
from tools.readme import README

ROOT = README.parent
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    where = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in (
        "index",
        "tutorials/vision",
        "how-it-works",
        "training",
        "measurements",
        "compatibility",
        "commands",
        "reference",
    ):
        assert (site / f"{page}.html").stat().st_size > 5_000, page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    addresses = {a for page in site.rglob("*.html") for a in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert len(addresses) > 5
    assert [a for a in sorted(addresses) if a.startswith(("http:", "https:", "//"))] == []


def test_the_reference_documents_the_public_names(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    classes = {"Anatomy", "Plan", "Report", "Statistics", "Target", "Model"}
    functions = {
        "clone",
        "from_torch",
        "inspect",
        "load",
        "measure",
        "pack",
        "plan",
        "save",
        "to_torch",
        "train",
        "verify",
    }
    missing = [name for name in sorted(classes | functions) if not re.search(rf'id="graphclone\.[\w.]*\b{name}"', text)]
    assert missing == []
    assert set(gc.__all__) >= classes | functions
    assert "Raises" in text


def test_commands_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = generated_pages.commands()
    assert run(["--help"]) == 0
    shown = re.findall(r"^│ ([a-z]+(?:-[a-z]+)*) ", capsys.readouterr().out, re.MULTILINE)
    assert {"clone", "report", "verify"} <= set(shown)
    assert sorted(shown) == re.findall(r"^## (\S+)$", text, re.MULTILINE)


def test_measurements_are_the_results(site: Path) -> None:
    text = (site / "measurements.html").read_text(encoding="utf-8")
    held = json.loads((generated_pages.RESULTS / "inspect.json").read_text())
    for row in held["commands"]:
        assert f"{row['seconds']:.4g}" in text
        assert f"{row['peak']:,}" in text


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as a web server of this machine shows it."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda self, *said: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_site_opens_in_a_browser_without_a_complaint(site: Path, tmp_path: Path) -> None:
    with served(site) as address, chromium(tmp_path / "profile") as browser:
        for page in ("index.html", "how-it-works.html", "commands.html"):
            browser.open(address + page, width=360)
            assert browser.ask("document.body.innerText.length") > 1000
            assert browser.ask("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
            assert browser.ask("document.documentElement.scrollWidth") <= 360
        assert browser.complaints(address) == []
