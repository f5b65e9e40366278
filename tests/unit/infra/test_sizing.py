"""Sums in the page on sizing come out as it says."""

from __future__ import annotations

import ast
import operator
import re

import pytest

from tests.unit.infra.manifests import ROOT

PAGE = (ROOT / "docs" / "targets" / "sizing.md").read_text(encoding="utf-8")
SUMS = re.findall(r"((?:[\d(][\d,. ()]*[*/+-] ?)+[\d.,)]+(?: / [\d.]+)*) = ([\d,.]*\d)", PAGE)
ACTS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value_of(node: ast.AST) -> float:
    match node:
        case ast.Expression(body=body):
            return value_of(body)
        case ast.BinOp(left=left, op=op, right=right):
            return float(ACTS[type(op)](value_of(left), value_of(right)))
        case ast.Constant(value=float() | int() as value):
            return float(value)
    raise AssertionError(ast.dump(node))


def test_the_page_has_sums() -> None:
    assert len(SUMS) >= 12


def test_the_figure_that_readme_prints_is_the_one_it_prints() -> None:
    (reached,) = re.findall(r"the run that README prints, [^)]* reached ([\d,]+)\)", PAGE)
    assert f"rows/s, {reached} tokens/s\n" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("written", "result"), SUMS, ids=[written for written, _ in SUMS])
def test_a_sum_comes_out_as_written(written: str, result: str) -> None:
    found = value_of(ast.parse(written.replace(",", ""), mode="eval"))
    assert found == pytest.approx(float(result.replace(",", "")), rel=0.02)
