from django.db import migrations


def forget(apps, schema_editor):
    """No cluster reads them any more, and any of them would have been called."""
    apps.get_model("django_q", "Schedule").objects.using(schema_editor.connection.alias).all().delete()


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_members"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [migrations.RunPython(forget, migrations.RunPython.noop)]
