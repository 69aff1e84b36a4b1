"""Arithmetic expressions, as the demo agent's calculator reads and writes them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST = 1e15


def value(expression: str) -> float:
    """Return an expression's value.

    Raises:
        ValueError: it is no arithmetic expression, or has no value.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f"cannot read {expression!r}") from None
    return _value(tree.body)


def shown(number: float) -> str:
    """Write a number with at most 10 significant digits, integers without a fraction."""
    return str(int(number)) if number == int(number) else f"{number:.10g}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _applied(operation, _value(left), _value(right))
        case _:
            raise ValueError("only numbers, + - * / ** % and parentheses")


def _applied(operation: ast.operator, left: float, right: float) -> float:
    if isinstance(operation, ast.Pow) and (abs(right) > 64 or abs(left) > 1e6):
        raise ValueError("power too large")
    try:
        result = _OPERATIONS[type(operation)](left, right)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    if isinstance(result, complex) or abs(result) > _LARGEST:
        raise ValueError("result too large")
    return result
