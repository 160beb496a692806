"""The topics that a changed row announces, for pages to follow. Triggers in the database announce them, not the code
that writes."""

from django.db import connection
from django.db.migrations import RunSQL

PEOPLE = "people"  # the topic of sessions that end, and of what people may do and see


def triggers(table: str, *topics: str, events: str = "INSERT OR UPDATE OR DELETE") -> RunSQL:
    """A migration that makes such changes of a table's rows announce these topics. A topic is a word, or
    `word:column`."""
    name = f"live_{table}"
    words = ", ".join(f"'{topic}'" for topic in topics)
    return RunSQL(
        f"CREATE TRIGGER {name} AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION vbs_changed({words})",
        f"DROP TRIGGER {name} ON {table}",
    )


# `vbs_publish` writes what the channel layer would send: {"topic": …} in msgpack, to the channels of the group. A
# channel whose process was killed is forgotten once its row has expired.
FUNCTIONS = RunSQL(
    """
CREATE FUNCTION vbs_publish(topic text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO channels_postgres_message (channel, message, expire)
    SELECT DISTINCT channel, '\\x81a5746f706963d9'::bytea || set_byte('\\x00'::bytea, 0, octet_length(topic))
        || convert_to(topic, 'UTF8'), now() + interval '1 minute'
    FROM channels_postgres_groupchannel WHERE group_key = 'asgi:group:live' AND expire > now()
$$;
CREATE FUNCTION vbs_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    topic text;
    value text;
BEGIN
    FOREACH topic IN ARRAY TG_ARGV LOOP
        IF strpos(topic, ':') > 0 THEN
            EXECUTE format('SELECT ($1).%I::text', split_part(topic, ':', 2)) INTO value USING coalesce(NEW, OLD);
            topic := split_part(topic, ':', 1) || ':' || value;
        END IF;
        PERFORM vbs_publish(topic);
    END LOOP;
    RETURN NULL;
END $$;
""",
    "DROP FUNCTION vbs_changed; DROP FUNCTION vbs_publish",
)


def sweep() -> None:
    """Deletes what the channel layer leaves behind: messages that nobody took, and channels of ended processes."""
    with connection.cursor() as cursor:
        for table in ("message", "groupchannel"):
            cursor.execute(f"DELETE FROM channels_postgres_{table} WHERE expire < now()")  # noqa: S608
