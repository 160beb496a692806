import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Marks of forms are kept like the answers to creations; what some forms make belongs to no project."""

    dependencies = [("accounts", "0005_kept_answers")]
    operations = [
        migrations.AlterField(
            model_name="keptanswer",
            name="project",
            field=models.ForeignKey(
                help_text="None for a form that has none",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="accounts.project",
            ),
        ),
    ]
