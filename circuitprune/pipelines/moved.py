"""Where the modules of 0.1 went. Their old import paths work until 0.3, with a warning.

An old module is a face: it holds nothing and looks each name up in the modules that took it over,
so that nothing is imported before it is asked for.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE, _, _ = __name__.partition(".")

MOVED = {
    "ablation": "engine.ablation engine.recording",
    "acdc": "patching.acdc",
    "acdc_state": "patching.acdc_state",
    "agreement": "circuits.agreement",
    "answers": "engine.positions",
    "attribute": "pipelines.attribute pipelines.describe",
    "batches": "data.batches",
    "board": "views.tensorboard.board",
    "candidates": "patching.candidates",
    "circuit": "circuits.circuit",
    "compare": "pipelines.compare_scores attribution.scores",
    "controls": "evidence.baselines",
    "crossmodel": "patching.across_models",
    "encoding": "data.encoding",
    "evidence.examples": "engine.evaluation data.batches",
    "explained": "pipelines.metric",
    "export": "circuits.export",
    "figures": "views.figures",
    "figures.circuit": "views.figures.circuit",
    "figures.completeness": "views.figures.completeness",
    "figures.frontier": "views.figures.frontier",
    "figures.minimality": "views.figures.minimality",
    "figures.sources": "views.figures.sources",
    "figures.stability": "views.figures.stability",
    "figures.style": "views.figures.style",
    "figures.transfer": "views.figures.transfer",
    "finished": "runs.finished pipelines.unseen",
    "folder": "runs.folder",
    "formats": "circuits.formats circuits.mib circuits.edge_pruning",
    "gates": "training.gates",
    "gradients": "engine.tapped",
    "graph": "circuits.graph",
    "heads": "lens.heads",
    "known": "circuits.known models.zoo",
    "known.greater_than_gpt2": "circuits.known.greater_than_gpt2",
    "known.induction": "models.zoo.induction",
    "known.ioi_gpt2": "circuits.known.ioi_gpt2",
    "known.published": "circuits.known.published",
    "layout": "circuits.layout",
    "live": "views.tensorboard.images",
    "mixing": "engine.stream",
    "objectives": "training.objectives",
    "overlap": "circuits.overlap",
    "pages": "views.pages.studies",
    "partial_run": "engine.partial",
    "paths": "patching.paths",
    "predictions": "lens.predictions",
    "preparation": "pipelines.setup pipelines.describe",
    "projecting": "engine.projecting",
    "reachability": "circuits.reachability",
    "recorded": "patching.recorded",
    "recovery": "circuits.recovery",
    "references": "engine.references",
    "replay": "patching.replay",
    "report": "views.report",
    "report.data": "views.report.data",
    "report.page": "views.report.page",
    "report.studies": "views.report.sources",
    "results": "runs.frontier runs.identity views.pages.summary",
    "run": "pipelines.train pipelines.frontier pipelines.logs pipelines.learning",
    "scoring": "pipelines.scoring pipelines.setup",
    "sections": "pipelines.gathering",
    "selection": "circuits.selection",
    "selfcheck": "engine.selfcheck",
    "shards": "runs.shards",
    "sparsity": "training.density",
    "splits": "data.splits",
    "stability": "pipelines.stability pipelines.trials",
    "svg": "circuits.svg",
    "tasks": "data.tasks",
    "tasks.greater_than": "data.tasks.greater_than",
    "tasks.ioi": "data.tasks.ioi",
    "tasks.jsonl": "data.tasks.jsonl data.tasks.given data.tasks.rows",
    "tasks.lexicon": "data.tasks.lexicon",
    "tasks.pair": "data.tasks.pair",
    "tasks.pronoun": "data.tasks.pronoun",
    "tasks.sva": "data.tasks.sva",
    "transfer": "pipelines.compare",
    "verification": "engine.evaluation",
    "verify": "pipelines.verify pipelines.subject",
    "verify_config": "pipelines.verify_config",
    "verify_page": "views.pages.verification",
    "workspace": "engine.workspace",
    "zoo": "models.zoo",
    "zoo.card": "models.zoo.card",
    "zoo.corpus": "models.zoo.corpus",
    "zoo.training": "models.zoo.training",
}
"""Module of 0.1 -> the modules that hold its names now, all without the package's name."""


class OldModules(MetaPathFinder, Loader):
    """Finds a module of `MOVED`, when no file has its name, as a face of the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old module; of any other, none."""
        package, _, old = fullname.partition(".")
        if package != PACKAGE or old not in MOVED:
            return None
        folder = any(module.startswith(f"{old}.") for module in MOVED)
        return ModuleSpec(fullname, self, is_package=folder)

    def exec_module(self, module: ModuleType) -> None:
        """Say where the module went, and hand on what is asked of it."""
        places = [f"{PACKAGE}.{new}" for new in MOVED[module.__name__.partition(".")[2]].split()]
        warnings.warn(
            f"{module.__name__} is now {' and '.join(places)}; its old name goes with 0.3",
            DeprecationWarning,
            stacklevel=2,  # the import itself: Python leaves its own import machinery out
        )
        vars(module)["__getattr__"] = partial(_handed_on, module.__name__, places)


def _handed_on(old: str, places: Sequence[str], name: str) -> object:
    for place in places if not name.startswith("__") else ():
        module = import_module(place)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


def keep_old_paths() -> None:
    """Let `import circuitprune.graph`, and all of `MOVED`, go on working."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
