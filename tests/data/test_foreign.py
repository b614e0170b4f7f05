"""Files of other tools become our pairs; each row that does not is told with its line."""

import json

import pytest

from circuitprune.cli import main
from circuitprune.data.foreign import FORMATS, Wanted, convert_pairs
from circuitprune.data.tasks import JsonlTask, Pair
from circuitprune.errors import DataError
from circuitprune.files.limits import LIMITS

WORDS = dict(enumerate([" Mary", " John", " she", " he", " cat", " dog", " pet", " France"]))
WANTED = Wanted(words=WORDS.__getitem__)
IOI = "Mary and John went. John gave a pen to"
ABC, FLIP = IOI.replace("John gave", "Paul gave"), IOI.replace("John gave", "Mary gave")


def converted(tmp_path, content, file="theirs.jsonl", wanted=WANTED, **options):
    source, target = tmp_path / file, tmp_path / "ours.jsonl"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = convert_pairs(source, target, wanted, **options)
    pairs = [*JsonlTask(target).all_pairs]
    assert found.n_pairs == len(pairs) and found.first == pairs[0]
    return found, pairs


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


# ---------------------------------------------------------------- formats


MIB_IOI = {
    "template": "{A} and {B}",
    "metadata": {"indirect_object": "Mary", "subject": "John"},
    "prompt": IOI,
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "s2_io_flip_counterfactual": {"prompt": FLIP, "choices": ["Mary", "John"], "answerKey": 1},
    "abc_counterfactual": {"prompt": ABC, "choices": ["Mary", "John"], "answerKey": 0},
    "random_names_counterfactual": None,
}
CHOICES = {"label": ["A", "B"], "text": ["red", "blue"]}
MIB_MCQA = {
    "prompt": "Q?\nA. red\nB. blue\nAnswer:",
    "choices": CHOICES,
    "answerKey": 1,
    "symbol_counterfactual": {
        "prompt": "Q?\n1. red\n2. blue\nAnswer:",
        "choices": {**CHOICES, "label": [1, 2]},
        "answerKey": 1,
    },
}
MIB_SUM = {
    "prompt": "Q: How much is 5 plus 4? A: ",
    "label": "9",
    "random_counterfactual": {"prompt": "Q: How much is 2 plus 1? A: ", "label": 3},
}
LATER = tuple(f"{year:02d}" for year in range(33, 100))
NOT_LATER = tuple(f"{year:02d}" for year in range(33))
NAMES = {"a": "Mary", "b": "John"}
WAR, WAR_01 = "The war went on from 1732 to 17", "The war went on from 1701 to 17"


@pytest.mark.parametrize(
    ("name", "content", "form", "expected"),
    [
        (
            "ioi.csv",
            f",clean,corrupted,correct_idx,incorrect_idx\n7,{IOI},{ABC},0,1.0",
            "eap-ig",
            (IOI, ABC, (" Mary",), (" John",), "corrupted"),
        ),
        (
            "gender.csv",
            "clean,corrupted,clean_answer_idx,corrupted_answer_idx,label\nThe nurse,The man,2,3,0",
            "eap-ig",
            ("The nurse", "The man", (" she",), (" he",), "corrupted"),
        ),
        (
            "facts.csv",
            "clean,corrupted,country_idx,corrupted_country_idx\nParis in,Rome in,7,4",
            "eap-ig",
            ("Paris in", "Rome in", (" France",), (" cat",), "corrupted"),
        ),
        (
            "hypernymy.csv",
            'clean,corrupted,answers_idx,corrupted_answers_idx\nsofas,axes,"[4, 6]",[5]',
            "eap-ig",
            ("sofas", "axes", (" cat", " pet"), (" dog",), "corrupted"),
        ),
        (
            "years.csv",
            f"clean,corrupted,correct_idx\n{WAR},{WAR_01},32",
            "eap-ig",
            (WAR, WAR_01, LATER, NOT_LATER, "corrupted"),
        ),
        ("mib.jsonl", lines(MIB_IOI), "mib", (IOI, FLIP, (" Mary",), (" John",), "s2_io_flip")),
        (
            "mib.jsonl",
            lines(MIB_MCQA),
            "mib",
            (MIB_MCQA["prompt"], "Q?\n1. red\n2. blue\nAnswer:", ("B",), ("2",), "symbol"),
        ),
        (
            "mib.jsonl",
            lines(MIB_SUM),
            "mib",
            (MIB_SUM["prompt"], "Q: How much is 2 plus 1? A: ", ("9",), ("3",), "random"),
        ),
        (
            "marked.jsonl",
            '{\n "clean": "1 + 2 = <predict>3</predict>.",\n "corrupted":\n'
            '  "1 + 4 = <predict>5</predict>"\n}\n',
            "edge-pruning",
            ("1 + 2 =", "1 + 4 =", (" 3",), (" 5",), ""),
        ),
        (
            "ioi.jsonl",
            lines({"ioi_sentences": f"{IOI} Mary", "corr_ioi_sentences": f"{ABC} Mary"} | NAMES),
            "edge-pruning",
            (IOI, ABC, (" Mary",), (" John",), ""),
        ),
        (
            "gp.csv",
            "prefix,corr_prefix,pronoun,corr_pronoun\nSo Ann isn't,So Bob isn't, she,he",
            "edge-pruning",
            ("So Ann isn't", "So Bob isn't", (" she",), (" he",), ""),
        ),
        (
            "gt.csv",
            f"prefix,corr_prefix,digits\n{WAR},{WAR_01},32",
            "edge-pruning",
            (WAR, WAR_01, LATER, NOT_LATER, ""),
        ),
        (
            "ours.csv",
            "clean,corrupt,answers,wrong,meta.a\nHe is,She is, his| its, her,x",
            "own",
            ("He is", "She is", (" his", " its"), (" her",), ""),
        ),
    ],
)
def test_a_row_becomes_the_pair_that_it_says(tmp_path, name, content, form, expected):
    clean, corrupt, answers, wrong, kind = expected
    found, (pair,) = converted(tmp_path, content, name)
    assert (found.format, found.n_rows, found.n_wrong) == (form, 1, 0)
    assert pair == Pair(pair.id, clean, corrupt, answers, wrong, kind, pair.group)


def test_agreement_takes_the_verbs_of_the_subjects_number(tmp_path):
    rows = "clean,corrupted,plural\nThe boys,The boy,1\nThe boy,The boys,0"
    _, (plural, singular) = converted(tmp_path, rows, "sva.csv")
    assert " are" in plural.answers and " is" in plural.wrong
    assert (singular.answers, singular.wrong) == (plural.wrong, plural.answers)


def test_one_counterfactual_several_or_one_by_name(tmp_path):
    flip, abc = ({"kind": kind, "corrupt": text} for kind, text in KINDS)
    for kind, expected in (("default", [flip]), ("abc", [abc]), ("all", [flip, abc])):
        _, pairs = converted(tmp_path, lines(MIB_IOI), wanted=Wanted(kind))
        assert [{"kind": pair.kind, "corrupt": pair.corrupt} for pair in pairs] == expected
        assert {pair.answers for pair in pairs} == {(" Mary",)}
    rows = "clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n" + f"{IOI},{ABC},{FLIP},0,1"
    _, pairs = converted(tmp_path, rows, "a.csv", Wanted("all", WORDS.__getitem__))
    assert [pair.corrupt for pair in pairs] == [ABC, FLIP]


KINDS = (("s2_io_flip", FLIP), ("abc", ABC))


def test_our_own_pairs_come_out_as_they_went_in(tmp_path):
    row = {"id": "x", "clean": "He", "corrupt": "She", "answers": [" a|b"], "wrong": [" c"]}
    row |= {"kind": "k", "group": "g", "meta": {"a": "b"}}
    _, (pair,) = converted(tmp_path, json.dumps(row), "a.jsonl")
    assert (pair.answers, pair.meta, pair.id) == ((" a|b",), {"a": "b"}, "x")


# ---------------------------------------------------------------- forms of files


def test_byte_order_mark_windows_lines_blank_lines_and_columns_without_a_name(tmp_path):
    rows = '\ufeff,clean,corrupted,plural\r\n\r\n0,"The\r\nboy",The boys,0\r\n,,,\r\n1,A,B,1\r\n'
    _, pairs = converted(tmp_path, rows, "a.CSV")
    assert [(pair.id, pair.clean) for pair in pairs] == [
        ("line-000003", "The\r\nboy"),
        ("line-000006", "A"),
    ]
    text = "\ufeff\r\n" + lines(MIB_MCQA, MIB_SUM).replace("\n", "\r\n\r\n") + "\r\n"
    _, pairs = converted(tmp_path, text)
    assert [pair.id for pair in pairs] == ["line-000002", "line-000004"]


def test_one_row_is_held_at_a_time(tmp_path, monkeypatch):
    """A file larger than what is read whole goes through; what stands on one line has a limit."""
    monkeypatch.setitem(LIMITS, "line", 400)
    rows = lines(*[MIB_SUM] * 50)
    assert len(rows) > 10 * LIMITS["line"]
    found, _ = converted(tmp_path, rows)
    assert found.n_pairs == 50
    with pytest.raises(DataError, match=r"theirs.jsonl, line 2: it has 401 bytes; one pair has at"):
        converted(tmp_path, lines(MIB_SUM, {"prompt": "a" * 500}))


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "it holds no rows"),
        ("a.csv", "clean,corrupted,plural\n", "it holds no rows"),
        ("a.jsonl", '{"a": 1}', "line 1: no known format has the fields 'a'. Known are own: cle"),
        ("a.csv", "clean,corrupt\n1,2", "missing 'answers', 'wrong'. Known are"),
        ("a.csv", "clean,clean,corrupted,plural\n", "line 1: column 'clean' stands there twice"),
        ("a.csv", 'clean,corrupted,plural\n"a', "line 2: unexpected end of data"),
        ("a.jsonl", b'{"clean": "\xff"}', "line 1: byte 12 of the line is not UTF-8; save"),
        ("a.jsonl", "[1]", r"line 1: expected a JSON object, got \[1\]"),
        ("a.jsonl", '{"clean": 1,\n"a"', "line 1: not valid JSON at column"),
        ("a.jsonl", lines(MIB_SUM, [1]), "line 2: expected a JSON object"),
        ("a.jsonl", lines(MIB_SUM, MIB_SUM | {"label": None}), "line 2: missing 'label'; there ar"),
        ("a.jsonl", lines(MIB_SUM | {"label": True}), "line 1: 'label' must be a text or a whole"),
        ("a.jsonl", lines(MIB_SUM | {"label": 3}), "have one answer, '3'"),
        ("a.jsonl", lines(MIB_SUM | {"random_counterfactual": "x"}), "must be an object, got"),
        (
            "a.jsonl",
            lines(MIB_MCQA | {"answerKey": 2}),
            "answerKey is 2, but its choices are 0 to 1",
        ),
        ("a.jsonl", lines(MIB_IOI | {"choices": ["a"]}), "IOI has two choices and an answerKey"),
        ("a.csv", "clean,corrupted,plural\na,b,2", "line 2: 'plural' must be 0 or 1, got 2"),
        ("a.csv", "clean,corrupted,plural\na,b", "line 2: 2 cells under 3 columns; a cell with"),
        ("a.csv", "clean,corrupted,plural\n,b,1", "line 2: 'clean' must be a text, got"),
        ("a.csv", "clean,corrupted,plural\na,b,x", "'plural' must be a whole number from 0, got"),
        (
            "a.csv",
            f"clean,corrupted,correct_idx\n{WAR},b,33",
            "'correct_idx' is 33, the last",
        ),
        ("a.csv", "clean,corrupted,correct_idx\n1799 to 17,b,99", "must lie in 0 to 98, got 99"),
        (
            "a.csv",
            f"clean,corrupted,correct_idx,incorrect_idx\n{IOI},b,4,5",
            "' cat' and ' dog'",
        ),
        (
            "a.jsonl",
            lines({"clean": "a <predict>b", "corrupted": ""}),
            "'clean' must hold",
        ),
        (
            "a.jsonl",
            lines({"clean": "a <predict>b</predict>", "corrupted": "c"}),
            "'corrupted' must",
        ),
        (
            "a.jsonl",
            lines({"prefix": "a", "corr_prefix": "b", "digits": 99}),
            "in 00 to 98",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_nothing_written(tmp_path, name, content, message):
    (tmp_path / "ours.jsonl").write_text("old")
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path, content, name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "ours.jsonl"})
    assert (tmp_path / "ours.jsonl").read_text() == "old"


def test_wrong_rows_are_all_counted_the_first_shown_and_left_out_on_request(tmp_path):
    rows = lines(MIB_SUM, *[MIB_SUM | {"prompt": 0}] * 7, MIB_SUM)
    with pytest.raises(DataError, match="7 of 9 rows made no pair") as caught:
        converted(tmp_path, rows)
    assert "line 2: 'prompt' must" in str(caught.value) and "and 2 more" in str(caught.value)
    found, pairs = converted(tmp_path, rows, skip_wrong=True)
    assert (found.n_wrong, len(found.wrong)) == (7, 5)
    assert [pair.id for pair in pairs] == ["line-000001", "line-000009"]
    with pytest.raises(DataError, match="1 of 1 row made no pair"):
        converted(tmp_path, lines(MIB_SUM | {"prompt": 0}), skip_wrong=True)


def test_an_id_that_stands_twice(tmp_path):
    row = {"id": "a", "clean": "1", "corrupt": "2", "answers": ["3"], "wrong": ["4"]}
    with pytest.raises(DataError, match="line 2: id 'a' was already used on line 1"):
        converted(tmp_path, lines(row, row))


def test_token_ids_need_a_tokenizer_and_a_format_must_be_the_files(tmp_path):
    rows = f"clean,corrupted,correct_idx,incorrect_idx\n{IOI},{ABC},0,1"
    with pytest.raises(DataError, match="token 0 of some tokenizer; name the model"):
        converted(tmp_path, rows, "a.csv", Wanted())
    with pytest.raises(DataError, match=r"it is not JSON lines of MIB: .*the fields clean, corr"):
        converted(tmp_path, rows, "a.csv", name="mib")
    with pytest.raises(DataError, match="no counterfactual 'abc'; there are 'corrupted'"):
        converted(tmp_path, rows, "a.csv", Wanted("abc", WORDS.__getitem__))
    for name in FORMATS.keys() - {"own"}:
        assert not FORMATS[name].fits(["clean", "corrupt", "answers", "wrong"])


# ---------------------------------------------------------------- the command


def test_the_command_reads_ids_by_a_models_tokenizer(tmp_path, capsys):
    from circuitprune.models.loading import load_tokenizer

    tokenizer, _ = load_tokenizer("zoo/small")
    right, wrong = (tokenizer(f" {name}")["input_ids"][-1] for name in ("Mary", "John"))
    source, target = tmp_path / "ioi.csv", tmp_path / "ours.jsonl"
    source.write_text(f"clean,corrupted,correct_idx,incorrect_idx\n{IOI},{ABC},{right},{wrong}\n")
    command = ["convert", str(source), "-o", str(target), "--model", "zoo/small"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 row, format eap-ig" in shown and "answers  ' Mary'" in shown
    (pair,) = JsonlTask(target).all_pairs
    assert (pair.answers, pair.wrong) == ((" Mary",), (" John",))
    source.write_text(f"clean,corrupted,correct_idx,incorrect_idx\n{IOI},{ABC},99999,{wrong}\n")
    assert main(command) == DataError.exit_code
    assert "token 99999, but the tokenizer of zoo/small has" in capsys.readouterr().err
    assert main(["convert", str(target), "-o", str(target)]) == DataError.exit_code
    assert "is the file itself" in capsys.readouterr().err
