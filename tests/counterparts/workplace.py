"""docs/counterparts.md, run as it stands: a section's files are written and its commands run, each once a session."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "counterparts.md"
_BLOCK = re.compile(r'^```(console|python|json)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass
class Workplace:
    """The folder that commands run in, and what each printed."""

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)

    def section(self, name: str) -> None:
        """All of a section, in order. A command that fails fails the test, with what it said."""
        text = dict(_sections())[name]
        for _, title, body in _BLOCK.findall(text):
            if title:
                (self.folder / title).write_text(body, encoding="utf-8")
        for language, title, body in _BLOCK.findall(text):
            if language == "console":
                for line in body.splitlines():
                    self.run(line.removeprefix("$ "))
            elif language == "python" and not title:
                self._once(body, [sys.executable, "-c", body])

    def run(self, command: str) -> str:
        """What a command prints on standard output."""
        words = shlex.split(command)
        if words[0] in ("graphclone", "olive"):
            words = [sys.executable, "-m", *words]
        elif words[0] == "python":
            words[0] = sys.executable
        return self._once(command, words)

    def refused(self, command: str) -> tuple[int, str]:
        """The exit code of a command and what it says on standard error."""
        done = self._done([sys.executable, "-m", *shlex.split(command)])
        return done.returncode, done.stderr

    def _once(self, key: str, words: list[str]) -> str:
        if key not in self.printed:
            done = self._done(words)
            assert done.returncode == 0, f"{key}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            self.printed[key] = done.stdout
        return self.printed[key]

    def _done(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        known = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "PATH": path}
        where = {**os.environ, **known}
        return subprocess.run(words, capture_output=True, text=True, cwd=self.folder, env=where, check=False)


def _sections() -> list[tuple[str, str]]:
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))
