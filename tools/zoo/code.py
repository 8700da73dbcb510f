"""Which version of the code a verdict was made with."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("graphclone", "tools/zoo")


@dataclass(frozen=True)
class Code:
    """The commit, with a + where files differ from it, and a digest of what judges and is judged."""

    commit: str
    digest: str

    @classmethod
    def here(cls) -> Code:
        """The code of this checkout as it is now."""
        digest = hashlib.sha256()
        for file in sorted(f for folder in SOURCES for f in (ROOT / folder).rglob("*.py")):
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
        commit = _git("rev-parse", "--short=7", "HEAD") or "no commit"
        return cls(commit + ("+" if _git("status", "--porcelain", "--", *SOURCES) else ""), digest.hexdigest()[:12])


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
