"""Operators in addition to those of cosmic-ray: the small bugs that a rewrite introduces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmic_ray.operators.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIMPLE = "simple_stmt"
_SWAPS = {"min": "max", "max": "min", "any": "all", "all": "any", "first": "last", "last": "first"}


class StatementRemover(Operator):  # type: ignore[misc]
    """Replace an assignment to an attribute, or a call with an unused result, by `pass`: state that is not reset."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the position of *node* if it is such a statement."""
        if node.type == _SIMPLE and _is_removable(node.children[0]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Replace it."""
        del index
        import parso  # noqa: PLC0415  (comes with cosmic-ray)

        statement = node.children[0]
        replaced = parso.parse("pass").children[0]
        replaced.prefix = statement.get_first_leaf().prefix
        node.children[0] = replaced
        replaced.parent = node
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """Return none: cosmic-ray's own tests use them."""
        return ()


class NameSwapper(Operator):  # type: ignore[misc]
    """Replace a name by its opposite, such as min by max."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the position of *node* if it is such a name, or ends with one."""
        if node.type == "name" and _swapped(node.value):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Replace it."""
        del index
        node.value = _swapped(node.value)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """Return none: cosmic-ray's own tests use them."""
        return ()


def _is_removable(statement: Any) -> bool:
    if statement.type == "expr_stmt":
        return statement.children[0].type in ("atom_expr", "power")
    call = statement.children[-1] if statement.type in ("atom_expr", "power") else None
    return bool(call is not None and call.type == "trailer" and call.children[0] == "(")


def _swapped(name: str) -> str:
    return _SWAPS.get(name, "")
