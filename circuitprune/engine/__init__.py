"""The model under gates, what cut edges carry, and what a gated run is compared with.

Every method only chooses gates or reads their gradient. Imports `metrics`, `data`, `circuits`,
`models`. There are five ways to run the model:

| class | what it is for | what it costs |
|---|---|---|
| `GatedModel` | any gates, differentiable | one forward and the mixing |
| `TappedRun` | plain run, its gradient by reader (EAP) | one forward, one backward |
| `CircuitRuns` | hard gates, small circuits | what the circuit reaches |
| `RecordedRun`, `Replay` | one change in the full model (exact patching) | what it reaches |
| `CandidateRuns` | a reader's gates in a circuit (ACDC) | what the reader reaches |

The last two stand in `patching`.
"""

from circuitprune.engine.ablation import ABLATIONS, Ablation, make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check

__all__ = ["ABLATIONS", "Ablation", "GatedModel", "References", "make_ablation", "self_check"]
