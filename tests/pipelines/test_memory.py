"""Out of memory is one sentence: which settings help, with the forecast that the dry run prints."""

import re
from dataclasses import replace
from itertools import starmap
from operator import eq
from pathlib import Path

import pytest
import torch
from documents import ROOT
from tiny import quick_config, save_model, save_pairs, settings
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from circuitprune.cli import main
from circuitprune.errors import RunError, is_out_of_memory
from circuitprune.pipelines.describe import memory_text
from circuitprune.pipelines.memory import Forecast, of_run
from circuitprune.pipelines.memory_table import SHAPES, table
from circuitprune.pipelines.setup import make_setup

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
HELPS = ("train.batch_size", "verify.batch_size", "cache.max_gb", "model.dtype=bfloat16")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    assert main(["attribute", *settings(folder), f"output_dir={folder / 'done'}"]) == 0
    return folder


def of_the_system(*_: object, **__: object) -> None:
    torch.empty(10**16)


def of_python(*_: object, **__: object) -> None:
    raise MemoryError


def of_a_gpu(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("command", "where", "runs_out"),
    [
        ("train", "circuitprune.engine.references.References.fill", of_the_system),
        ("train", "circuitprune.training.module.MaskTraining._lr_factor", of_the_system),
        ("train", "circuitprune.training.module.MaskTraining._lr_factor", of_python),
        ("attribute", "circuitprune.pipelines.frontier.evaluate", of_a_gpu),
        ("verify", "circuitprune.evidence.faithfulness.evaluate_each", of_the_system),
    ],
)
def test_the_settings_that_help_are_named_with_the_forecast(
    home, tmp_path, monkeypatch, capsys, command, where, runs_out
):
    chosen = [*settings(home), f"output_dir={tmp_path / 'run'}"]
    assert main(["train", *chosen, "--dry-run"]) == 0
    (forecast,) = re.findall(r"^memory +(about .*)$", capsys.readouterr().out, re.M)
    monkeypatch.setattr(where, runs_out)
    verify = [str(home / "done"), "sections=[faithfulness]", "progress=false"]
    assert main([command, *(verify if command == "verify" else chosen)]) == RunError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory; make ") and said.count("\n") == 1
    assert all(setting in said for setting in HELPS) and said.endswith(f"{forecast}\n")


def test_the_steps_that_were_taken_are_kept(home, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("circuitprune.training.module.MaskTraining.cut", of_a_gpu)  # at validation
        assert main(["train", *settings(home), f"output_dir={run}"]) == RunError.exit_code
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    resume = [f"output_dir={run}", "train.resume=auto"]
    assert main(["train", *settings(home), *resume]) == 0


def test_words_of_our_own_are_no_lack_of_memory():
    assert not is_out_of_memory(RunError("out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))


# ---------------------------------------------------------------- docs/scale.md


def test_the_table_of_the_document_is_the_forecast():
    assert table() in (ROOT / "docs" / "scale.md").read_text()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("GPT-2 small, float32", GPT2Config()),
        (
            "Llama-3-8B, bfloat16",
            LlamaConfig(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
        ),
        (
            "Llama-2-13B, bfloat16",
            LlamaConfig(
                vocab_size=32000,
                hidden_size=5120,
                intermediate_size=13824,
                num_hidden_layers=40,
                num_attention_heads=40,
            ),
        ),
    ],
)
def test_the_models_of_the_table_have_those_sizes(name, config):
    graph, parameters, _ = SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    sizes = (config.num_hidden_layers, heads, kv_heads, config.hidden_size)
    assert sizes == (graph.n_layers, graph.n_heads, graph.n_kv_readers, graph.d_model)


def test_a_dry_run_tells_what_the_table_is_made_of(home):
    setup = make_setup(quick_config(home), fill=False)
    found, graph = of_run(setup.gated, setup.config, setup.data.splits), setup.gated.graph
    every = [one for side in setup.data.splits.values() for one in side]
    shared = [list(starmap(eq, zip(e.clean, e.corrupt, strict=True))).index(False) for e in every]
    by_hand = Forecast.of_edges(
        graph,
        sum(p.numel() for p in setup.gated.model.parameters()),
        4,
        rest=max(len(e.clean) - n for e, n in zip(every, shared, strict=True)),
        prefix=sum(shared) / len(every),
        pairs=len(every),
        batch=8,
        max_gb=setup.config.cache.max_gb,
    )
    assert found == by_hand and min(vars(found).values()) > 0
    assert f"prefixes {found.prefixes / 1e6:.1f} MB" in memory_text(setup)
    small = replace(setup.config, cache=replace(setup.config.cache, max_gb=1e-6))
    cut = of_run(setup.gated, small, setup.data.splits)
    assert cut.references + cut.prefixes == pytest.approx(1000)
    assert (cut.weights, cut.step) == (found.weights, found.step)
