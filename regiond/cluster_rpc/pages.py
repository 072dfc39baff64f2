"""A report that comes in pages, put together again."""

from typing import Generic, TypeVar

from clusterd.protocol import errors

T = TypeVar("T")


class Pages(Generic[T]):
    """What has come so far of the latest report of one kind: pages in any order, each as often as it is sent.

    A page of a later report (a higher sequence number) ends the one before. `most` bounds what is kept, in rows;
    `what` are the words for those.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._sequence = -1
        self._count = 0
        self._is_over = False  # complete, or refused
        self._come: dict[int, T] = {}
        self._size = 0

    def add(self, sequence: int, page: int, pages: int, come: T, rows: int) -> list[T] | None:
        """All pages in their order when this, of so many rows, was the last one that was missing.

        Raises MalformedArgument for a page that cannot be, and for a report that is too long: what more comes of that
        one is not looked at.
        """
        if not 0 <= page < pages:
            raise errors.MalformedArgument(f"there is no page {page} of {pages}")
        if sequence > self._sequence:
            self._sequence, self._count, self._is_over = sequence, pages, False
            self._forget()
        if sequence < self._sequence or self._is_over or page in self._come:
            return None
        if pages != self._count:
            raise errors.MalformedArgument(f"a report of {self._count} pages has none that is one of {pages}")
        self._come[page] = come
        self._size += rows or 1  # or empty pages without end would be kept
        if self._size > self._most:
            self._end()
            raise errors.MalformedArgument(f"a cluster has at most {self._most} {self._what}")
        if len(self._come) < pages:
            return None
        whole = [each for _, each in sorted(self._come.items())]
        self._end()
        return whole

    def _end(self) -> None:
        self._is_over = True
        self._forget()

    def _forget(self) -> None:
        self._come = {}
        self._size = 0
