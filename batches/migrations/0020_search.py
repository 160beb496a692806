import django.contrib.postgres.indexes
import django.contrib.postgres.search
import django.db.models.deletion
from django.db import migrations, models

from vbs.live import topics

# The sweep indexes the requests that are there already.
FILL = """
INSERT INTO batches_searchindex (batch_id, requests, is_complete)
SELECT id, 0, false FROM batches_batch WHERE validated_at IS NOT NULL AND purged_at IS NULL ORDER BY id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0019_deaths"),
        ("configuration", "0002_live"),
    ]

    operations = [
        migrations.CreateModel(
            name="SearchIndex",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("requests", models.PositiveIntegerField(default=0, help_text="How many of its requests are indexed")),
                (
                    "is_complete",
                    models.BooleanField(default=False, help_text="The batch has ended, and nothing is left to index"),
                ),
                (
                    "batch",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="search_index", to="batches.batch"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "search indexes",
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_complete", False)), fields=["-batch"], name="search_unfinished"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SearchedRequest",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "index_id", "line", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("line", models.PositiveIntegerField(help_text="The request's line in the input file")),
                ("words", django.contrib.postgres.search.SearchVectorField()),
                (
                    "index",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="batches.searchindex",
                    ),
                ),
            ],
            options={
                "indexes": [
                    django.contrib.postgres.indexes.GinIndex(
                        fields=["words"], gin_pending_list_limit=1024, name="search_words"
                    )
                ],
            },
        ),
        topics.triggers("batches_searchindex", "batch:batch_id", events="UPDATE"),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
