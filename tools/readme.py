"""Run the commands of README.md, or of a tutorial, and write what they print under them.

    python -m tools.readme FOLDER [PAGE]     run in FOLDER (it may hold smollm2.onnx already), rewrite README.md or PAGE

A console block holds lines ``$ command``, each followed by what it prints on standard output. A block with
``title="NAME"`` is a file of that name.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(r"^```(console|bash|python|yaml)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command (or a piece of Python) with the output that README shows; a file where it has a name."""

    language: str
    command: str
    output: str
    file: str | None = None


def steps(text: str) -> list[Step]:
    """In order. A bash block is one step a line, without output; a python block is one step."""
    found = []
    for language, title, body in _BLOCK.findall(text):
        if title:
            found.append(Step("file", body, "", title))
        elif language == "console":
            found += [_console(part) for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]]
        elif language == "bash":
            found += [Step("bash", line.split("  #")[0].strip(), "") for line in body.splitlines() if line.strip()]
        elif language == "python":
            found.append(Step("python", body, ""))
    return found


def _console(part: str) -> Step:
    command, _, output = part.partition("\n")
    return Step("console", command.strip(), output)


def refreshed(text: str, run: Callable[[str], str]) -> str:
    """The text with each console command's output as ``run`` gives it; pieces of Python are run in between."""

    def block(match: re.Match[str]) -> str:
        if match[1] == "python" and not match[2]:
            run(f"python -c {shlex.quote(match[3])}")
        if match[1] != "console" or match[2]:
            return match[0]
        shown = [f"$ {step.command}\n{run(step.command)}" for step in steps(match[0])]
        return f"```console\n{''.join(shown)}```"

    return _BLOCK.sub(block, text)


def in_folder(folder: Path) -> Callable[[str], str]:
    """Runs a command in a folder and returns its standard output, without the padding of tables."""

    def run(command: str) -> str:
        built = re.match(r"python -m models .*-o (\S+)$", command)
        if built and (folder / built[1]).exists():
            return ""
        print(f"$ {command}", file=sys.stderr)
        done = subprocess.run(command, shell=True, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S602
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    return run


def write_files(text: str, folder: Path) -> None:
    """The files that a page shows, into a folder."""
    for step in steps(text):
        if step.file:
            (folder / step.file).write_text(step.command, encoding="utf-8")


if __name__ == "__main__":
    page = Path(sys.argv[2]) if len(sys.argv) > 2 else README
    write_files(page.read_text(), Path(sys.argv[1]))
    page.write_text(refreshed(page.read_text(), in_folder(Path(sys.argv[1]))))
