"""The tables between two tests: as the migrations have left them.

Django's flush gives every table new files and makes all permissions anew: half a second, after each test whose
transactions are real. A test leaves few rows, which are deleted in milliseconds.
"""

from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction

SCHEMA = "as_migrated"  # with a copy of each table that has rows then
NO_TRIGGERS = "SET LOCAL session_replication_role = replica"  # nor foreign keys: all that they point to goes as well


def keep() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
        for table in _tables():
            cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")
            if cursor.fetchone() == (True,):
                cursor.execute(f"CREATE TABLE {SCHEMA}.{table} AS TABLE {table}")


def put_back() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = %s", [SCHEMA])
        kept = [table for (table,) in cursor.fetchall()]
        statements = [NO_TRIGGERS]
        statements += [f"DELETE FROM {table}" for table in _tables()]
        statements += [f"INSERT INTO {table} TABLE {SCHEMA}.{table}" for table in kept]
        cursor.execute("; ".join(statements))
    ContentType.objects.clear_cache()


def _tables() -> list[str]:
    return [connection.ops.quote_name(name) for name in connection.introspection.table_names()]
