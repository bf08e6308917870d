"""Lucene's BM25 ranking on numpy: the same order as the original's index, without Java.

Formula of Lucene 9.5's BM25Similarity in its number format (float32), with its one-byte document lengths
(SmallFloat.intToByte4) and Anserini's parameters; equal scores are ordered by id. No kept library gives this order: bm25s
takes exact lengths and other ties, tantivy and SQLite fix k1 and b (facts in docs/differences.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qlass.envs.webshop.tokens import tokens

K1 = 0.9
"""Saturation of repeated terms (Anserini's default)."""
B = 0.4
"""Weight of a document's length (Anserini's default)."""
TOP = 50
"""Hits of a query."""

_EXACT = 24
"""Lengths below this are kept exactly (SmallFloat.NUM_FREE_VALUES); the next 16 happen to be, too."""

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]


class Hit(NamedTuple):
    """A document that a query found.

    Attributes:
        name: its id.
        score: BM25, above 0.
    """

    name: str
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """An inverted index.

    Attributes:
        names: ids of the documents, sorted: equal scores are ordered by position.
        terms: number of each term.
        idf: (terms,) ln(1 + (N - n + 0.5) / (n + 0.5)), N documents with any term, n with this one.
        starts: (terms + 1,) where the postings of a term begin.
        documents: (postings,) positions of the documents that have the term.
        saturation: (postings,) 1 + frequency / (k1 * (1 - b + b * length / average length)).
    """

    names: tuple[str, ...]
    terms: Mapping[str, int]
    idf: _Floats
    starts: _Ints
    documents: npt.NDArray[np.int32]
    saturation: _Floats

    @classmethod
    def of(cls, documents: Iterable[tuple[str, str]]) -> Index:
        """Index documents.

        Args:
            documents: (id, text) of each; ids are unique.

        Raises:
            DependencyNotInstalled: snowballstemmer is missing.
        """
        ordered = sorted(documents)
        terms: dict[str, int] = {}
        rows = [
            np.array([terms.setdefault(term, len(terms)) for term in tokens(text)], np.int64) for _, text in ordered
        ]
        lengths = np.array([len(row) for row in rows], np.int64)  # (D,)
        owners = np.repeat(np.arange(len(rows)), lengths)
        # One number for each (term, document), so that sorting them makes the postings, terms first.
        keys, frequencies = np.unique(np.concatenate([*rows, *_NO_ROW]) * len(rows) + owners, return_counts=True)
        owned = np.divmod(keys, max(1, len(rows)))
        starts = np.searchsorted(owned[0], np.arange(len(terms) + 1))
        n = np.diff(starts)
        idf = np.log(1 + (np.count_nonzero(lengths) - n + 0.5) / (n + 0.5)).astype(np.float32)
        norms = _norms(lengths)
        saturation = np.float32(1) + frequencies.astype(np.float32) * norms[owned[1]]
        names = tuple(name for name, _ in ordered)
        return cls(names, terms, idf, starts, owned[1].astype(np.int32), saturation)

    def search(self, query: str, top: int = TOP) -> tuple[Hit, ...]:
        """Return the best documents for a query, best first; none where it has no known word.

        Args:
            query: any text.
            top: hits at most.
        """
        scores = np.zeros(len(self.names))  # (D,) float64: Lucene adds the scores of the words as doubles
        for term, count in Counter(tokens(query)).items():
            number = self.terms.get(term)
            if number is not None:
                here = slice(self.starts[number], self.starts[number + 1])
                weight = np.float32(count) * self.idf[number]
                scores[self.documents[here]] += weight - weight / self.saturation[here]
        final = scores.astype(np.float32)
        found = np.flatnonzero(final)
        if len(found) > top:  # keeps all that tie with the last hit
            found = found[final[found] >= np.partition(final[found], -top)[-top]]
        best = found[np.argsort(-final[found], kind="stable")][:top]
        return tuple(Hit(self.names[position], float(final[position])) for position in best)


_NO_ROW = (np.empty(0, np.int64),)
"""So that an index of no documents can be built."""


def _norms(lengths: _Ints) -> _Floats:
    """Return (D,) 1 / (k1 * (1 - b + b * length / average)), from the length that one byte can hold."""
    average = np.float32(max(1, lengths.sum()) / max(1, np.count_nonzero(lengths)))  # 1 where there is no term
    held = np.array([_held(int(length)) for length in lengths], np.float32)
    k1, b = np.float32(K1), np.float32(B)
    return np.float32(1) / (k1 * ((np.float32(1) - b) + b * held / average))


def _held(length: int) -> int:
    """Return the number that Lucene keeps of a length: exact below 40, then eight steps for each power of two."""
    if length < _EXACT:
        return length
    rest = length - _EXACT
    shift = max(0, rest.bit_length() - 4)
    return _EXACT + (rest >> shift << shift)
