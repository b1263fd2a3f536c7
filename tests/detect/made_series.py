"""Series for the tests of the novelty memory, as hypothesis strategies: what values do, piece by piece."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from otel_aiops.otlp.points import F64

Piece = tuple[str, int, int]  # what values do, how long, a seed

KINDS = (
    "constant",
    "zero",
    "noise",
    "walk",
    "growing",
    "doubling",
    "jump",
    "negative",
    "huge",
    "denormal",
    "tiny",
    "alternating",
    "steps",
    "spike",
)

pieces = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 40), st.integers(0, 1_000_000)), min_size=1, max_size=5
)


def values_of(made: list[Piece]) -> F64:
    """The pieces one after the other."""
    return np.concatenate([_piece(*piece) for piece in made])


def _piece(kind: str, size: int, seed: int) -> F64:
    rng = np.random.default_rng(seed)
    noise, every = rng.normal(size=size), np.arange(size, dtype=np.float64)
    made: dict[str, F64] = {
        "constant": np.full(size, noise[0] * 100),
        "zero": np.zeros(size),
        "noise": 50 + noise,
        "walk": np.cumsum(noise),
        "growing": every * rng.integers(1, 1000),
        "doubling": 0.001 * 2.0 ** np.minimum(every, 60) * noise,
        "jump": 1e12 * np.sign(noise[0]) + noise,
        "negative": -1000 + 10 * noise,
        "huge": 1e149 * np.clip(noise, -5, 5),
        "denormal": 5e-324 * np.floor(100 * noise),
        "tiny": 1e-30 * noise,
        "alternating": np.where(every % 2 == 0, 3.0, 7.5),
        "steps": rng.integers(0, 4, size) * 10.0,
        "spike": np.where(every == size // 2, 1e6, noise),
    }
    return made[kind]
