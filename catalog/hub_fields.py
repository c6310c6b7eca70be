"""Reading the fields of a config.json: wrong ones become problems with name and help, defaults become remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A field that forbids a card."""

    field: str
    message: str
    help: str


class Fields:
    """A config's fields under their various names; collects problems and remarks while it is read."""

    def __init__(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        self._values = dict(values)
        self._prefix = prefix
        self.problems: list[Problem] = []
        self.remarks: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._values.get(name) is not None

    def fill(self, defaults: Mapping[str, Any], why: str) -> None:
        """Values of fields that the file leaves out, told in one remark."""
        missing = {name: value for name, value in defaults.items() if not self.has(name)}
        self._values.update(missing)
        if missing:
            listed = ", ".join(f"{name} {value}" for name, value in missing.items())
            self.remark(f"not in the file, {why}: {listed}")

    def problem(self, name: str, message: str, help_text: str) -> None:
        """Something to mend; the same field is told once."""
        field = self._prefix + name if name in self._values else name
        if all(known.field != field for known in self.problems):
            self.problems.append(Problem(field=field, message=message, help=help_text))

    def remark(self, text: str) -> None:
        """Something that a person should know of the card."""
        if text not in self.remarks:
            self.remarks.append(text)

    def integer(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        """The first of these fields that is there; 1 (and a problem) where none is and there is no default."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            if default is not None:
                return default
            also = f" (or {', '.join(names[1:])})" if names[1:] else ""
            self.problem(names[0], f"is missing{also}", f"add `{names[0]}` as the model's page or its code has it")
            return 1
        value = self._values[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            self.problem(name, f"is {value!r}", f"it must be a whole number of {minimum} or more")
            return max(1, minimum) if default is None else default
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        """A flag."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(name, f"is {value!r}", "it must be true or false")
            return default
        return value

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers; empty where it is absent."""
        return [item for item in self._list(name) if isinstance(item, int)]

    def words(self, name: str, *, length: int, told: bool = True) -> list[str]:
        """A list with one word a layer; empty where it is absent or (a problem, if `told`) of another length."""
        found = [str(item) for item in self._list(name)]
        if found and len(found) != length:
            if told:
                self.problem(name, f"names {len(found)} layers of {length}", "it has one entry for each layer")
            return []
        return found

    def _list(self, name: str) -> Sequence[object]:
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(name, f"is {value!r}", "it must be a list")
            return []
        return cast("list[object]", value)
