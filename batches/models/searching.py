"""What is searched: how far the requests of each batch are indexed, and the words of each of them.

The words stand in a table of their own, so that neither the runner's commits nor the pages that read requests carry
them.
"""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import Q


class SearchIndex(models.Model):
    """How far a batch is indexed. Its key stands before each word (`batches/search/words.py`)."""

    batch = models.OneToOneField("batches.Batch", on_delete=models.CASCADE, related_name="search_index")
    requests = models.PositiveIntegerField(default=0, help_text="How many of its requests are indexed")
    is_complete = models.BooleanField(default=False, help_text="The batch has ended, and nothing is left to index")

    class Meta:
        verbose_name_plural = "search indexes"
        indexes = [models.Index(fields=["-batch"], name="search_unfinished", condition=Q(is_complete=False))]

    def __str__(self) -> str:
        return f"{self.batch_id}: {self.requests:,} requests"


class SearchedRequest(models.Model):
    """The words of a request's prompt and answer. It is written once, after the request has ended."""

    pk = models.CompositePrimaryKey("index_id", "line")
    index = models.ForeignKey(SearchIndex, on_delete=models.CASCADE, related_name="+", db_index=False)
    line = models.PositiveIntegerField(help_text="The request's line in the input file")
    words = SearchVectorField()

    class Meta:
        # A search reads what waits to be sorted into the index from its beginning to its end, so that is kept short.
        indexes = [GinIndex(fields=["words"], name="search_words", gin_pending_list_limit=1024)]

    def __str__(self) -> str:
        return f"{self.index_id}:{self.line}"
