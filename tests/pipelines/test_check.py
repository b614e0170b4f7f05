"""`check`: what becomes of each pair of a file, said without running the model."""

import csv
import json

import pytest
from tiny import pair_rows, save_model

from circuitprune.cli import main, script_main
from circuitprune.errors import DataError
from circuitprune.models import loading

USABLE, UNUSABLE = 0, DataError.exit_code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("home") / "model")


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch):
    monkeypatch.setattr(loading, "AutoModelForCausalLM", None)


def damaged(n=40):
    """Rows of which five do not fit, each for a reason of its own."""
    rows = pair_rows()[:n]
    rows[3]["corrupt"] = "today " + rows[3]["corrupt"]
    rows[4]["answers"] = [" and then"]
    rows[5]["wrong"] = [" zz"]
    rows[6]["wrong"] = rows[6]["answers"]
    rows[7] = dict(rows[8])
    return rows


@pytest.fixture
def check(model, tmp_path, capsys):
    """`check(rows, *overrides)` -> exit code and what was printed."""

    def check(rows, *overrides, name="pairs.jsonl"):
        path = tmp_path / name
        if name.endswith(".csv"):
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["clean", "corrupt", "answers", "wrong"])
                for row in rows:
                    many = ["|".join(row[part]) for part in ("answers", "wrong")]
                    writer.writerow([row["clean"], row["corrupt"], *many])
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        capsys.readouterr()
        code = main(["check", str(path), str(model), *overrides])
        return code, capsys.readouterr().out

    return check


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_every_pair_is_accounted_for(check, name):
    code, out = check(damaged(), name=name)
    assert code == USABLE
    assert f"pairs     40 in" in out and "kept      35\n" in out  # noqa: F541
    assert out.count("dropped   1: ") == 5
    assert "split     18 train, 0 val, 17 test by task.n_train=auto" in out
    assert "without these settings `train` wants 256 train, 64 val, 256 test" in out


def test_a_failing_answer_shows_its_own_tokens_not_the_prompts(check):
    _, out = check(damaged())
    assert "line-000005, after 'the cat saw the bird and then the'\n" in out
    assert "answers  ' and then' -> [' and', ' then'], 2 tokens" in out
    assert "wrong    ' zz' -> ['<unk>'], a special or unknown token" in out
    assert "answers  ' cat' -> [' cat']\n        wrong    ' cat' -> [' cat']" in out
    assert "corrupt  'today today the bird" in out and "['today', ' today'," in out


def test_the_first_few_of_a_reason_are_shown(check):
    rows = pair_rows()
    for row in rows[:10]:
        row["answers"] = [" zz"]
    _, out = check(rows)
    assert "dropped   10: no answer is a single known token" in out
    assert out.count(", after ") == 3 and "line-000003" in out and "line-000004" not in out


def test_answers_left_out_of_kept_pairs_are_counted(check):
    rows = pair_rows()[:10]
    rows[0]["answers"] += [" zz", " and then"]
    code, out = check(rows)
    assert code == USABLE and "kept      10\nleft out  2 answers" in out


@pytest.mark.parametrize(
    ("sizes", "code", "words"),
    [
        (["task.n_train=20", "task.n_val=5", "task.n_test=10"], USABLE, "20 train, 5 val, 10 test"),
        (["task.n_train=1.0", "task.n_val=0", "task.n_test=0"], USABLE, "35 train, 0 val, 0 test"),
        (["task.n_train=36", "task.n_val=0", "task.n_test=0"], UNUSABLE, "asked for 36, found 35"),
        (["task.n_train=20"], UNUSABLE, "asked for 340, found 35"),
    ],
)
def test_a_split_that_is_asked_for_is_tried(check, sizes, code, words):
    found, out = check(damaged(), *sizes)
    assert found == code and words in out


def test_a_file_with_nothing_usable_is_an_error(check):
    rows = [{**row, "answers": [" zz"]} for row in pair_rows()[:3]]
    code, out = check(rows)
    assert code == UNUSABLE and "kept      0" in out and "split     none" in out
    assert check(pair_rows()[:1])[0] == UNUSABLE
    assert check([{**row, "clean": "the cat", "corrupt": "the dog"} for row in rows])[0] == UNUSABLE


def test_one_kind_alone(check):
    rows = [{**row, "kind": "ab"[i % 3 == 0]} for i, row in enumerate(pair_rows()[:30])]
    assert "pairs     10 in" in check(rows, "task.corruption=b")[1]
    code, out = check(rows, "task.corruption=c")
    assert code == UNUSABLE and out == ""


def test_settings_that_name_other_pairs_are_not_passed_over(check, capsys):
    check(pair_rows()[:4])
    for other in ("task.name=ioi", "task.path=another.jsonl"):
        code, out = check(pair_rows()[:4], other)
        assert (code, out) == (2, "")


def test_the_script_is_the_command(check, model, tmp_path, capsys):
    code, out = check(damaged())
    assert script_main("check", [str(tmp_path / "pairs.jsonl"), str(model)]) == code
    assert capsys.readouterr().out == out


def test_the_shipped_tokenizer_is_the_default(check, tmp_path, capsys):
    check(pair_rows()[:4])
    assert main(["check", str(tmp_path / "pairs.jsonl")]) == UNUSABLE
    assert "in tokens of zoo/small" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "pairs.jsonl"), "zoo/smal"]) == 5
    assert "Did you mean 'zoo/small'" in capsys.readouterr().err
