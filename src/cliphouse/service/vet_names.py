"""What SQL from strangers may name: functions, table functions, tables of the system, settings.

All are lists of what is allowed. What a new version of the engine brings is refused until somebody has looked at it,
or falls in a category of pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cliphouse.engine import Engine
from cliphouse.types import Query


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Categories of functions that compute their answer from their arguments. Left out are those that read files of the
#: server or ask other hosts (AI, Dictionary, Embedded Dictionary, Machine Learning), look into the process
#: (Introspection, Internal) or keep what they were given (Time Series). "Other" is allowed by name.
_CATEGORIES = frozenset(
    {
        *("Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times", "Distance"),
        *("Encoding", "Encryption", "Financial", "Geo", "Geo Polygon", "Hash", "IP Address", "JSON", "Logical", "Map"),
        *("Mathematical", "Null", "NumericIndexedVector", "QBit", "Random Number", "Rounding", "String"),
        *("String Replacement", "String Search", "String Splitting", "Time Window", "Tuple", "Type Conversion"),
        *("URL", "UUID", "Aggregate Functions"),
    }
)
_OTHER = _names(
    """bar byteSize countDigits currentDatabase currentSchemas currentUser defaultValueOfArgumentType
    defaultValueOfTypeName digits finalizeAggregation formatReadableDecimalSize formatReadableQuantity
    formatReadableSize formatReadableTimeDelta getSetting getSizeOfEnumType identity ignore indexHint isConstant
    isDecimalOverflow lowCardinalityIndices lowCardinalityKeys materialize neighbor parseReadableSize
    parseReadableSizeOrNull parseReadableSizeOrZero parseTimeDelta pgTableIsVisible rowNumberInAllBlocks
    rowNumberInBlock runningAccumulate runningDifference throwIf toColumnTypeName toTypeName transform uptime
    variantElement variantType version visibleWidth"""
)
#: In allowed categories, and still not for strangers: they read memory addresses, or formats with files of their own.
_REFUSED = frozenset({"aggThrow", "flameGraph", "formatRow", "formatRowNoNewline"})
#: Written by the parser for operators, and not listed by the engine or not in a category.
_OPERATORS = frozenset({"exists", "lambda", "caseWithExpression", "grouping"})
#: Functions of ours, which the database keeps. Those that somebody else made are not known to be harmless.
OURS = frozenset({"encode_text", "encode_image"})
_COMBINATORS = (
    *("SimpleState", "OrDefault", "Distinct", "Resample", "ForEach", "ArgMax", "ArgMin", "OrNull", "Tuple", "Merge"),
    *("State", "Array", "Null", "Map", "If"),
)

#: Functions of a filter. None makes much out of little (as `repeat`, `range`, `hex`, `replace` and lambdas do), for a
#: search runs without the limits that a statement of its own has.
FILTER_FUNCTIONS = _names(
    """and or not xor
    equals notEquals less greater lessOrEquals greaterOrEquals isDistinctFrom isNotDistinctFrom in notIn
    if multiIf caseWithExpression clamp greatest least
    isNull isNotNull ifNull nullIf coalesce assumeNotNull isZeroOrNull firstNonDefault
    plus minus multiply divide intDiv intDivOrZero modulo moduloOrZero positiveModulo negate abs
    isNaN isFinite isInfinite ifNotFinite
    ceil floor round trunc exp log log2 log10 sqrt cbrt pow sign
    bitAnd bitOr bitXor bitNot bitShiftLeft bitShiftRight bitTest bitCount bitHammingDistance
    like notLike ilike notILike match notMatch matchCaseInsensitive position positionCaseInsensitive positionUTF8
    positionCaseInsensitiveUTF8 countSubstrings countSubstringsCaseInsensitive countMatches
    countMatchesCaseInsensitive extract hasToken hasTokenCaseInsensitive hasSubsequence
    hasSubsequenceCaseInsensitive multiSearchAny multiSearchAnyCaseInsensitive multiSearchAnyUTF8
    multiSearchAnyCaseInsensitiveUTF8 hasAnyTokens hasAllTokens ngramDistance ngramDistanceCaseInsensitive
    ngramSearch ngramSearchCaseInsensitive
    length lengthUTF8 lower upper lowerUTF8 upperUTF8 substring substringUTF8 left right leftUTF8 rightUTF8
    startsWith endsWith startsWithCaseInsensitive endsWithCaseInsensitive startsWithUTF8 endsWithUTF8
    trimBoth trimLeft trimRight concat substringIndex isValidUTF8 isValidASCII stringBytesEntropy basename
    empty notEmpty has hasAny hasAll indexOf array arrayElement tuple tupleElement
    domain domainWithoutWWW domainRFC domainWithoutWWWRFC netloc protocol port path pathFull queryString fragment
    topLevelDomain firstSignificantSubdomain cutToFirstSignificantSubdomain cutWWW cutQueryString cutFragment
    cutQueryStringAndFragment extractURLParameter
    cityHash64 xxHash64 xxHash32 sipHash64 farmHash64 metroHash64 intHash32 intHash64 halfMD5 murmurHash3_64
    cosineDistance L2Distance L2SquaredDistance L1Distance LinfDistance dotProduct L2Norm
    toInt8 toInt16 toInt32 toInt64 toUInt8 toUInt16 toUInt32 toUInt64 toFloat32 toFloat64 toBool toString toDate
    toDateTime toInt32OrZero toInt64OrZero toUInt32OrZero toUInt64OrZero toFloat32OrZero toFloat64OrZero
    toInt32OrNull toInt64OrNull toUInt32OrNull toUInt64OrNull toFloat32OrNull toFloat64OrNull toDateOrNull
    toDateTimeOrNull CAST toYear toMonth toDayOfMonth toDayOfWeek toHour toMinute toYYYYMM toYYYYMMDD
    toStartOfDay toStartOfMonth toStartOfYear toUnixTimestamp toIntervalDay toIntervalHour toIntervalMonth
    toIntervalYear addDays subtractDays now today yesterday
    encode_text"""
)

TABLE_FUNCTIONS = frozenset({"numbers", "numbers_mt", "zeros", "generateseries", "generate_series", "values"})

#: What clients ask when they connect, what describes the data, and what our own command line asks of a server. None
#: holds statements of other people, users, secrets or memory.
SYSTEM_TABLES = _names(
    """aggregate_function_combinators asynchronous_metrics build_options collations columns completions constraints
    contributors data_skipping_indices data_type_families databases disks documentation events formats functions
    keywords licenses merge_tree_settings merges metrics mutations numbers numbers_mt one parts parts_columns
    projections server_settings settings storage_policies table_engines table_functions tables
    time_zones unicode zeros zeros_mt"""
)
INFORMATION_SCHEMA = _names(
    """character_sets collations columns engines key_column_usage referential_constraints schemata statistics
    table_constraints tables views"""
)

#: What a statement may set for itself: what our own statements do, which people copy, and how values are read. None
#: raises a limit or shows what was deleted.
SETTINGS = _names(
    """force_data_skipping_indices hnsw_candidate_list_size_for_search join_use_nulls local_filesystem_read_method
    max_block_size merge_tree_max_bytes_to_use_cache merge_tree_max_rows_to_use_cache
    merge_tree_min_bytes_for_concurrent_read merge_tree_min_rows_for_concurrent_read min_bytes_to_use_mmap_io
    query_plan_max_limit_for_lazy_materialization query_plan_try_use_vector_search session_timezone
    union_default_mode use_uncompressed_cache vector_search_index_fetch_multiplier vector_search_filter_strategy
    vector_search_with_rescoring"""
)


@dataclass(frozen=True, slots=True)
class Functions:
    """The engine's own functions: what each name stands for, and its category."""

    exact: Mapping[str, tuple[str, str]]
    folded: Mapping[str, tuple[str, str]]

    def find(self, name: str) -> tuple[str, str] | None:
        """The full name and category of the function that `name` calls, or None."""
        return self.exact.get(name) or self.folded.get(name.lower())

    def allowed(self, name: str) -> bool | None:
        """Whether a statement may call it; None if the engine knows no such function."""
        found = self.find(name)
        if found is None:
            bare = next((name[: -len(end)] for end in _COMBINATORS if name.endswith(end) and name != end), None)
            if name in _OPERATORS:
                return True
            return self.allowed(bare) and self.aggregates(bare) if bare else None
        full, category = found
        if full in _REFUSED:
            return False
        return category in _CATEGORIES or full in _OTHER or full in _OPERATORS

    def aggregates(self, name: str) -> bool:
        """Whether it is an aggregate function, with combinators or without."""
        found = self.find(name)
        if found is not None:
            return found[1] == "Aggregate Functions"
        return any(name.endswith(end) and self.aggregates(name[: -len(end)]) for end in _COMBINATORS if name != end)


_known: WeakKeyDictionary[Engine, Functions] = WeakKeyDictionary()


def functions(engine: Engine) -> Functions:
    """What the engine calls its functions; asked once."""
    if engine not in _known:
        sql = (
            "SELECT name, alias_to, categories, is_aggregate, case_insensitive FROM system.functions"
            " WHERE origin = 'System'"
        )
        rows = engine.query(Query(sql=sql)).rows
        category = {name: "Aggregate Functions" if aggregate else kind for name, _, kind, aggregate, _ in rows}
        exact = {name: (alias or name, category.get(alias or name, "")) for name, alias, *_ in rows}
        folded = {name.lower(): exact[name] for name, *_, insensitive in rows if insensitive}
        _known[engine] = Functions(exact, folded)
    return _known[engine]
