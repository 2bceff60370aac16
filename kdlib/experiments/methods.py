"""The ways of supervising a student that the experiments compare."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["baseline", "offline", "early-stopped", "online", "self", "stopped", "repeat"]
METHODS: tuple[Method, ...] = get_args(Method)
COMPARED = METHODS[:5]  # with each other, on one teacher; the others are a contrast of their own
