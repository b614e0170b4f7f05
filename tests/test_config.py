"""Configs: precedence, what is refused and in which words, round trips, the shipped files."""

import inspect
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import yaml
from lightning.pytorch import Trainer

from circuitprune.attribution.methods import METHODS, names_with
from circuitprune.config import AttributionConfig, GatesConfig, RunConfig, TaskConfig, TrainConfig
from circuitprune.data.checks import fits
from circuitprune.errors import ConfigError
from circuitprune.pipelines.verify_config import EvidenceConfig, load_options
from circuitprune.runs.settings import ELSEWHERE, PRESETS, flatten, load_config, settings, to_yaml
from circuitprune.training.trainer import INSTEAD, TrainerConfig

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes as a config file and returns its path."""

    def write(content: str | bytes, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# ---------------------------------------------------------------- precedence


def test_defaults_alone():
    assert load_config(None) == RunConfig()


def test_an_empty_file_is_the_defaults(write):
    assert load_config(write("")) == RunConfig()
    assert load_config(write("# only a comment\n")) == RunConfig()


def test_file_overrides_defaults_and_command_line_overrides_file(write):
    path = write("train: {steps: 7, batch_size: 3}\nablation: zero\n")
    config = load_config(path, ["train.steps=9"])
    assert (config.train.steps, config.train.batch_size) == (9, 3)
    assert config.ablation == "zero"
    assert config.train.val_every == TrainConfig().val_every


def test_preset_lies_between_defaults_and_file(write):
    path = write("preset: edge_pruning\ntrain: {batch_size: 4}\ngates: {warmup: 0.5}\n")
    config = load_config(path, ["train.lr=0.25"])
    recipe = PRESETS["edge_pruning"]
    assert config.gates.learner == recipe["gates"]["learner"] != GatesConfig().learner
    assert config.train.steps == recipe["train"]["steps"] != TrainConfig().steps
    assert (config.train.batch_size, config.gates.warmup, config.train.lr) == (4, 0.5, 0.25)


def test_preset_on_the_command_line_still_lies_under_the_file(write):
    config = load_config(write("train: {batch_size: 4}\n"), ["preset=edge_pruning"])
    assert config.train.batch_size == 4
    assert config.train.lr == PRESETS["edge_pruning"]["train"]["lr"]


def test_file_order_of_preset_and_settings_does_not_matter(write):
    first = load_config(write("preset: edge_pruning\ntrain: {steps: 5}\n"))
    last = load_config(write("train: {steps: 5}\npreset: edge_pruning\n"))
    assert first == last


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_changes_only_what_it_names(name):
    config, default = load_config(None, [f"preset={name}"]), RunConfig()
    assert config.preset == name
    for section in fields(RunConfig):
        if section.name not in PRESETS[name] and section.name != "preset":
            assert getattr(config, section.name) == getattr(default, section.name)
    for section, recipe in PRESETS[name].items():
        plain = not isinstance(recipe, dict)
        expected = recipe if plain else replace(getattr(default, section), **recipe)
        assert getattr(config, section) == expected


def test_trainer_options_pass_through(write):
    path = write("train:\n  trainer: {gradient_clip_val: 0.5}\n")
    config = load_config(path, ["train.trainer.log_every_n_steps=2"])
    assert config.train.trainer == TrainerConfig(gradient_clip_val=0.5, log_every_n_steps=2)


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        load_config(None).ablation = "zero"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.stepz=3", "steps"),
        ("tran.steps=3", "train"),
        ("gates.lerner=topk", "learner"),
        ("ablatoin=zero", "ablation"),
        ("verify.size=[0.1]", "sizes"),
    ],
)
def test_unknown_key_names_the_nearest(write, override, near):
    key = override.split("=")[0].split(".")[-1 if "tran." not in override else 0]
    message = refusal(None, [override])
    assert repr(key) in message and repr(near) in message and "\n" not in message


def test_unknown_key_in_a_file_names_the_file(write):
    path = write("train: {stepz: 3}\n")
    message = refusal(path)
    assert str(path) in message and "stepz" in message and "'steps'" in message


@pytest.mark.parametrize(
    "override",
    ["train.steps=many", "train.lr=[1]", "verify.sizes=abc", "train.progress=maybe", "task="],
)
def test_wrong_type_is_refused_with_its_key(override):
    assert override.split("=")[0] in refusal(None, [override])


def test_a_value_in_place_of_a_section_is_refused():
    assert "train holds settings: write train.steps" in refusal(None, ["train=5"])
    assert "train.steps is one value, so it has no 'x'" in refusal(None, ["train.steps.x=5"])


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("gates.learner=magic", ("topk", "hard_concrete")),
        ("ablation=noise", ("patch", "zero", "mean", "positional-mean", "resample", "optimal")),
        ("model.dtype=float16", ("float32", "float64", "bfloat16")),
        ("objective=loss", ("kl", "faithfulness_gap", "cross_entropy")),
        ("preset=none_such", ("none", "edge_pruning")),
        ("verify.selection=best", ("top_n", "greedy", "threshold")),
        ("verify.ranking=squared", ("absolute", "signed")),
        ("attribution.direction=up", ("noising", "denoising")),
        ("attribution.method=magic", (*METHODS, "none")),
    ],
)
def test_an_unknown_choice_lists_the_allowed_ones(override, allowed):
    message = refusal(None, [override])
    assert all(choice in message for choice in allowed)


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=-1",
        "train.batch_size=0",
        "train.val_every=0",
        "train.checkpoint_every=0",
        "train.lr=0",
        "train.lr=.nan",
        "train.lr_warmup=-1",
        "train.lr_end=-0.1",
        "train.trainer={precision: 16-mixed}",
        "task.n_train=0",
        "task.n_val=-1",
        "task.n_test=-1",
        "attribution.steps=0",
        "attribution.method=eap_ig",
        "attribution.doublings=0",
        "attribution.shard_edges=0",
        "attribution.threads=0",
        "attribution.acdc_thresholds=[]",
        "attribution.acdc_thresholds=[0.1,0.0]",
        "attribution.acdc_thresholds=[0.1,0.1]",
        "cache.max_gb=-1",
        "verify.sizes=[0.1,1.5]",
        "verify.sizes=[0.0]",
        "verify.sizes=[]",
        "verify.selection=threshold",
        "verify.thresholds=[0.5]",
        "verify.batch_size=0",
        "task.name=jsonl",
        "gates.k_max=1.5",
        "gates.k_max=0",
        "gates.k_min=0",
        "gates.warmup=2",
        "gates.temperature=0",
        "gates.target_density=1",
        "gates.target_density=0",
        "gates.init_density=1",
    ],
)
def test_values_out_of_range_are_refused_with_their_key(override):
    key = override.split("=")[0]
    shown = "verify.thresholds" if key == "verify.selection" else key
    shown = "task.path" if key == "task.name" else shown
    assert shown in refusal(None, [override])


@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_every_method_has_its_name(method):
    assert load_config(None, [f"attribution.method={method}"]).attribution.method == method


def test_an_unknown_method_names_the_nearest():
    assert "did you mean 'eap_ig_inputs'?" in refusal(None, ["attribution.method=eap_ig_input"])


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("acdc", "attribution.edges=x.json"),
        ("acdc", "attribution.per_example=true"),
        ("acdc", "attribution.convergence=true"),
        ("exact", "attribution.convergence=true"),
        ("exact_nodes", "attribution.convergence=true"),
        ("eap", "attribution.convergence=true"),
        ("random", "attribution.convergence=true"),
        ("acdc", "attribution.direction=denoising"),
        ("eap", "attribution.direction=denoising"),
        ("none", "attribution.direction=denoising"),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(method, option):
    assert option.split("=")[0] in refusal(None, [f"attribution.method={method}", option])


def test_a_refused_option_names_the_methods_that_have_it():
    message = refusal(None, ["attribution.method=eap", "attribution.convergence=true"])
    assert all(name in message for name in names_with("steps")) and "magnitude" not in message
    message = refusal(None, ["attribution.method=eap", "attribution.direction=denoising"])
    assert "exact, exact_denoising, exact_nodes" in message


@pytest.mark.parametrize("method", names_with("steps"))
def test_methods_with_steps_may_measure_convergence(method):
    config = load_config(None, [f"attribution.method={method}", "attribution.convergence=true"])
    assert config.attribution.convergence


@pytest.mark.parametrize("method", names_with("directed"))
def test_exact_methods_have_a_direction(method):
    config = load_config(None, [f"attribution.method={method}", "attribution.direction=denoising"])
    assert config.attribution.direction == "denoising"


def test_the_old_key_of_the_attribution_is_read_with_a_note(write, capsys):
    path = write("init: {method: eap, steps: 3}\nattribution: {threads: 2}\n")
    config = load_config(path, ["attribution.steps=4", "init.doublings=2"])
    asked = (config.attribution.method, config.attribution.steps, config.attribution.doublings)
    assert asked == ("eap", 4, 2)
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and str(path) in notes[0] and "the command line" in notes[1]
    assert all("`init`" in note and "`attribution`" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("task: {seed: 1}\ntask.seed: 3\n", "task.seed"),
        ("task.seed: 1\ntask: {seed: 3}\n", "task.seed"),
        ("{task.seed: 1, task: {seed: 3}}", "task.seed"),
        ("init: {steps: 1}\nattribution: {steps: 3}\n", "attribution.steps"),
        ("attribution: {steps: 1}\ninit.steps: 3\n", "attribution.steps"),
        (
            "train: {trainer: {log_every_n_steps: 1}, trainer.log_every_n_steps: 3}",
            "train.trainer.log_every_n_steps",
        ),
    ],
)
def test_a_file_says_each_setting_once(write, text, key):
    """However it is spelt; no value is picked without a word."""
    path = write(text)
    assert refusal(path) == f"{path}: {key} stands twice, as 1 and as 3; keep one"
    with pytest.raises(ConfigError, match="stands twice"):
        load_config(path, [f"{key}=5"])  # what the file means is still unknown


def test_a_typed_section_says_each_setting_once():
    item = "train={trainer: {log_every_n_steps: 1}, trainer.log_every_n_steps: 3}"
    assert "train.trainer.log_every_n_steps stands twice, as 1 and as 3" in refusal(None, [item])


@pytest.mark.parametrize(
    "typed",
    [
        ["task.seed=1", "task.seed=3"],
        ["task={seed: 1, n_val: 5}", "task.seed=3"],
        ["task.seed=1", "task={seed: 3}"],
    ],
)
def test_of_two_values_on_the_command_line_the_last_holds(write, typed):
    assert load_config(None, typed).task.seed == 3
    assert load_config(write("task: {seed: 7}\n"), typed).task.seed == 3


def test_on_the_command_line_the_last_holds_under_an_old_name_too(capsys):
    typed = ["attribution.steps=1", "init.steps=3"]
    assert load_config(None, typed).attribution.steps == 3
    assert load_config(None, typed[::-1]).attribution.steps == 1
    assert capsys.readouterr().err


def test_all_problems_are_told_at_once(write):
    path = write("train: {steps: -1, lr: -2}\ntask: {name: jsonl}\ngates: {k_max: 3}\n")
    lines = refusal(path).splitlines()
    assert len(lines) == 4
    assert all(line.startswith(str(path)) for line in lines)
    for key in ("train.steps", "train.lr", "task.path", "gates.k_max"):
        assert sum(key in line for line in lines) == 1


def test_the_edges_of_the_ranges_are_allowed():
    config = load_config(None, ["train.steps=0", "task.n_val=0", "task.n_test=0", "cache.max_gb=0"])
    assert (config.train.steps, config.task.n_val, config.task.n_test) == (0, 0, 0)
    assert config.cache.max_gb == 0
    config = load_config(None, ["verify.sizes=[1.0]", "gates.warmup=0", "gates.k_max=1"])
    assert (config.verify.sizes, config.gates.warmup, config.gates.k_max) == ([1.0], 0, 1)
    config = load_config(None, ["verify.selection=threshold", "verify.thresholds=[-0.5,0]"])
    assert config.verify.thresholds == [-0.5, 0]


@pytest.mark.parametrize("item", ["train.steps", "=3", "train.steps:3"])
def test_an_override_is_an_assignment(item):
    assert "key=value" in refusal(None, [item])


# ---------------------------------------------------------------- broken files


def test_a_value_that_is_no_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"line: verify\.sizes: while parsing a flow seq"):
        load_config(None, ["verify.sizes=[0.01"])


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.yaml"
    assert str(path) in refusal(path)
    assert str(tmp_path) in refusal(tmp_path)


def test_list_root_is_refused(write):
    path = write("- train\n- steps\n")
    message = refusal(path)
    assert str(path) in message and "key: value" in message


@pytest.mark.parametrize("text", ["just words\n", "3\n", "true\n"])
def test_scalar_root_is_refused(write, text):
    path = write(text)
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train:\n  steps: [1, 2\n", "line 3, column 1"),
        ("train:\n\tsteps: 3\n", "line 2, column 1"),
        ("train: {steps: 3\ntask: 4}\n", "line 2"),
        ("ablation: zero\nablation: mean\n", "line 2"),
    ],
)
def test_broken_yaml_tells_line_and_column(write, text, place):
    path = write(text)
    message = refusal(path)
    assert str(path) in message and place in message


def test_text_that_is_not_utf8_is_refused(write):
    path = write("output_dir: Ergebniß\n".encode("latin-1"))
    message = refusal(path)
    assert str(path) in message and "utf-8" in message


def test_byte_order_mark_and_crlf_are_read(write):
    path = write(b"\xef\xbb\xbftrain:\r\n  steps: 7\r\n")
    assert load_config(path).train.steps == 7


def test_a_huge_file_is_refused(write):
    assert "bytes" in refusal(write("# " + "x" * 1_000_001))


@pytest.mark.parametrize("secret", ["${oc.env:HOME}", "${train.steps}", "${oc.decode:1}"])
def test_interpolations_are_refused_in_files_and_overrides(write, secret, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/private")
    for message in (
        refusal(write(f"output_dir: {secret}\n")),
        refusal(None, [f"output_dir={secret}"]),
    ):
        assert "interpolation" in message and "/somewhere/private" not in message


def test_python_objects_in_yaml_are_not_made(write, tmp_path):
    trap = tmp_path / "trap"
    path = write(f"output_dir: !!python/object/apply:os.mkdir ['{trap}']\n")
    assert str(path) in refusal(path)
    assert not trap.exists()


# ---------------------------------------------------------------- round trips


def test_the_saved_form_reads_back_equal(write):
    overrides = [
        "preset=edge_pruning",
        "train.trainer.gradient_clip_val=0.5",
        "verify.sizes=[0.001,0.25,1.0]",
        "task.name=jsonl",
        "task.path='a path: with # signs.jsonl'",
        "output_dir=über/weg",
        "train.lr=1e-5",
        "model.revision='12'",
    ]
    config = load_config(None, overrides)
    assert config.train.lr == 1e-5 and config.model.revision == "12"
    assert load_config(write(to_yaml(config))) == config
    assert load_config(write(to_yaml(RunConfig()))) == RunConfig()


def test_flatten_has_one_plain_value_per_leaf():
    flat = flatten(load_config(None, ["train.trainer.profiler=simple"]))
    assert flat["train.steps"] == 1000 and flat["train.trainer.profiler"] == "simple"
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
    assert list(flat) == [one.key for one in settings()]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_and_hold_overrides_only(path):
    asked = ["model.name=somewhere"] if "???" in path.read_text() else []
    config = load_config(path, asked)
    default = flatten(RunConfig())
    assert config.output_dir == f"runs/{path.stem}"
    changed = {key for key, value in flatten(config).items() if default.get(key) != value}
    assert "output_dir" in changed


def test_a_name_is_a_shipped_config_whatever_folder_is_called_so(tmp_path, monkeypatch):
    """Such as that of an earlier run; only a file of that very name comes first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ioi").mkdir()
    assert load_config("ioi").task.name == "ioi"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("train: {steps: 3}")
    with pytest.raises(ConfigError, match=r"'run' is a folder; its config is run/config\.yaml"):
        load_config("run")


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    """A shell leaves it in `task.path=~/pairs.jsonl`, and a file holds what was written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("output_dir: ~/runs\nmodel: {name: ~/model}\n")
    typed = ["task.name=jsonl", "task.path=~/pairs.jsonl", "train.resume=~/last.ckpt"]
    config = load_config(tmp_path / "a.yaml", typed)
    assert (config.output_dir, config.model.name) == (f"{tmp_path}/runs", f"{tmp_path}/model")
    assert config.task.path == f"{tmp_path}/pairs.jsonl"
    assert config.train.resume == f"{tmp_path}/last.ckpt"


def test_configs_are_shipped_for_every_task_and_model():
    names = {path.stem for path in SHIPPED}
    for task in ("ioi", "greater_than", "sva", "pronoun"):
        assert {task, f"{task}_gpt2"} <= names
        assert load_config(f"{SHIPPED[0].parent}/{task}.yaml").model.name == "zoo/small"
        assert load_config(f"{SHIPPED[0].parent}/{task}_gpt2.yaml").model.name == "gpt2"
        assert load_config(f"{SHIPPED[0].parent}/{task}.yaml").task.name == task
    assert "stories260k_pronoun" in names
    boxes = load_config("boxes")
    assert (boxes.model.name, boxes.task.name) == ("zoo/boxes", "boxes")
    real = {
        "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "ioi sva greater_than sentiment"),
        "gemma3": ("google/gemma-3-270m", "ioi sva sentiment"),
    }
    for prefix, (hub, tasks) in real.items():
        for task in tasks.split():
            config = load_config(f"{prefix}_{task}")
            assert (config.model.name, config.task.name) == (hub, task)
            assert load_config(f"{prefix}_{task}", ["model.name=models/x"]).model.name == "models/x"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_name_nothing_outside_the_repository(path):
    assert "../" not in path.read_text() and not re.search(r": [/~]", path.read_text())


def test_a_setting_that_a_file_leaves_open_is_asked_for(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = refusal("stories260k_pronoun")
    assert said.startswith("stories260k_pronoun leaves model.name to you: say model.name=... on")
    assert "model.name=FOLDER" in (SHIPPED[0].parent / "stories260k_pronoun.yaml").read_text()
    config = load_config("stories260k_pronoun", ["model.name=models/x"])
    assert config.model.name == "models/x" and Path(config.task.path).is_file()
    both = write("model:\n  name: ???\noutput_dir: ???\n")
    assert "model.name=... output_dir=... on the command line" in refusal(both)


def test_pairs_stand_where_the_command_runs_or_beside_the_config(write, monkeypatch, tmp_path):
    path = write("task: {name: jsonl, path: mine.jsonl}\n")
    assert load_config(path).task.path == "mine.jsonl"  # nowhere: said as it is written
    (path.parent / "mine.jsonl").write_text("")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert load_config(path).task.path == str(path.parent / "mine.jsonl")
    assert load_config(path, ["task.path=other.jsonl"]).task.path == "other.jsonl"
    Path("mine.jsonl").write_text("")
    assert load_config(path).task.path == "mine.jsonl"


def test_the_table_of_settings_is_complete_and_has_the_defaults():
    text = (SHIPPED[0].parents[1] / "docs" / "running.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", text, re.MULTILINE))
    for one in settings():
        assert yaml.safe_load(rows.pop(one.key)) == yaml.safe_load(one.default), one.key
    sections = {one.key.partition(".")[0] for one in settings()}
    assert not [key for key in rows if key.split(".")[0] in sections]


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        (GatesConfig(), "learner", "top_k", "gates.learner='top_k' is not known; did you mean"),
        (AttributionConfig(), "method", "epa", "did you mean 'eap'?"),
        (TrainConfig(), "lr", float("inf"), "train.lr=inf"),
        (TaskConfig(), "n_train", 10**11, "task.n_train must"),
    ],
)
def test_a_section_made_in_python_checks_itself(section, name, value, words):
    made = copy(section)
    object.__setattr__(made, name, value)  # past beartype, which tests alone have
    with pytest.raises(ConfigError, match=re.escape(words)):
        made.__post_init__()


# ---------------------------------------------------------------- as the fields are declared


def declared(kind: object, of: type = RunConfig) -> list[str]:
    """Keys of all settings whose declared type is, or may be, this one."""

    def walk(section: type, prefix: str) -> Iterator[str]:
        for name, hint in get_type_hints(section).items():
            if is_dataclass(hint):
                yield from walk(hint, f"{prefix}{name}.")
            elif hint is kind or kind in get_args(hint):
                yield f"{prefix}{name}"

    return list(walk(of, ""))


def said_of(config: RunConfig, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


TEXT = [key for key in declared(str) if key != "task.metric"]
ODD = ["2024_01_01", "010", "12:30:45", "5e12345", "0123456", "1e10", "no", "a #1", "a: b", "[a"]
ODD += ["null and void", "{x}", "=", "~x", "!a", "*a", "&a", " spaced ", "0x10", "2024-01-01"]
OF_KNOWN_NAMES = ("task.name", "attribution.method", "features.dictionaries")
OF_KNOWN_NAMES += ("gates.starts", "gates.target", "tasks")
"""What takes one of a few names or forms, or a list."""
BESIDE = {"task.path": "task: {name: jsonl}\n"}
"""What else must be set."""


def test_every_setting_declared_as_text_is_tried():
    known = {"model.name", "model.revision", "task.corruption", "output_dir", "train.resume"}
    assert known | {"task.path", "attribution.edges", "verify.reference"} <= set(TEXT)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", [k for k in TEXT if k not in OF_KNOWN_NAMES])
def test_text_keeps_what_was_typed_on_the_command_line(write, key, value):
    config = load_config(write(BESIDE.get(key, "")), [f"{key}={value}"])
    assert said_of(config, key) == value
    assert load_config(write(to_yaml(config))) == config


@pytest.mark.parametrize(
    "value", [one for one in ODD if one[0] not in " [{!*&=" and ":" not in one]
)
@pytest.mark.parametrize("key", ["model.revision", "task.corruption", "output_dir"])
def test_text_keeps_what_was_typed_in_a_file(write, key, value):
    section, _, name = key.rpartition(".")
    text = f"{section}: {{{name}: {value}}}\n" if section else f"{name}: {value}\n"
    if "#" not in value:  # a comment in yaml, also without us
        assert said_of(load_config(write(text)), key) == value


def test_nothing_is_null_and_quoted_null_is_text(write):
    assert load_config(None, ["model.revision=null"]).model.revision is None
    assert load_config(write("model: {revision: null}")).model.revision is None
    assert load_config(write("model: {revision: 'null'}")).model.revision == "null"
    assert load_config(None, ["model.revision='null'"]).model.revision == "null"
    assert load_config(write("model: {revision: 12}"), ["model.revision="]).model.revision is None


@pytest.mark.parametrize("key", ["model.name", "output_dir"])
def test_names_are_not_empty(key):
    assert f"{key} is empty" in refusal(None, [f"{key}="])


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"'])
def test_text_that_no_file_can_hold_is_refused(write, text):
    assert "output_dir" in refusal(write(f"output_dir: {text}\n"))


FLOATS = [*declared(float), "verify.sizes", "verify.thresholds", "attribution.acdc_thresholds"]


def test_every_number_is_tried():
    assert {"gates.k_min", "train.lr", "train.trainer.gradient_clip_val"} <= set(FLOATS)
    assert {"cache.max_gb", "task.min_accuracy", "task.n_train"} <= set(FLOATS)


@pytest.mark.parametrize(
    "value", ["inf", "-inf", ".inf", "-.inf", "nan", ".NaN", "1e999", "infinity"]
)
@pytest.mark.parametrize("key", FLOATS)
def test_no_number_is_infinite_or_not_a_number(write, key, value):
    kind = get_type_hints(type(said_of(RunConfig(), key.rpartition(".")[0])))[key.split(".")[-1]]
    shown = f"[{value}]" if get_origin(kind) is list else value
    assert f"{key}=" in refusal(None, [f"{key}={shown}"])
    *sections, name = key.split(".")
    text = f"{name}: {shown}"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    assert f"{key}=" in refusal(write(text))


@pytest.mark.parametrize("value", ["inf", "-.inf", "nan", "1e999", "-1"])
@pytest.mark.parametrize("key", declared(float, EvidenceConfig))
def test_no_number_of_the_evidence_is(key, value):
    with pytest.raises(ConfigError, match=rf"^the command line: {key}"):
        load_options([f"{key}={value}"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.n_train=100000000000", "task.n_train must be a whole number up to a million"),
        ("task.n_train=10.5", "task.n_train must be a whole number"),
        ("task.min_accuracy=1.01", r"task.min_accuracy must lie in [0, 1]"),
        ("gates.penalty_lr=-1", "gates.penalty_lr must be >= 0"),
        ("train.lr=-1", "train.lr must be > 0"),
        ("task.seed=-1", "task.seed must lie in 0 to 10^15"),
        ("train.seed=1" + "0" * 40, "train.seed must lie in 0 to 10^15"),
        ("attribution.doublings=1000000", "attribution.doublings must lie in 1 to 1,000"),
        ("train.trainer.gradient_clip_val=0", "train.trainer.gradient_clip_val must be > 0"),
        ("train.steps=1" + "0" * 200, "train.steps="),
        ("train.steps=500.5", "train.steps='500.5' is not a whole number"),
    ],
)
def test_numbers_beyond_reason_are_refused(override, words):
    assert words in refusal(None, [override])


@pytest.mark.parametrize("text", ["x" * 300, "é" * 200, "/x" * 2000])
def test_text_that_can_name_no_file_is_refused_before_a_file_is_looked_for(write, text, tmp_path):
    for key in TEXT:
        assert f"{key}='" in refusal(None, [f"{key}={text}"])
    path = write(f"task: {{name: jsonl, path: '{text}'}}\nmodel: {{name: '{text}'}}\n")
    with pytest.raises(
        ConfigError, match=r"task\.path='.*\n.*model\.name='|model\.name='.*\n.*task"
    ):
        load_config(path, base=tmp_path)
    with pytest.raises(ConfigError, match="no file can have that name"):
        load_config(text)


def test_a_home_that_nobody_has_is_a_folder_like_any_other(write, tmp_path):
    path = write("attribution: {edges: ~no-such-user/a.json}\n")
    assert load_config(path, base=tmp_path).attribution.edges == "~no-such-user/a.json"


def test_a_number_made_in_python_may_be_of_any_length():
    """Beyond what a float holds there is no question whether it is finite."""
    for name in ("steps", "seed"):
        with pytest.raises(ConfigError, match=rf"train\.{name} must lie in 0 to "):
            TrainConfig(**{name: 10**400})
    assert fits(10**400, int) and not fits(10**400, float) and fits(10**40, float)


def test_many_faults_and_long_ones_are_told_in_part(write):
    message = refusal(write("\n".join(f"k{i}: 1" for i in range(3000))))
    assert len(message.splitlines()) == 21 and message.endswith("and 2,980 more")
    long = "9" * 9000
    for item in (
        long,
        f"train.steps={long}",
        f"{long}=1",
        f"task.name={long}",
        f"train.lr={long}x",
    ):
        assert len(refusal(None, [item])) < 500


def test_numbers_are_read_as_people_write_them():
    typed = ["train.lr=1e-5", "train.steps=1_000", "task.seed=010", "task.n_train=0.5"]
    config = load_config(None, [*typed, "train.progress=No", "task.n_val=auto"])
    assert (config.train.lr, config.train.steps, config.task.seed) == (1e-5, 1000, 10)
    assert (config.task.n_train, config.task.n_val, config.train.progress) == (0.5, "auto", False)


def test_options_of_the_trainer_are_taken_or_say_what_to_set():
    """A new option of Lightning's is one that nobody has thought about: it fails here."""
    options = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    taken = {one.name for one in fields(TrainerConfig)}
    instead = {key.removeprefix("train.trainer.") for key in INSTEAD}
    assert options <= taken | instead and taken <= options and not taken & instead
    for key, sentence in INSTEAD.items():
        assert refusal(None, [f"{key}=2"]) == f"the command line: {key} is not taken: {sentence}"
    assert "did you mean 'profiler'?" in refusal(None, ["train.trainer.profilr=simple"])


def test_settings_of_other_programs_say_what_does_their_work():
    told = ELSEWHERE["model.device_map"]
    assert "train.device" in told and "model.shard=true" in told
    for typed in ("model.device_map=auto", "model.device_map={'': 0}"):
        said = refusal(None, [typed])
        assert said == f"the command line: model.device_map is not taken: {told}"


# ---------------------------------------------------------------- nothing is followed


def test_no_resolver_is_there_to_read_anything(write, monkeypatch):
    """Whatever spells `${...}` is refused, and nothing in the package could follow it."""
    monkeypatch.setenv("SECRET", "hush")
    spellings = ['"\\x24{oc.env:SECRET}"', '"$\\x7boc.env:SECRET}"', "${oc.env:SECRET}"]
    for key in TEXT:
        section, _, name = key.rpartition(".")
        for value in spellings:
            text = f"{section}: {{{name}: {value!s}}}" if section else f"{name}: {value}"
            text = text if value[0] == '"' else text.replace(value, f"'{value}'")
            message = refusal(write(text))
            assert "interpolations" in message and "hush" not in message
    assert "interpolations" in refusal(write("verify: {sizes: ['${oc.env:SECRET}']}"))
    source = Path(__file__).parents[1] / "circuitprune"
    assert not any("import omegaconf" in one.read_text() for one in source.rglob("*.py"))
    assert not any("from omegaconf" in one.read_text() for one in source.rglob("*.py"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("output_dir: &a x\ntask: {corruption: *a}\n", "line 1: anchors"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "anchors"),
        ("train: &a {steps: 1, <<: *a}\n", "anchors"),
        ("output_dir: !!python/name:os.system\n", "the tag 'tag:yaml.org,2002:python/name"),
        ("output_dir: !mine x\n", "the tag '!mine'"),
        ("train: {steps: 1, steps: 2}\n", "the key 'steps' stands here for the second time"),
        ("? [a]\n: 1\n", "a key is a name"),
        ("a: " + "[" * 5000, "not readable as yaml"),
        ("verify: {sizes: " + "[" * 150 + "]" * 150 + "}", "line 1: brackets are nested deeper"),
        ('output_dir: "\\Uffffffff"', "not readable as yaml"),
        ('output_dir: "\\U00110000"', "not readable as yaml"),
        ("a: 1\n---\nb: 2\n", "not readable as yaml"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(write, text, words):
    path = write(text)
    message = refusal(path)
    assert words in message and str(path) in message


# ---------------------------------------------------------------- where things lie


def test_relative_paths_of_a_file_start_from_a_folder_and_typed_ones_from_here(
    write, tmp_path, monkeypatch
):
    for name in ("m/model", "gpt2", "zoo/small", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("pairs.jsonl", "a.json", "mine.py"):
        (tmp_path / name).touch()
    text = "model: {name: m/model}\ntask: {name: jsonl, path: pairs.jsonl}\n"
    path = write(text + "attribution: {edges: a.json}\nverify: {reference: gone.json}\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(path, base=tmp_path)
    assert config.model.name == str(tmp_path / "m" / "model")
    assert config.task.path == str(tmp_path / "pairs.jsonl")
    assert config.attribution.edges == str(tmp_path / "a.json")
    assert config.verify.reference == "gone.json" and config.output_dir == "runs/run"
    assert load_config(path, ["model.name=m/model"], tmp_path).model.name == "m/model"
    for name in ("zoo/small", "org/model", "/absent"):
        assert load_config(write(f"model: {{name: {name}}}"), base=tmp_path).model.name == name
    place = tmp_path / "m" / "model"
    listed = "features: {dictionaries: [m1=m/model, m/model, zoo/small]}"
    named = write(f"level: feature\nattribution: {{method: eap}}\n{listed}")
    found = load_config(named, base=tmp_path).features.dictionaries
    assert found == [f"m1={place}", str(place), "zoo/small"]
    own = write("task: {name: 'mine.py:Capital', metric: logit_diff}\n")
    assert load_config(own, base=tmp_path).task.name == f"{tmp_path / 'mine.py'}:Capital"


# ---------------------------------------------------------------- who is blamed


def test_a_typo_is_blamed_on_where_it_stands(write):
    path = write("train: {steps: 3}\n")
    assert refusal(path, ["train.stepz=3"]).startswith("the command line: ")
    assert refusal(path, ["train.steps=-3"]).startswith("the command line: ")
    assert refusal(path, ["task.name=jsonl"]).startswith("the command line: task.path")
    assert refusal(path, ["verify.selection=threshold"]).startswith("the command line: ")
    assert refusal(write("gates: {k_max: 3}"), ["train.steps=3"]).startswith(str(path))
    both = refusal(write("gates: {k_max: 3}"), ["train.steps=-3"]).splitlines()
    assert sorted(line.split(":")[0] for line in both) == sorted([str(path), "the command line"])
