"""Queries whose SQL Django writes once: of what each request asks, and of what clients poll.

To build a query of one row, write its SQL and take the result apart costs Django up to ten times as much as to run it.
Here only the values change: the statement is written when it is needed first, and the rows become objects as ever.
"""

import datetime
from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.query import get_related_populators

Row = TypeVar("Row", bound=models.Model)


class Given(models.Value):
    """The place of a value that is given at each call, under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(None)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]


class Written(Generic[Row]):
    """A query of one row. `query`: makes it, of places instead of values, when the models are loaded.

    A value is given as the driver takes it: the key of a row, not the row. Values of the query itself are the same for
    ever, so it takes the time from the database.
    """

    def __init__(self, query: Callable[[], "models.QuerySet[Row]"]) -> None:
        self._query = query

    def first(self, **given: Any) -> Row | None:
        """The row, or None."""
        sql, parameters, row_object = self._written
        bound = [given[one.name] if isinstance(one, Given) else one for one in parameters]
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(sql, bound)
            row = cursor.fetchone()
        return None if row is None else row_object(row)

    @cached_property
    def _written(self) -> tuple[str, list[Any], Callable[[tuple[Any, ...]], Row]]:
        compiler = self._query().order_by()[:1].query.get_compiler(DEFAULT_DB_ALIAS)
        sql, parameters = compiler.as_sql()
        if any(isinstance(one, datetime.date) for one in parameters):
            raise TypeError(f"This query has a time that would never change: {sql}")
        return sql, list(parameters), _objects(compiler)


def _objects(compiler: Any) -> Callable[[tuple[Any, ...]], Any]:
    """Makes an object of a row, as Django's ModelIterable does."""
    found = compiler.klass_info
    first, last = found["select_fields"][0], found["select_fields"][-1] + 1
    names = [column.target.attname for column, *_ in compiler.select[first:last]]
    converters = compiler.get_converters([column for column, *_ in compiler.select]).items()
    related = get_related_populators(found, compiler.select, DEFAULT_DB_ALIAS)  # type: ignore[call-arg]  # 6.1 has more
    annotations = compiler.annotation_col_map.items()

    def make(row: tuple[Any, ...]) -> Any:
        connection, values = connections[DEFAULT_DB_ALIAS], list(row)
        for place, (functions, column) in converters:
            for function in functions:
                values[place] = function(values[place], column, connection)
        made = found["model"].from_db(DEFAULT_DB_ALIAS, names, values[first:last])
        for one in related:
            one.populate(values, made)
        for name, place in annotations:
            setattr(made, name, values[place])
        return made

    return make
