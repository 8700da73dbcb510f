"""Hold every Python file under 300 lines and every function under 60, the budget that keeps a room readable.

    python tools/line_budget.py [FOLDER ...]

Prints what is over budget, one line each, and exits with 1; a summary and 0 otherwise.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 60
FOLDERS = ("benchmarks", "graphclone", "models", "tools", "tests")


def functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Name, first line and number of lines of every function, decorators and docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, first, (node.end_lineno or first) - first + 1


def over_budget(file: Path) -> Iterator[str]:
    """One line for each thing in a file that is too long."""
    source = file.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    if lines >= FILE_LINES:
        yield f"{file}: {lines} lines, the budget ends below {FILE_LINES}"
    for name, first, length in functions(ast.parse(source, str(file))):
        if length >= FUNCTION_LINES:
            yield f"{file}:{first}: {name} has {length} lines, the budget ends below {FUNCTION_LINES}"


def main(folders: list[str]) -> int:
    """Exit code: 0 within budget, 1 over it, 2 where nothing was found to measure."""
    files = sorted(file for folder in folders or FOLDERS for file in Path(folder).rglob("*.py"))
    if not files:
        print(f"no Python files under {', '.join(folders or FOLDERS)}", file=sys.stderr)
        return 2
    found = [line for file in files for line in over_budget(file)]
    print("\n".join(found) if found else f"line budget: {len(files)} files within it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
