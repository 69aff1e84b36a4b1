"""The demo agent's tools as plain functions, for making dialogues and for judging answers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST = 1e15


def calculate(expression: str) -> str:
    """Work out an expression, or say `error: …` as the demo agent's calculator does."""
    try:
        return shown(value(expression))
    except ValueError as problem:
        return f"error: {problem}"


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


def moment(now: datetime) -> str:
    """Say a moment as the demo agent's clock does."""
    return f"{now:%A} {now.day} {now:%B %Y}, {now:%H:%M} UTC"


@dataclass(slots=True)
class Toolbox:
    """The four tools over one notebook and one moment."""

    now: datetime
    notes: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool by name and return its result as the model would read it."""
        match name, dict(arguments):
            case "calculator", {"expression": str(expression)}:
                return calculate(expression)
            case "clock", {}:
                return moment(self.now)
            case "save_note", {"topic": str(topic), "text": str(text)}:
                self.notes[topic] = text
                return "saved"
            case "find_note", {"topic": str(topic)}:
                return self.notes.get(topic, f"nothing noted about {topic!r}")
            case _:
                return f"error: no such call of {name!r}"


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
