"""Which pictures SQL may open: whoever can send SQL could otherwise read any file that the process can."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cliphouse.errors import ImageNotAllowed, InvalidImage

#: `https:`, `s3:`, `file:`, `data:`; one letter is a drive, not a scheme.
_URL = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ImageAccess:
    """The directories below which pictures may be opened. Files only: a URL is never fetched."""

    directories: tuple[Path, ...]

    def check(self, path: str) -> Path:
        """The file that `path` leads to, with links followed and `..` removed.

        Raises:
            ImageNotAllowed: it is a URL, or lies elsewhere. Which of two such paths exists, the message does not tell.
            InvalidImage: it is not a path, or leads to something that is no file, such as a pipe.
        """
        if _URL.match(path):
            raise ImageNotAllowed(path, "URLs are not fetched; save the picture and give the path of the file")
        try:
            place = Path(path).resolve()
            allowed = any(place.is_relative_to(directory.resolve()) for directory in self.directories)
            no_file = allowed and place.exists() and not place.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
            raise InvalidImage(path, getattr(error, "strerror", None) or str(error)) from error
        if not allowed:
            known = ", ".join(map(str, self.directories)) or "none"
            raise ImageNotAllowed(
                path,
                f"it is not below an allowed directory ({known}); "
                "allow its directory with: cliphouse udf export DIR --allow DIRECTORY",
            )
        if no_file:
            raise InvalidImage(path, "it is not a file")
        return place


#: All that the current user can read: for people who ask their own database.
ANYWHERE = ImageAccess((Path("/"),))
#: Nothing, which is what a server gives to those who ask it.
NOWHERE = ImageAccess(())
