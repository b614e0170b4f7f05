"""How much memory reference runs may take; nothing of torch."""

from dataclasses import dataclass

from circuitprune.data.checks import NOT_NEGATIVE, misfits, refuse


@dataclass(frozen=True)
class CacheConfig:
    """Memory for reference runs."""

    max_gb: float = 2.0
    """Budget in GB (1e9 bytes); what does not fit is computed again."""
    prefixes: bool = True
    """Under ablation=patch, run what clean and corrupt prompts begin with alike once."""

    def __post_init__(self) -> None:
        refuse(misfits(self, "cache.", max_gb=NOT_NEGATIVE))
