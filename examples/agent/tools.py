"""The tools of the agent. What a model is told about them are names, annotations and docstrings."""

import ast
import operator
from decimal import Decimal
from typing import Annotated

from haystack.tools import tool

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@tool
def calculate(expression: Annotated[str, "numbers, + - * / and parentheses, for example (3 + 4) * 2.5"]) -> str:
    """Calculate the value of an arithmetic expression, to 28 digits."""
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression} has no value that I know of.") from error
    return f"{value.normalize():f}"


def _value(node: ast.expr) -> Decimal:
    match node:
        case ast.Constant(int() | float() as number):
            return Decimal(str(number))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.BinOp(left, symbol, right) if type(symbol) in OPERATORS:
            return OPERATORS[type(symbol)](_value(left), _value(right))
    raise ValueError(ast.unparse(node))  # names and calls too: this evaluates text that others wrote
