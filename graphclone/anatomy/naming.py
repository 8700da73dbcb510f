"""Names of neuron groups: ``residual``, ``blocks.3.ffn``, ``blocks.3.kv_head``, after the stack's if there are many."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphclone.anatomy.groups import Group


@dataclass
class Names:
    """Gives every group one name; a group met again in another block is the whole stack's."""

    prefix: str = ""
    block: int | None = None
    taken: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)  # names given before the group was met in a second block

    def give(self, group: Group, kind: str) -> None:
        """Name a group that is met as ``kind`` in the current block."""
        if not group.name:
            group.kind, group.block = kind, self.block
            group.name = self._free(
                f"{self.prefix}blocks.{self.block}.{kind}" if self.block is not None else self.prefix + kind
            )
        elif group.block is not None and group.block != self.block:
            group.block = None
            old, group.name = group.name, self._free(self.prefix + group.kind)
            self.renamed[old] = group.name

    def _free(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}.{count}"
        self.taken.add(name)
        return name
