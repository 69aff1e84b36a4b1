"""White space around what is taken out of a text: it goes, but for what parts the text on either side."""

from __future__ import annotations


class Layout:
    """Takes away the white space around calls and reasoning."""

    def __init__(self) -> None:
        self._space = ""
        """White space at the end of what was written so far, held back."""
        self._before = ""
        """That before what was just taken out, or the first there was between."""
        self._parted = False
        """Whether something was taken out since the last text."""
        self._said = False
        """Whether there was text before it."""

    def text(self, text: str) -> str:
        """Take text; return what of it is certain to be content."""
        text = self._space + text
        bare = text.rstrip()
        if not bare:
            self._space = text
            return ""
        self._space = text[len(bare) :]
        if self._parted:
            content = bare.lstrip()
            parting = self._before or bare[: len(bare) - len(content)]
            bare = parting + content if self._said else content
        self._parted, self._said, self._before = False, True, ""
        return bare

    def part(self, with_: str = "") -> None:
        """Something was taken out here; `with_` parts the text on either side, whatever white space there was."""
        self._before = with_ or self._before or self._space
        self._space, self._parted = "", True

    def end(self) -> str:
        """Nothing follows: return the white space that was content after all."""
        space, self._space = self._space, ""
        return "" if self._parted else space
