"""What requests to /api/v1 and their answers hold. OpenAPI is made from these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cliphouse.types import MAX_DIM, MAX_EF_SEARCH, MAX_K, MAX_NPROBE, MAX_OFFSET, IndexKind, Modality, SearchPath

MAX_ID = 2**63 - 1
MAX_TEXT, MAX_WHERE, MAX_SQL = 2000, 10_000, 100_000

Id = Annotated[int, Field(ge=0, le=MAX_ID)]


def _example(**request: Any) -> ConfigDict:
    """A request that works, for the OpenAPI document."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [request]})


class Strict(BaseModel):
    """A request: unknown fields are errors, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Target(Strict):
    """What to look for: exactly one of these. Weights and several parts may be added later."""

    text: str | None = Field(None, min_length=1, max_length=MAX_TEXT, examples=["a red car in the snow"])
    image: str | None = Field(None, description="A picture file, base64")
    image_url: str | None = Field(None, max_length=MAX_TEXT, description="Fetched only if the service allows it")
    vector: list[float] | None = Field(None, min_length=2, max_length=MAX_DIM)
    id: Id | None = Field(None, description="A row of the collection: its embedding is looked for")
    by: Modality | None = Field(None, description="With id: its image or text embedding; by default that of `column`")

    @model_validator(mode="after")
    def _one(self) -> Target:
        given = [n for n in ("text", "image", "image_url", "vector", "id") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of text, image, image_url, vector, id")
        return self


class Filters(Strict):
    """Conditions on columns, all of which must hold. One on a column that the collection lacks is an error."""

    nsfw: list[str] | None = Field(None, max_length=20, description="Values of NSFW to keep", examples=[["UNLIKELY"]])
    min_width: int | None = Field(None, ge=0, le=2**31)
    max_width: int | None = Field(None, ge=0, le=2**31)
    min_height: int | None = Field(None, ge=0, le=2**31)
    max_height: int | None = Field(None, ge=0, le=2**31)
    licence: list[str] | None = Field(None, max_length=100)
    domain: list[str] | None = Field(None, max_length=100, description="Hosts of url", examples=[["example.org"]])
    min_similarity: float | None = Field(None, ge=-1, le=1, description="The dataset's image-caption score")
    max_similarity: float | None = Field(None, ge=-1, le=1)
    caption_contains: str | None = Field(None, min_length=1, max_length=MAX_TEXT, description="Case does not matter")


class Selection(Strict):
    """Which rows: all those that pass the filters and the expression."""

    collection: str | None = Field(None, max_length=200, description="By default the one that is served")
    filters: Filters = Field(default_factory=Filters)
    where: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_WHERE,
        description="One SQL expression over the columns",
        examples=["width >= 1024 AND caption ILIKE '%snow%'"],
    )


class SearchOptions(Strict):
    """How many rows, of what, and how hard to look."""

    column: Modality = Field("image", description="Which embeddings are compared")
    k: int = Field(10, ge=1, le=MAX_K)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    exact: bool = False
    recall: float | None = Field(None, gt=0, le=1)
    kind: IndexKind | None = None
    ef_search: int | None = Field(None, ge=1, le=MAX_EF_SEARCH)
    nprobe: int | None = Field(None, ge=1, le=MAX_NPROBE)
    columns: list[str] = Field(default=[], max_length=100, description="Further columns of each hit")
    stats: bool = Field(False, description="Say how many rows the search reads, at the price of an EXPLAIN")


class SearchRequest(SearchOptions, Selection):
    """A search."""

    model_config = _example(
        query={"text": "a red car in the snow"}, k=20, filters={"nsfw": ["UNLIKELY"], "min_width": 512}
    )

    query: Target


class PictureQuery(SearchOptions, Filters):
    """The options of a search in a query string; a list is given by repeating its name."""

    collection: str | None = Field(None, max_length=200, description="By default the one that is served")
    where: str | None = Field(None, min_length=1, max_length=MAX_WHERE, description="One SQL expression")

    def selection(self) -> Selection:
        """Which rows are searched."""
        filters = Filters(**{name: getattr(self, name) for name in Filters.model_fields})
        return Selection(collection=self.collection, filters=filters, where=self.where)


class SearchQuery(PictureQuery):
    """A search in a query string: exactly one of text, image_url, vector and id."""

    text: str | None = Field(None, min_length=1, max_length=MAX_TEXT, examples=["a red car in the snow"])
    image_url: str | None = Field(None, max_length=MAX_TEXT, description="Fetched only if the service allows it")
    vector: list[float] | None = Field(None, min_length=2, max_length=MAX_DIM)
    id: Id | None = Field(None, description="A row of the collection: its embedding is looked for")
    by: Modality | None = Field(None, description="With id: its image or text embedding; by default that of `column`")

    def target(self) -> Target:
        """What to look for."""
        return Target(text=self.text, image_url=self.image_url, vector=self.vector, id=self.id, by=self.by)


class HitModel(BaseModel):
    """A row that was found; further columns that were asked for stand beside these."""

    model_config = ConfigDict(extra="allow")

    id: int
    distance: float | None = Field(
        description="Cosine distance to the query: 0 is the same direction, 2 the opposite, null where a row has none"
    )
    url: str
    caption: str
    NSFW: str
    similarity: float | None = Field(description="The dataset's image-caption score, not that of the query")
    picture: str | None = Field(None, description="Where the service shows the picture, if it has the file")


class PlanModel(BaseModel):
    """Which path the search took, and why."""

    path: SearchPath
    reason: str
    index: str | None
    effort: int | None
    sql: str = Field(description="The statement that ran, complete")
    rows_read: int | None = Field(
        None,
        description="With `stats`: rows of the granules that it reads (EXPLAIN ESTIMATE), or of which hnsw reads some",
    )


class SearchResponse(BaseModel):
    """Hits, nearest first, ties by id."""

    hits: list[HitModel]
    plan: PlanModel
    took_ms: float


class ItemResponse(BaseModel):
    """One row, with all its columns but the embeddings unless asked for."""

    item: dict[str, Any]
    picture: str | None


class CountResponse(BaseModel):
    """How many rows pass."""

    rows: int


class CountRequest(Selection):
    """Which rows to count."""

    model_config = _example(filters={"nsfw": ["UNLIKELY"]}, where="width >= 1024")


class FacetsRequest(Selection):
    """How the rows that pass are spread over the values of columns."""

    model_config = _example(fields=["nsfw", "domain", "width"], filters={"caption_contains": "snow"}, limit=10)

    fields: list[Literal["nsfw", "licence", "domain", "width", "height", "similarity"]] = Field(
        default=["nsfw", "licence", "domain"], min_length=1, max_length=6
    )
    limit: int = Field(20, ge=1, le=1000, description="Most values of each field, the most frequent")


class FacetValue(BaseModel):
    """A value and its rows. For width, height and similarity `value` is the lower end of a step, null if unknown."""

    value: str | float | None
    rows: int


class FacetsResponse(BaseModel):
    """By field; a field that the collection has no column for is left out."""

    rows: int
    facets: dict[str, list[FacetValue]]


class ColumnModel(BaseModel):
    """A column of the table."""

    name: str
    type: str


class IndexModel(BaseModel):
    """An index."""

    name: str
    column: str
    kind: IndexKind
    state: str
    rows_indexed: int
    rows_total: int
    disk_bytes: int
    memory_bytes: int
    effort: int | None
    tuned: float | None


class CollectionModel(BaseModel):
    """A collection of the database."""

    name: str
    rows: int
    encoder: str
    dim: int
    storage: str
    columns: list[ColumnModel]
    filters: list[str] = Field(description="Names in `filters` that its columns allow")


class StatusResponse(BaseModel):
    """What is served."""

    version: str
    engine_version: str
    collection: CollectionModel
    indexes: list[IndexModel]
    disk_bytes: int
    total_bytes: int
    encoder_ready: bool = Field(description="Whether texts and pictures can be looked for")
    encoder_problem: str | None
    image_urls: bool = Field(description="Whether the service fetches image_url")
    max_k: int
    evaluation: dict[str, Any] | None = Field(description="The last `cliphouse evaluate`, as its --out has it")


class EncodeRequest(Strict):
    """A text or a picture."""

    model_config = _example(text="a red car in the snow")

    collection: str | None = Field(None, max_length=200, description="Whose encoder; by default the one that is served")
    text: str | None = Field(None, min_length=1, max_length=MAX_TEXT)
    image: str | None = Field(None, description="A picture file, base64")

    @model_validator(mode="after")
    def _one(self) -> EncodeRequest:
        if (self.text is None) == (self.image is None):
            raise ValueError("give a text or an image")
        return self


class EncodeResponse(BaseModel):
    """Its unit vector."""

    vector: list[float]
    encoder: str
    dim: int


class ExportRequest(SearchOptions, Selection):
    """A search, or ids, as a file."""

    model_config = _example(query={"text": "a red car in the snow"}, k=500, columns=["width"], format="csv")

    query: Target | None = None
    ids: list[Id] | None = Field(None, min_length=1, max_length=MAX_K, description="These rows instead of a search")
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"

    @model_validator(mode="after")
    def _one(self) -> ExportRequest:
        if (self.query is None) == (self.ids is None):
            raise ValueError("give a query or ids")
        return self


class SqlRequest(Strict):
    """One statement that only reads."""

    model_config = _example(statement="SELECT NSFW, count() FROM laion GROUP BY ALL", limit=100)

    statement: str = Field(min_length=1, max_length=MAX_SQL, examples=["SELECT NSFW, count() FROM laion GROUP BY ALL"])
    limit: int = Field(1000, ge=1, le=10_000, description="Rows of the answer at most")


class SqlResponse(BaseModel):
    """The answer as a table."""

    columns: list[ColumnModel]
    rows: list[list[Any]]
    truncated: bool
    took_ms: float
