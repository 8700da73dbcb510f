"""Pages of the site that are made from the code and from results, so that they cannot say something else.

mkdocs calls ``on_config`` and ``on_files`` (mkdocs.org/dev-guide/plugins); nothing is written into docs/.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MOST_COLUMNS = 9  # of a table: more become a table of their own rows
DIGITS = 4
INTRODUCTION = (
    "These tables are what the programs under `benchmarks/` wrote, number by number. Each says what it compares "
    "and what must hold; every one of them runs on your machine too."
)


def on_config(config: Any) -> Any:
    """Pages of docs/ that the navigation does not name stand at the end of its section ``How it works``."""
    named = json.dumps(config.nav)
    section = next(part["How it works"] for part in config.nav if "How it works" in part)
    others = (file.name for file in sorted((ROOT / "docs").glob("*.md")) if f'"{file.name}"' not in named)
    section.extend(others)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {
        "measurements.md": measurements(),
        "commands.md": commands(),
        "changelog.md": changelog(),
        "decisions.md": decisions(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def changelog() -> str:
    """CHANGELOG.md."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def decisions() -> str:
    """A link to each of docs/decisions, by its heading."""
    lines = ["# Decisions", "", "Where the way was not obvious: what was found, what was decided, and why.", ""]
    for file in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        head = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{head}](decisions/{file.name})")
    return "\n".join(lines) + "\n"


def measurements() -> str:
    """A section a file of results: what was measured, by which command, and the numbers as they were written."""
    parts = [f"# Measurements\n\n{INTRODUCTION}\n"]
    for file in sorted(RESULTS.glob("*.json")):
        name = file.stem.partition("-")[0]
        parts.append(f"## {file.stem.replace('_', ' ').replace('-', ', ')}\n\n{_said(name)}\n")
        parts.extend(_tables(json.loads(file.read_text(encoding="utf-8")), ""))
    return "\n".join(parts)


def _said(name: str) -> str:
    """The docstring of the program."""
    for file in (ROOT / "benchmarks" / f"{name}.py", ROOT / "benchmarks" / name / "__init__.py"):
        if file.is_file():
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            return f"{text}\n\n`python -m benchmarks.{name}`"
    return ""


def _tables(held: Any, title: str) -> Iterator[str]:
    """Plain values as tables: lists of alike rows, and names with numbers."""
    head = f"### {title}\n\n" if title else ""
    if isinstance(held, list) and held and all(isinstance(row, Mapping) for row in held):
        rows = [dict(_flat(row)) for row in held]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if len(columns) <= MOST_COLUMNS:
            yield head + _table(columns, [[row.get(key, "") for key in columns] for row in rows])
            return
        yield head + _table(
            ["", *map(str, range(1, len(rows) + 1))], [[k, *(r.get(k, "") for r in rows)] for k in columns]
        )
        return
    if not isinstance(held, Mapping):
        yield head + _cell(held) + "\n"
        return
    plain = {key: value for key, value in held.items() if not _large(value)}
    if plain:
        yield head + _table(["", "value"], [[key, value] for key, value in _flat(plain)])
    for key, value in held.items():
        if _large(value):
            yield from _tables(value, f"{title}, {key}" if title else str(key).replace("_", " "))


def _large(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))


def _flat(held: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in held.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, value


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    """A value for people.

    >>> _cell(0.123456), _cell(1234567), _cell(True), _cell([1, 2]), _cell(None)
    ('0.1235', '1,234,567', 'yes', '1, 2', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}" if abs(value) < 10**DIGITS else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return " ".join(str(value).split()).replace("|", "\\|")


def commands() -> str:
    """Every command with its options, as the command line declares them."""
    import typer

    from graphclone.cli import app as application

    with redirect_stdout(io.StringIO()):
        application.run(["--version"])  # registers the commands
    group: Any = typer.main.get_command(application.app)
    parts = [f"# Commands\n\n{group.help}\n\n{_escaped(group.epilog or '')}\n"]
    parts += [_command(name, group.commands[name]) for name in sorted(group.commands)]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["graphclone", name, *(_metavar(p) for p in arguments), "[OPTIONS]"])
    examples = "\n".join(line.strip() for line in (command.epilog or "").split("\n\n")[1:])
    rows = [[f"`{_metavar(p)}`", _escaped(p.help or "")] for p in arguments]
    rows += [[f"`{', '.join(p.opts)}{'' if p.is_flag else ' ' + _metavar(p)}`", _described(p)] for p in options]
    table = _table(["", ""], rows)
    return (
        f"## {name}\n\n{_escaped(command.help or '')}\n\n```text\n{usage}\n```\n\n{table}\n```text\n{examples}\n```\n"
    )


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _described(option: Any) -> str:
    default = option.default
    shown = option.show_default and default not in (None, False, ()) and not callable(default)
    return _escaped(option.help or "") + (f" Default: `{default}`." if shown else "")


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
