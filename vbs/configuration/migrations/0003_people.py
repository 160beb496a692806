from django.db import migrations

from vbs import live


class Migration(migrations.Migration):
    dependencies = [
        ("configuration", "0002_live"),
        ("accounts", "0003_members"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("sessions", "0001_initial"),
    ]
    operations = [
        live.triggers("django_session", live.PEOPLE, events="DELETE"),
        live.triggers("auth_user", live.PEOPLE, events="UPDATE OF is_active, is_superuser, password OR DELETE"),
        live.triggers("auth_user_groups", live.PEOPLE),
        live.triggers("accounts_project_members", live.PEOPLE),
    ]
