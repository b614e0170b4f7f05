"""The command line: one clear message, the right exit code, and nothing written on bad input."""

import copy
import io
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from pipelines.test_train import contents
from tiny import pair_rows, save_model, save_pairs, settings, tokenizer
from transformers import BertConfig, BertLMHeadModel, BertModel

from circuitprune.cli import (
    add_train,
    attribute_main,
    compare_main,
    main,
    script_main,
    train_main,
)
from circuitprune.pipelines import scoring
from circuitprune.runs import stopping
from circuitprune.runs.settings import settings as settings_of_config
from circuitprune.training.module import MaskTraining
from circuitprune.views.arguments import Parser, parse, typed

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
FINISHED, CONFIG, DATA, MODEL, RUN, INTERRUPTED, PREEMPTED = 0, 2, 4, 5, 1, 130, 75


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The tiny model, its pairs, and a config file with the settings of a quick run."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    (folder / "run.yaml").write_text("# all settings come from the command line\n")
    return folder


@pytest.fixture
def command(home, tmp_path, capsys):
    """`command(*overrides)` -> exit code, standard output, standard error; results in tmp_path."""

    def command(*overrides: str, config: Path | str = home / "run.yaml", flags=()):
        arguments = [str(config), *settings(home), f"output_dir={tmp_path / 'run'}"]
        capsys.readouterr()
        code = train_main([*arguments, *overrides, *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def assert_refused(result: tuple[int, str, str], expected: int, *words: str) -> None:
    code, out, err = result
    assert code == expected and out == ""
    message = err.splitlines()
    errors = [line for line in message if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in err
    for word in words:
        assert word in err


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---------------------------------------------------------------- bad input


def test_unknown_key(command, tmp_path):
    result = command("train.stepz=3")
    assert_refused(result, CONFIG, "'stepz'", "'steps'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps=lots", ["train.steps"]),
        ("gates.learner=magic", ["topk", "hard_concrete"]),
        ("train.lr=-1", ["train.lr"]),
        ("gates.temperature=0", ["gates.temperature"]),
        ("output_dir=${oc.env:HOME}", ["interpolation"]),
        ("steps", ["key=value"]),
    ],
)
def test_bad_values(command, tmp_path, override, words):
    assert_refused(command(override), CONFIG, *words)
    assert not list(tmp_path.iterdir())


def test_missing_config(command, tmp_path):
    path = tmp_path / "absent.yaml"
    assert_refused(command(config=path), CONFIG, str(path))
    assert not list(tmp_path.iterdir())


def test_broken_config(command, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("train: [1\n")
    assert_refused(command(config=path), CONFIG, str(path), "line 2")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.yaml"]


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_missing_model_folder(command, tmp_path, flags):
    path = tmp_path / "no" / "model"
    assert_refused(command(f"model.name={path}", flags=flags), MODEL, str(path))
    assert not list(tmp_path.iterdir())


def test_hub_model_out_of_reach(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = command("model.name=nobody/no-such-model")
    assert_refused(result, MODEL, "nobody/no-such-model", "hf download", "model.name=")
    assert not list(tmp_path.iterdir())


def test_unknown_shipped_model(command, tmp_path):
    assert_refused(command("model.name=zoo/smal"), MODEL, "zoo/small")


def test_undeclared_family(command, tmp_path):
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertLMHeadModel(BertConfig(vocab_size=40, is_decoder=True, **sizes))
    model.save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    assert_refused(command(f"model.name={tmp_path / 'lm'}"), MODEL, "'bert'", "gpt2", "llama")
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_causal(command, tmp_path):
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=40,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    assert_refused(command(f"model.name={tmp_path / 'bert'}"), MODEL, "'bert'", "Declared")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_weights(command, tmp_path):
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert_refused(command(f"model.name={folder}"), MODEL, str(folder), "model.safetensors")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_knows_more_than_the_model(command, tmp_path):
    """Tokens were added, the embedding was not resized: an id beyond its rows."""
    folder = save_model(tmp_path / "model")
    larger = copy.deepcopy(tokenizer())
    larger.add_tokens([" zebra"])
    larger.add_special_tokens({"pad_token": "<pad>"})
    larger.save_pretrained(folder)
    chosen = f"model.name={folder}"
    assert command(chosen, flags=("--dry-run",))[0] == FINISHED  # nothing of it is used
    rows = [{**row, "wrong": [" zebra"]} for row in pair_rows()]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    result = command(chosen, f"task.path={path}")
    assert_refused(result, MODEL, "' zebra' token", "the model has embeddings for 0 to")
    assert not (tmp_path / "run").exists()


def test_unknown_task(command, tmp_path):
    result = command("task.name=iio", "task.path=null")
    assert_refused(result, CONFIG, "'iio'", "'ioi'", "greater_than")
    assert not list(tmp_path.iterdir())


def test_missing_pairs(command, tmp_path):
    path = tmp_path / "absent.jsonl"
    assert_refused(command(f"task.path={path}"), DATA, str(path))
    assert not list(tmp_path.iterdir())


def test_a_bad_line_is_named(command, tmp_path):
    path = write_rows(tmp_path / "pairs.jsonl", pair_rows()[:5])
    path.write_text(path.read_text() + "{not json\n")
    assert_refused(command(f"task.path={path}"), DATA, str(path), "line 6")
    assert not (tmp_path / "run").exists()


def test_misaligned_pairs_are_counted_with_the_reason(command, tmp_path):
    rows = [{**row, "corrupt": "today " + row["corrupt"]} for row in pair_rows()]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    result = command(f"task.path={path}")
    assert_refused(result, DATA, "asked for 52, found 0", f"dropped {len(rows)}")
    assert "clean and corrupt have" in result[2] and "'today', ' the'" in result[2]
    assert not (tmp_path / "run").exists()


def test_a_task_the_model_cannot_do(command, tmp_path):
    result = command("task.min_accuracy=0.99")
    assert_refused(result, DATA, "cannot do this task", "99.0%", "24 training pairs")
    assert not list(tmp_path.iterdir())


def test_a_resume_path_that_is_no_checkpoint(command, home, tmp_path):
    assert_refused(command("train.resume=absent.ckpt"), RUN, "'absent.ckpt'")
    result = command(f"train.resume={home / 'pairs.jsonl'}")
    assert_refused(result, RUN, "pairs.jsonl", "not a readable checkpoint")
    assert "weights_only" not in result[2]  # torch's advice to load it unsafely
    assert not list(tmp_path.iterdir())


def test_a_finished_output_dir(command, tmp_path):
    code, out, _ = command("train.steps=2")
    assert code == FINISHED and str(tmp_path / "run" / "circuits") in out
    before = contents(tmp_path / "run")
    assert_refused(command("train.steps=2"), RUN, str(tmp_path / "run"), "finished run")
    assert contents(tmp_path / "run") == before


def test_nothing_is_downloaded_for_a_local_folder(command, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a local model needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, _, _ = command("train.steps=1")
    assert code == FINISHED


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(command, tmp_path, monkeypatch, number):
    """The exit code is never 0: what runs next must not take half a run for a whole one."""
    honest = MaskTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == 5:
            os.kill(os.getpid(), number)
        return honest(self, batch, batch_idx)

    before = signal.getsignal(number)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(MaskTraining, "training_step", training_step)
            code, _, err = command()
    finally:
        signal.signal(number, before)  # Lightning leaves its own
    expected = INTERRUPTED if number == signal.SIGINT else PREEMPTED
    assert code == expected and "train.resume=auto" in err and "Traceback" not in err
    assert not (tmp_path / "run" / "COMPLETE").exists()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert command(f"train.resume={last}")[0] == FINISHED
    assert (tmp_path / "run" / "COMPLETE").exists()


# ---------------------------------------------------------------- dry run


def test_a_dry_run_says_all_and_writes_nothing(command, home, tmp_path):
    before = contents(home)
    rows = pair_rows()
    rows[3]["corrupt"] = "today " + rows[3]["corrupt"]  # misaligned
    rows[4]["answers"] = [" and then"]  # two tokens
    path = write_rows(tmp_path / "pairs.jsonl", rows[:54])
    code, out, err = command(f"task.path={path}", flags=("--dry-run",))
    assert "checked   in 11 forwards of 3 prompts of 8 tokens" in out
    assert code == FINISHED and err == ""
    assert str(home / "model") in out and "family gpt2" in out
    assert "110 edges by KV head" in out and "110 by query head" in out
    assert "kept 24 train, 8 val, 20 test" in out
    assert out.count("dropped 1") == 2
    assert out.count("    clean ") == out.count("    corrupt ") == 3
    assert out.count("    answers ") == out.count("    wrong ") == 3
    assert "' and' ' then' ' the'" in out
    assert "accuracy" in out and "24 training pairs" in out
    assert re.search(r"memory +about \d\.\d MB: weights 0\.\d MB, cached references", out)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]
    assert contents(home) == before


@pytest.mark.parametrize("kv_readers", ["kv_head", "query_head"])
def test_a_dry_run_gives_both_counts_of_grouped_models(command, tmp_path, kv_readers):
    folder = save_model(tmp_path / "llama", "llama")
    chosen = [f"model.name={folder}", f"model.kv_readers={kv_readers}"]
    code, out, _ = command(*chosen, flags=("--dry-run",))
    assert code == FINISHED and "family llama" in out
    used = kv_readers.replace("_", " ").replace("kv", "KV")
    assert f"82 edges by KV head, 110 by query head; readers here by {used}" in out


# ---------------------------------------------------------------- as a program


def test_both_commands_take_the_same_arguments(home, tmp_path, capsys):
    arguments = [str(home / "run.yaml"), *settings(home), "--dry-run"]
    assert train_main(arguments) == 0
    script = capsys.readouterr().out
    assert main(["train", *arguments]) == 0
    assert capsys.readouterr().out == script


@pytest.fixture
def run_script(monkeypatch, capsys):
    """`run_script(name, *arguments)` -> exit code and output of `python scripts/name.py`."""

    def run(name: str, *arguments: str) -> tuple[int, str]:
        path = str(ROOT / "scripts" / f"{name}.py")
        before = {number: signal.getsignal(number) for number in stopping.NUMBERS}
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [path, *arguments])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        for number, handler in before.items():  # a script is deaf when it is done
            signal.signal(number, handler)
        return ended.value.code, capsys.readouterr().out

    return run


def test_the_script_from_another_folder(home, tmp_path, monkeypatch, run_script):
    """As a user types it: a relative output folder appears where the command runs."""
    monkeypatch.chdir(tmp_path)
    arguments = [str(home / "run.yaml"), *settings(home), "output_dir=my out", "train.steps=2"]
    code, out = run_script("train_mask", *arguments)
    assert code == FINISHED and (tmp_path / "my out" / "COMPLETE").exists()
    assert "accuracy" in out and "my out/summary.md" in out
    again = (tmp_path / "my out" / "summary.md").read_text()
    assert "`circuitprune train " in again and "'output_dir=my out'" in again
    assert "tensorboard --logdir 'my out'\n" in out


def test_the_script_exits_with_the_code_of_the_error(home, run_script):
    assert run_script("train_mask", str(home / "run.yaml"), "train.stepz=1") == (CONFIG, "")


# ---------------------------------------------------------------- attribute, compare-scores


@pytest.fixture
def attribution(home, tmp_path, capsys):
    """`attribution(*overrides)` -> exit code, standard output, standard error of `attribute`."""

    def attribution(*overrides: str, flags=()):
        arguments = [str(home / "run.yaml"), *settings(home), f"output_dir={tmp_path / 'run'}"]
        capsys.readouterr()
        code = attribute_main([*arguments, *overrides, *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return attribution


def test_attribute_prints_the_summary_and_where_it_is(attribution, tmp_path):
    code, out, _ = attribution("attribution.method=eap")
    folder = tmp_path / "run"
    assert code == FINISHED and (folder / "COMPLETE").exists()
    assert (folder / "summary.md").read_text() in out and str(folder / "circuits") in out
    assert "`circuitprune attribute " in (folder / "summary.md").read_text()
    assert_refused(attribution("attribution.method=eap"), RUN, "finished run")


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("attribution.method=none", CONFIG, ["attribution.method=none"]),
        ("attribution.method=gate_igg", CONFIG, ["did you mean 'gate_ig'?"]),
        ("attribution.edges=absent.json", RUN, ["absent.json"]),
        ("model.name=./absent", MODEL, ["absent"]),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_attribute_refuses_in_one_line(attribution, tmp_path, override, code, words, flags):
    assert_refused(attribution(override, flags=flags), code, *words)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_attribute_says_the_cost(attribution, home, tmp_path):
    before = contents(home)
    code, out, err = attribution("attribution.method=eap", flags=("--dry-run",))
    assert code == FINISHED and err == "" and "cost      in plain forwards" in out
    assert not list(tmp_path.iterdir()) and contents(home) == before


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, PREEMPTED), (signal.SIGUSR1, PREEMPTED)],
)
def test_an_interrupted_attribution_goes_on_by_the_same_command(
    attribution, monkeypatch, number, expected
):
    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "edge_effects", interrupted)
        code, _, err = attribution("attribution.method=exact")
    assert code == expected and "same command" in err and "Traceback" not in err
    assert attribution("attribution.method=exact")[0] == FINISHED


def test_compare_scores(attribution, tmp_path, capsys, run_script):
    for name in ("eap", "gate_ig"):
        assert (
            attribution(f"attribution.method={name}", f"output_dir={tmp_path / name}")[0]
            == FINISHED
        )
    paths = [str(tmp_path / "eap"), str(tmp_path / "gate_ig" / "scores.safetensors")]
    assert compare_main([*paths, "--top", "0.1"]) == FINISHED
    out = capsys.readouterr().out
    assert "110 of 110" in out and "top 10.0%" in out
    assert main(["compare-scores", *paths, "--top", "0.1"]) == FINISHED
    assert capsys.readouterr().out == out
    assert run_script("compare_scores", *paths, "--top", "0.1") == (FINISHED, out)
    assert compare_main([paths[0], str(tmp_path / "absent")]) == RUN
    assert capsys.readouterr().err.startswith("error: ")


def test_a_rank_says_which_it_is_when_it_fails(attribution, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    _, out, err = attribution("attribution.method=none")
    assert out == "" and err.startswith("error on rank 1: ")


# ---------------------------------------------------------------- at once

HEAVY = {"torch", "lightning", "transformers"}


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "train --help",
        "trian",
        "train nowhere.yaml",
        "train ioi attribution.method=epa",
        "train ioi trian.steps=3",
        "train task.name=iio",
        "train task.name=jsonl task.path=nowhere.jsonl",
        "train task.metric=nowhere.py:mine",
        "attribute attribution.method=nowhere.py:mine",
        "check --help",
        "check nowhere.jsonl",
        "check nowhere.csv task.n_tran=3",
        "convert --help",
        "convert nowhere.jsonl -o ours.jsonl",
        "completion",
    ],
)
def test_what_needs_no_model_loads_no_torch(arguments):
    """Seconds are not measured: what takes them is not imported."""
    script = (
        "import sys\nfrom circuitprune.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print('heavy:', sorted({HEAVY!r} & sys.modules.keys()), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments.split()], capture_output=True, text=True
    )
    answers = "help" in arguments or arguments in ("--version", "completion")
    wanted = FINISHED if answers else DATA if "nowhere.jsonl" in arguments else CONFIG
    assert done.stdout.splitlines()[-1] == f"heavy: [] {wanted}", done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("trian ioi", "no command 'trian'; did you mean 'train'? Known: check, "),
        ("train ioi --steps 5", "no option --steps; a setting is written as train.steps=500; "),
        ("report a --steps 5", "report: error: no option --steps; "),
        ("verify --hepl", "did you mean '--help'? Known: -h, --help, --circuit"),
        ("verify", "required: folder\n"),
        ("check", "required: pairs\n"),
    ],
)
def test_what_was_typed_wrong_is_named_with_what_is_right(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == CONFIG and words in capsys.readouterr().err


def test_what_a_summary_says_to_type_again_is_one_word_for_each_argument():
    """Wherever it was installed from, and with quotes where a shell would take it apart."""
    arguments = ["my configs/a.yaml", "verify.sizes=[0.1, 0.2]", "train.steps=3"]
    options = parse(parser_of_train(), ["--dry-run", *arguments])
    assert shlex.split(typed("train", options)) == ["circuitprune", "train", *arguments]


def parser_of_train() -> Parser:
    parser = Parser()
    add_train(parser)
    return parser


def test_settings_may_follow_an_option_and_are_no_other_commands(home):
    """The default of no settings is made anew each time."""
    assert parse(parser_of_train(), ["a", "--dry-run", "train.lr=1"]).overrides == ["train.lr=1"]
    parser = parser_of_train()
    assert parse(parser, ["a", "--dry-run", "b=1"]).overrides == ["b=1"]
    assert parse(parser, ["a", "--dry-run", "c=1"]).overrides == ["c=1"]


def test_the_help_of_train_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for one in settings_of_config():
        assert f"{one.key}={one.default}" in shown


def test_completion_knows_commands_and_settings(capsys):
    assert main(["completion"]) == 0
    shown = capsys.readouterr().out
    assert "compare-scores" in shown and "train.steps=" in shown


def test_a_config_is_optional_or_known_by_name(monkeypatch):
    seen = []
    monkeypatch.setattr("circuitprune.pipelines.train.dry_run", lambda c: seen.append(c) or "")
    assert main(["train", "sva", "--dry-run", "train.steps=3"]) == 0
    assert main(["train", "task.name=sva", "train.steps=3", "--dry-run"]) == 0
    assert main(["train", "--dry-run"]) == 0
    named, without, default = seen
    assert named.task.name == without.task.name == "sva" and default.task.name == "ioi"
    assert named.train.steps == without.train.steps == 3


def test_a_pipe_sees_a_line_when_it_is_printed(monkeypatch):
    """And not when its buffer is full, minutes later."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    assert main(["completion"]) == 0
    assert pipe.getvalue().startswith(b"complete ")


def test_the_package_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "circuitprune", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("circuitprune ") and done.returncode == 0


def test_only_a_process_of_its_own_is_deaf_when_it_is_done(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "circuitprune.cli.stoppable", lambda last: asked.append(last) or nullcontext()
    )
    assert main(["completion"]) == 0
    monkeypatch.setattr("sys.argv", ["circuitprune", "completion"])
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["compare_scores.py", "a", "b"])
    assert script_main("compare-scores", ["a", "b"]) and script_main("compare-scores")
    assert asked == [False, True, False, True]
