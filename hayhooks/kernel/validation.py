"""Validation: arguments of requests, with bounded errors.

Pydantic keeps an error for each wrong value, 240 bytes and more, until the whole input has been read: a list of a
million wrong items would take more memory than the list. So an input is first validated up to the first error in each
collection. Only if there is one, a second validation counts them all and keeps the first hundred.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cached_property
from operator import methodcaller
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, SchemaError, SchemaValidator, core_schema, to_json

from hayhooks.errors import InvalidInputError, shortened

_MAX_ERRORS = 100  # in one answer
_MAX_COUNTED = 1_000_000  # further items are not looked at
_MAX_REPEATED = 65_536  # bytes of an input from which wrong values are repeated
_MAX_VALUE = 1_024  # bytes of JSON of one wrong value, and characters of one message
_MAX_DETAILS = 60_000  # bytes of JSON of all errors

_Schema = dict[str, Any]

# Schemas of collections, and where those of their items are.
_ITEMS: Mapping[str, tuple[str, ...]] = {
    "list": ("items_schema",),
    "set": ("items_schema",),
    "frozenset": ("items_schema",),
    "deque": ("items_schema",),
    "tuple": ("items_schema",),
    "generator": ("items_schema",),
    **dict.fromkeys(("dict", "frozendict", "ordered-dict", "counter"), ("keys_schema", "values_schema")),
}
# Parts of a schema that are values, even if they look like schemas.
_VALUES = frozenset({"metadata", "default", "serialization", "expected", "cls", "config", "function"})


class Validator:
    """Validates like *adapter*, and raises InvalidInputError with a bounded number of errors."""

    def __init__(self, adapter: TypeAdapter[dict[str, Any]]) -> None:
        self._adapter = adapter
        self._first_errors = _validator(adapter, lambda schema: {**schema, "fail_fast": True})

    @cached_property
    def _counting(self) -> Any:
        return _validator(self._adapter, _count_items)

    def validate_json(self, body: bytes) -> dict[str, Any]:
        """Return the keyword arguments in *body*, a JSON object."""
        # Each error is unbound at the end of its handler: it would be a cycle with the frames of its traceback.
        try:
            arguments: dict[str, Any] = self._first_errors.validate_json(body)
        except ValidationError as error:
            again = methodcaller("validate_json", body)
            raise self._error(error, again, include_input=len(body) <= _MAX_REPEATED) from None
        return arguments

    def validate_python(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return *arguments*, read from a form, as the method takes them."""
        try:
            validated: dict[str, Any] = self._first_errors.validate_python(arguments)
        except ValidationError as error:
            raise self._error(error, methodcaller("validate_python", arguments)) from None
        return validated

    def accepts(self, arguments: dict[str, Any]) -> bool:
        """Whether *arguments* are valid."""
        try:
            self._first_errors.validate_python(arguments)
        except ValidationError:
            return False
        return True

    def _error(
        self, first: ValidationError, again: Callable[[Any], Any], *, include_input: bool = False
    ) -> InvalidInputError:
        """Count the errors of which *first* has one of each collection, and choose those to show."""
        (detail, *_) = first.errors(include_url=False, include_context=False, include_input=False)
        if detail["type"] == "json_invalid":
            return _invalid_input(first, 1)
        tally = _Tally()
        token = _tally.set(tally)
        try:
            again(self._counting)
        except ValidationError as error:
            if tally.count > _MAX_ERRORS:
                return _invalid_input(error, tally.count + error.error_count() - tally.kept, include_input)
        finally:
            _tally.reset(token)
        if tally.count > _MAX_ERRORS:  # those of one type of a union, and another type does without its items
            return _invalid_input(first, tally.count, include_input)
        try:
            again(self._adapter.validator)  # few: with the locations that pydantic gives them
        except ValidationError as error:
            return _invalid_input(error, error.error_count(), include_input)
        return _invalid_input(first, first.error_count(), include_input)


class _Tally:
    __slots__ = ("count", "kept")

    def __init__(self) -> None:
        self.count = 0  # but for those outside of collections
        self.kept = 0  # of them: in the ValidationError


_tally: ContextVar[_Tally] = ContextVar("hayhooks_validation_errors")


def item(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate an item of a collection; above the limit its errors are only counted."""
    # The name stands in the location of an error inside a union.
    tally = _tally.get()
    if tally.count >= _MAX_COUNTED:
        return None
    kept_before = tally.kept
    try:
        return validate(value)
    except ValidationError as error:
        kept_inside = tally.kept - kept_before  # by collections inside of this item
        new = error.error_count() - kept_inside
        tally.count += new
        if tally.kept >= _MAX_ERRORS and not kept_inside:
            return None
        tally.kept += new
        raise


def _without_extra(fields: _Schema, config: Mapping[str, Any]) -> _Schema:
    """Return the schema of *fields* with one error for all other fields, if it forbids them."""
    if fields.get("extra_behavior", config.get("extra_fields_behavior")) != "forbid":
        return fields
    kind, known = fields["type"], fields["fields"]
    by_name = {field["name"]: field for field in known} if kind == "dataclass-args" else known
    if kind != "model-fields" and any("validation_alias" in field for field in by_name.values()):
        return fields  # a field and another of its name could not be told apart

    def refuse_extra(validated: Any) -> Any:
        match kind:
            case "model-fields":
                extra = list(validated[1] or ())
            case "dataclass-args":
                extra = [name for name in validated[0] if name not in by_name]
            case _:
                extra = [name for name in validated if name not in by_name]
        if not extra:
            return (validated[0], None, validated[2]) if kind == "model-fields" else validated
        if (tally := _tally.get(None)) is not None:
            tally.count += len(extra) - 1
        more = f" and {len(extra) - 10:,} more" if len(extra) > 10 else ""
        shown = ", ".join(repr(shortened(name)) for name in extra[:10]) + more
        # In the text itself, braces would be placeholders.
        raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted: {names}", {"names": shown})

    inner = {**fields, "extra_behavior": "allow"}
    reference = inner.pop("ref", None)  # of the whole
    return dict(core_schema.no_info_after_validator_function(refuse_extra, inner, ref=reference))


def _validator(adapter: TypeAdapter[Any], change: Callable[[_Schema], _Schema]) -> Any:
    """Make a validator like that of *adapter*, with *change* applied to every collection, also inside of models."""

    def changed(schema: Any) -> Any:
        if isinstance(schema, list | tuple):
            return type(schema)(map(changed, schema))
        if not isinstance(schema, dict):
            return schema
        schema = {key: part if key in _VALUES else changed(part) for key, part in schema.items()}
        kind = schema.get("type")  # no text where fields are by name, and one of them has this name
        if isinstance(kind, str) and kind in _ITEMS:
            return change(schema)
        if kind in ("model", "dataclass") and schema["schema"]["type"] in ("model-fields", "dataclass-args"):
            return {**schema, "schema": _without_extra(schema["schema"], schema.get("config") or {})}
        if kind == "typed-dict":
            return _without_extra(schema, schema.get("config") or {})
        return schema

    try:
        return SchemaValidator(changed(adapter.core_schema), _use_prebuilt=False)
    except SchemaError:  # a later pydantic's schemas have another form: every error counts
        return adapter.validator


def _count_items(schema: _Schema) -> _Schema:
    counted = dict(schema)
    for key in _ITEMS[schema["type"]]:
        if isinstance(items := schema.get(key), list):
            counted[key] = [core_schema.no_info_wrap_validator_function(item, each) for each in items]
        elif items is not None:
            counted[key] = core_schema.no_info_wrap_validator_function(item, items)
    return counted


def _invalid_input(error: ValidationError, count: int, include_input: bool = False) -> InvalidInputError:
    details: list[dict[str, Any]] = []
    size = 0
    for detail in error.errors(include_url=False, include_context=False, include_input=include_input)[:_MAX_ERRORS]:
        shown: dict[str, Any] = {
            **detail,
            "loc": ["body", *(shortened(part) if isinstance(part, str) else part for part in detail["loc"])],
            "msg": shortened(detail["msg"], _MAX_VALUE),
        }
        if detail["type"] == "json_invalid":
            shown.pop("input", None)  # that is the whole body, and may not even be text
        elif include_input:
            shown["input"] = _short(detail["input"])
        size += len(to_json(shown, inf_nan_mode="null", fallback=repr)) + 1
        if size > _MAX_DETAILS and details:
            break
        details.append(shown)
    return InvalidInputError(details, count)


def _short(value: Any) -> Any:
    """Return *value*, or the beginning of its JSON as text."""
    encoded = to_json(value, inf_nan_mode="null", fallback=repr)
    if len(encoded) <= _MAX_VALUE:
        return value
    return shortened(value if isinstance(value, str) else encoded.decode(), _MAX_VALUE - 30)
