"""`gates @ values` for the readers of several layers at once, while a run fills the values."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.graph import Block, Graph
from circuitprune.engine.panels import Member, Panel, layers_in_panels


class PanelReads:
    """What each block's readers take of some values, asked for in forward order, each once.

    Args:
        graph: Of the model.
        gates: Of the readers of each block on the first values: those that are filled by then.
        values: By writer; filled by whoever asks.
    """

    def __init__(
        self,
        graph: Graph,
        gates: Mapping[Block, Float[Tensor, "row _"]],
        values: Float[Tensor, "value token d_model"],
    ) -> None:
        self.gates, self.values = gates, values
        self.panels: dict[Block, Panel] = {}
        self.panel: Panel | None = None
        """Whose readers' share of the values in front of it has been taken, into `mixed`."""
        self.mixed = values[:0]
        row_bytes = values.shape[1:].numel() * values.element_size()
        for run in layers_in_panels(graph, row_bytes):
            blocks = [block for block in gates if block.layer in run]
            members = [
                Member(one, slice(0, len(gates[one])), gates[one].shape[1]) for one in blocks
            ]
            if members:
                panel = Panel(members, members[0].n_writers)
                self.panels |= dict.fromkeys(blocks, panel)

    def __getitem__(self, block: Block) -> Float[Tensor, "row token d_model"]:
        """Of one block, in a tensor that the caller may go on adding to."""
        panel, gates = self.panels[block], self.gates[block]
        early = panel.early
        if panel is not self.panel:
            whole = torch.cat([self.gates[one][:, :early] for one in panel.rows])
            mixed = whole @ self.values[:early].flatten(1)
            self.panel, self.mixed = panel, mixed.view(len(whole), *self.values.shape[1:])
        own = self.mixed[panel.rows[block]]
        if gates.shape[1] > early:
            late = self.values[early : gates.shape[1]]
            own.flatten(1).addmm_(gates[:, early:], late.flatten(1))
        return own
