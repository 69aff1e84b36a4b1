"""White space around what is taken out of a text: it goes, but for what parts the text on either side."""

from __future__ import annotations


class Layout:
    """Takes away the white space around calls and reasoning."""

    def __init__(self) -> None:
        self._space: list[str] = []
        """White space at the end of what was written so far, held back as it came: joined up once something follows."""
        self._before = ""
        """That before what was just taken out, or the first there was between."""
        self._parted = False
        """Whether something was taken out since the last text."""
        self._said = False
        """Whether there was text before it."""

    @property
    def held(self) -> int:
        """How much white space is held back."""
        return sum(map(len, self._space))

    def text(self, text: str) -> str:
        """Take text; return what of it is certain to be content."""
        bare = text.rstrip()
        if not bare:
            self._space.append(text)
            return ""
        space, bare = text[len(bare) :], "".join((*self._space, bare))
        self._space = [space]
        if self._parted:
            content = bare.lstrip()
            parting = self._before or bare[: len(bare) - len(content)]
            bare = parting + content if self._said else content
        self._parted, self._said, self._before = False, True, ""
        return bare

    def part(self, with_: str = "") -> None:
        """Something was taken out here; `with_` parts the text on either side, whatever white space there was."""
        self._before = with_ or self._before or "".join(self._space)
        self._space, self._parted = [], True

    def end(self) -> str:
        """Nothing follows: return the white space that was content after all."""
        space, self._space = "".join(self._space), []
        return "" if self._parted else space
