from django.db import migrations

from vbs.live import topics


class Migration(migrations.Migration):
    dependencies = [
        ("configuration", "0002_live"),
        ("accounts", "0003_members"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("sessions", "0001_initial"),
    ]
    operations = [
        topics.triggers("django_session", topics.PEOPLE, events="DELETE"),
        topics.triggers("auth_user", topics.PEOPLE, events="UPDATE OF is_active, is_superuser, password OR DELETE"),
        topics.triggers("auth_user_groups", topics.PEOPLE),
        topics.triggers("accounts_project_members", topics.PEOPLE),
    ]
