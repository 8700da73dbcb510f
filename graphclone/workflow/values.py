"""Kinds of values in a recipe: sizes, lists of blocks, amounts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StrictInt, StringConstraints

from graphclone.errors import InvalidTarget
from graphclone.sizing.budget import shard_bytes


def _a_shard(held: str) -> str:
    try:
        shard_bytes(held)
    except InvalidTarget as reason:
        raise ValueError(str(reason).removeprefix(f"{held!r} ")) from None
    return held


AMOUNT = r"^[0-9]*[.]?[0-9]+ *[A-Za-z%]*$"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # of a target: it is a folder's
Size = StrictInt | Annotated[str, StringConstraints(pattern=r"^[0-9%:,. -]+$")]
Blocks = StrictInt | Annotated[str, StringConstraints(pattern=r"^[0-9, -]+$")] | list[StrictInt]
Amount = StrictInt | Annotated[str, StringConstraints(pattern=AMOUNT)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShardSize = Annotated[str, StringConstraints(pattern=AMOUNT), AfterValidator(_a_shard)]
