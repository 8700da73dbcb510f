"""The budget is kept, and what breaks it is found."""

from __future__ import annotations

from tools import line_budget


def test_a_long_file_and_a_long_function_are_each_named(tmp_path, capsys):
    body = "\n".join(f"    x{i} = {i}" for i in range(59))
    (tmp_path / "function.py").write_text(f"import functools\n\n@functools.cache\ndef wide():\n{body}\n")
    (tmp_path / "file.py").write_text("pass\n" * 300)
    (tmp_path / "fine.py").write_text("pass\n" * 299)
    assert line_budget.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "file.py: 300 lines" in said[0]
    assert "function.py:3: wide has 61 lines" in said[1]


def test_an_empty_folder_is_not_a_pass(tmp_path):
    assert line_budget.main([str(tmp_path)]) == 2


def test_what_fits_passes(tmp_path):
    body = "\n".join(f"    x{i} = {i}" for i in range(58))
    (tmp_path / "fine.py").write_text(f"def just():\n{body}\n")
    assert line_budget.main([str(tmp_path)]) == 0
