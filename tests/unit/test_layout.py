"""The house rules that can be counted: few files at the top, and none or no function too long to read."""

import ast
from pathlib import Path

import uedpo

PACKAGE = Path(uedpo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_top_holds_commands_and_common_words():
    assert len(list(PACKAGE.glob("*.py"))) <= 14


def test_no_file_is_longer_than_400_lines_and_no_function_than_60():
    assert len(FILES) > 200
    long = {file.name: n for file in FILES if (n := len(file.read_text().splitlines())) > 400}
    assert long == {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = {
        f"{file.name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, kinds)
    }
    assert {name: n for name, n in functions.items() if n > 60} == {}
