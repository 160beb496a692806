from django.db import migrations


class Migration(migrations.Migration):
    """What a task of the queue wakes, by which two of a kind are known (vbs/broker.py). The table is django-q2's."""

    dependencies = [
        ("configuration", "0003_people"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE django_q_ormq ADD COLUMN wakes text NOT NULL DEFAULT '';"
            "CREATE INDEX ormq_wakes ON django_q_ormq (key, wakes);",
            "ALTER TABLE django_q_ormq DROP COLUMN wakes;",
        )
    ]
