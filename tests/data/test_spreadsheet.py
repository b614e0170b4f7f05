"""Pairs from CSV: the fields of JSONL, several answers in a cell, and the line of each mistake."""

import json

import pytest

from circuitprune.data.tasks import JsonlTask, Pair
from circuitprune.errors import DataError

HEADER = "clean,corrupt,answers,wrong"
ROW = "He is,She is, his, her"


def write(tmp_path, *lines, name="pairs.csv"):
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode())
    return path


def read(tmp_path, *lines):
    return JsonlTask(write(tmp_path, *lines)).all_pairs


def test_a_row_is_the_pair_that_json_would_be(tmp_path):
    (pair,) = read(
        tmp_path,
        "id,group,clean,kind,corrupt,answers,wrong,meta.source,meta.note",
        'a,g,"So, he is",flip,"So, she is", his| its, her,me,',
    )
    row = {"clean": "So, he is", "corrupt": "So, she is", "answers": [" his", " its"]}
    row |= {"wrong": [" her"], "id": "a", "group": "g", "kind": "flip", "meta": {"source": "me"}}
    (slow,) = JsonlTask(write(tmp_path, json.dumps(row), name="pairs.jsonl")).all_pairs
    assert pair == slow and pair.meta == slow.meta == {"source": "me"}


def test_empty_optional_cells_are_no_values_and_blank_rows_no_pairs(tmp_path):
    pairs = read(tmp_path, f"id,{HEADER},group", "", f",{ROW},", ",,,,,", f"b,{ROW},g")
    assert [(pair.id, pair.group) for pair in pairs] == [("line-000003", ""), ("b", "g")]


def test_windows_line_ends_a_byte_order_mark_and_breaks_inside_quotes(tmp_path):
    path = tmp_path / "Pairs.CSV"
    text = f'{HEADER}\r\n"He\r\nis",She is, his, her\r\n{ROW}\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = JsonlTask(path).all_pairs
    assert first.clean == "He\r\nis"
    assert second == Pair("line-000004", "He is", "She is", (" his",), (" her",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{HEADER},clean", f"{ROW},x"], "line 1: column 'clean' stands there more than once"),
        (["clean,corrupt,answers", "a,b,c"], "line 1: missing column wrong; the first line names"),
        (["clean;corrupt;answers;wrong", "a;b;c;d"], "line 1: missing .*are parted by commas"),
        (["clean\tcorrupt\tanswers\twrong"], "line 1: missing .*are parted by commas"),
        ([ROW, ROW], "line 1: missing column clean, corrupt, answers, wrong"),
        ([f"{HEADER},anwser", f"{ROW},x"], "line 1: unknown column 'anwser'; known are clean, "),
        (
            [HEADER, ROW, "He is,She is, his"],
            "line 3: 3 cells under 4 columns; a cell",
        ),
        ([HEADER, "So, he is,She is, his, her"], "line 2: 5 cells under 4 columns"),
        ([HEADER, ",She is, his, her"], "line 2: 'clean' is empty"),
        ([HEADER, "He is,She is,, her"], "line 2: 'answers' must hold at least one string"),
        ([HEADER, "He is,She is, his|, her"], "line 2: 'answers' must hold at least one string"),
        ([HEADER, ROW, "", '"He is,She is'], "line 4: unexpected end of data"),
        ([HEADER, '"He" is,She is, his, her'], "line 2: ',' expected after '\"'"),
        ([f"id,{HEADER}", f"a,{ROW}", "", f"a,{ROW}"], "line 4: id 'a' was already used on line 2"),
        ([HEADER], "holds no pairs"),
        ([HEADER, "a" * 200_000 + ",b,c,d"], "line 2: field larger than field limit"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, *lines)


def test_a_spreadsheet_itself_says_what_to_save_instead(tmp_path):
    path = tmp_path / "pairs.xlsx"
    path.write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(DataError, match=r"pairs.xlsx, line 1: an archive, .* save it as CSV"):
        JsonlTask(path)


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = write(tmp_path, HEADER, ROW)
    path.write_bytes(path.read_bytes() + b"\ncaf\xe9,b,c,d")
    with pytest.raises(DataError, match="line 3: byte 4 of the line is not UTF-8"):
        JsonlTask(path)
