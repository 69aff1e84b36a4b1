"""The demonstration agent and its tools: what the embedded model was trained to use."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from actors.agent.definition import Agent
from actors.tools import ToolContext, tool
from schemas.times import utc

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST = 1e15
_LONGEST = 200


@tool(effect="pure")
def calculator(expression: str) -> str:
    """Work out an arithmetic expression."""
    if len(expression) > _LONGEST:
        raise ValueError(f"expression longer than {_LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f"cannot read {expression!r}") from None
    return _shown(_value(tree.body))


@tool(effect="idempotent")
def clock(context: ToolContext) -> str:
    """Tell the current date and time."""
    now = utc(context.now)
    return f"{now:%A} {now.day} {now:%B %Y}, {now:%H:%M} UTC"


@tool(effect="idempotent")
def save_note(topic: str, text: str, context: ToolContext) -> str:
    """Remember a fact under a topic."""
    context.write_note(topic, text)
    return "saved"


@tool(effect="pure")
def find_note(topic: str, context: ToolContext) -> str:
    """Recall what was remembered about a topic."""
    return context.notes.get(topic, f"nothing noted about {topic!r}")


DEMO = Agent(
    name="demo",
    instructions=(
        "You are Ostinato's demo assistant. Use the tools for arithmetic, for the date and time, and for notes."
    ),
    tools=(calculator, clock, save_note, find_note),
)


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


def _shown(number: float) -> str:
    """Write a number with at most 10 significant digits, integers without a fraction."""
    if number == int(number):
        return str(int(number))
    return f"{number:.10g}"
