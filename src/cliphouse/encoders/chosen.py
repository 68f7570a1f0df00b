"""Which encoder serves a collection: the one somebody chose, if it fits, or the one that the collection remembers."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders import LAION_ENCODER, known_dim, load_encoder, name_of, space_of
from cliphouse.encoders.cache import image_vector, text_vector
from cliphouse.errors import EncoderMismatch, EncoderUnavailable
from cliphouse.types import CollectionInfo, Encoder

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoder that was chosen for a collection: a name, a folder, an object, or None; and where it is to run."""

    given: str | Encoder | None = None
    device: str | None = None

    @property
    def name(self) -> str | None:
        """The name to remember, or None if nothing was chosen."""
        if isinstance(self.given, str):
            return name_of(self.given)
        return self.given.name if self.given else None

    @property
    def dim(self) -> int | None:
        """The dimension of its vectors, or None if nothing is known of it."""
        if isinstance(self.given, str):
            return known_dim(self.given)
        return self.given.dim if self.given else None

    @property
    def key(self) -> Hashable:
        """Tells what was chosen from other choices; an object is itself alone."""
        return self.given if isinstance(self.given, str) else id(self.given), self.device

    def check(self, info: CollectionInfo, *, writing: bool = False) -> None:
        """A chosen encoder must be the stored one, or to read, speak of its space; where none is stored, any will do.

        Raises:
            EncoderMismatch: it does not.
        """
        if not self.name or not info.encoder or self.name == info.encoder:
            return
        # A variant may search; if it wrote, precisions would mix, and nobody could tell the rows apart.
        if writing or space_of(self.name) != space_of(info.encoder):
            raise EncoderMismatch(collection=info.name, stored=info.encoder, given=self.name)

    def load(self, info: CollectionInfo | None = None) -> Encoder:
        """The encoder for this collection, ready to run; for no collection at all, as in the tutorial, LAION's.

        Raises:
            EncoderMismatch, UnknownEncoder, EncoderUnavailable: see `load_encoder`.
        """
        if info is not None:
            self.check(info)
        if self.given is None:
            return load_encoder(LAION_ENCODER if info is None else info.encoder, self.device)
        if isinstance(self.given, str):
            return load_encoder(self.given, self.device)
        if self.device == "cuda":
            raise EncoderUnavailable(
                self.given.name, "it was given as an object, which runs where it runs; leave device out"
            )
        return self.given

    def vector(self, info: CollectionInfo, query: str | Path | Image) -> NDArray[np.float32]:
        """The unit vector of a text, of the picture in a file, or of a picture: float32 (dim,)."""
        encoder = self.load(info)
        if isinstance(query, str):
            return text_vector(encoder, query)
        if isinstance(query, Path):
            return image_vector(encoder, query)
        vector: NDArray[np.float32] = encoder.encode_images([query])[0]
        return vector
