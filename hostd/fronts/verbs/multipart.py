"""Files as multipart/form-data (RFC 7578): the filename of each part is the file's name in the model.

A part without a filename is refused: there are no other fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

import hostd

if TYPE_CHECKING:
    from hostd.fronts.verbs.tree import Tree


class Multipart:
    """Writes the parts of a form as files, as they come."""

    def __init__(self, tree: Tree, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise hostd.InvalidArgumentError("the Content-Type of a form must have its boundary")
        self._tree = tree
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._is_over = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._take_field,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_file,
                    "on_part_data": self._take_data,
                    "on_part_end": tree.close,
                    "on_end": self._note_end,
                },
            )
        except FormParserError as error:
            raise _unreadable(error) from None

    def feed(self, data: bytes) -> None:
        """Take what comes next."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _unreadable(error) from None

    def end(self) -> None:
        """Say that all has come."""
        if not self._is_over:
            raise _unreadable("it is cut off before its last boundary")

    def _begin(self) -> None:
        self._headers = {}

    def _begin_header(self) -> None:
        self._field = self._value = b""

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value

    def _begin_file(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        name = options.get(b"filename")
        if not name:
            raise hostd.InvalidArgumentError(
                "each part of the form must have a filename, which is the file's name in the model; options are "
                "parameters of the query"
            )
        self._tree.begin(name.decode(errors="surrogateescape"))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._tree.write(memoryview(data)[start:end])

    def _note_end(self) -> None:
        self._is_over = True


def _unreadable(why: object) -> hostd.InvalidArgumentError:
    return hostd.InvalidArgumentError(f"the body is not a form that can be read: {why}")
