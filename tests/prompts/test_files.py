"""Prompt files as people have them: each gives the right prompts, or one sentence."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fairnb.errors import UserError
from fairnb.files import root
from fairnb.prompts.files import is_occupation, read_prompts
from fairnb.prompts.sets import load_prompt_set, prompt_rows

COOK, JUDGE = "a photo of a cook", "a photo of a judge"
TWO_KINDS = {
    "jobs": ["maid", "crane and tower operator"],
    "jobs1": ["doctor", "pundit"],
    "train_prompts": ["A photo of a doctor", "A photo of a pundit"],
    "all_prompts": ["A photo of a Software Engineer"],
    "test_for_midu": ["A photo of a pundit", "A photo of a doctor"],
}
FFD = {
    "prompt_templates_test": ["A photo of the face of a {occupation}, a person"],
    "occupations_test_set": ["cook"],
    "occupations_train_set": ["tailor"],
}


def read(path: Path) -> list[tuple[str, str | None]]:
    table = read_prompts(path)
    assert table.prompt_id.tolist() == list(range(len(table))) and set(table.split) == {"test"}
    return list(zip(table.prompt, table.occupation, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("list.txt", "a pilot\n\n  a nurse \n", [("a pilot", None), ("a nurse", None)]),
        ("umlaut.txt", "ein Bäcker\n女性の医師\n", [("ein Bäcker", None), ("女性の医師", None)]),
        ("ends.txt", "a pilot\r\na nurse\ra cook\n", [("a pilot", None), ("a nurse", None), ("a cook", None)]),
        ("inner.txt", "a pilot\u2028 at  night\n", [("a pilot at night", None)]),
        ("emoji.txt", "👩\u200d⚕️ smiling\nصورة طبيب", [("👩\u200d⚕️ smiling", None), ("صورة طبيب", None)]),
        ("dollars.txt", "the singer Tra$$\n", [("the singer Tra$$", None)]),
        ("jobs.txt", "cook\njudge\n", [(COOK, "cook"), (JUDGE, "judge")]),
        ("jobs.json", '["cook", "judge"]', [(COOK, "cook"), (JUDGE, "judge")]),
        ("jobs.jsonl", '"cook"\n"judge"\n', [(COOK, "cook"), (JUDGE, "judge")]),
        ("jobs.csv", "Occupation\ncook\njudge\n", [(COOK, "cook"), (JUDGE, "judge")]),
        ("bare.csv", "prompt\ncook\njudge\n", [(COOK, "cook"), (JUDGE, "judge")]),
        ("job.tsv", "id\tJob\n1\tcook\n", [(COOK, "cook")]),
        ("UPPER.CSV", "prompt,occupation\na photo of a cook,cook\n", [(COOK, "cook")]),
        ("tabs.tsv", "prompt\toccupation\na photo of a cook\tcook\n", [(COOK, "cook")]),
        ("tabs.txt", "prompt\toccupation\na photo of a cook\tcook\n", [(COOK, "cook")]),
        ("semicolon.csv", "prompt;occupation\na photo of a cook, old;cook\n", [("a photo of a cook, old", "cook")]),
        ("bar.csv", "prompt|occupation\na photo of a cook|cook\n", [(COOK, "cook")]),
        ("excel.csv", "sep=;\r\nprompt;occupation\r\na photo of a cook;cook\r\n", [(COOK, "cook")]),
        ("capital.csv", " Prompt , OCCUPATION \na photo of a cook , cook \n", [(COOK, "cook")]),
        ("pandas.csv", ",prompt,job\n0,a photo of a cook,cook\n1,a man,\n,,\n", [(COOK, "cook"), ("a man", None)]),
        ("r.csv", '"prompt","occupation"\n"a photo of a cook",NA\n"a man","nan"\n', [(COOK, None), ("a man", None)]),
        ("quoted.csv", '"prompt"\r\n"a nurse,\r\nsmiling"\r\n', [("a nurse, smiling", None)]),
        ("caption.csv", "file,text\n1.png,a photo of a cook\n", [(COOK, None)]),
        ("both.csv", "text,prompt\nx,a photo of a cook\n", [(COOK, None)]),
        ("list.json", '["a pilot", "a nurse"]', [("a pilot", None), ("a nurse", None)]),
        ("neutral.json", '{"neutral_prompts": ["a photo of an usher"]}', [("a photo of an usher", None)]),
        ("objects.json", '[{"prompt": "a photo of a cook", "job": "cook"}, {"Prompt": "a pilot", "job": null}]',
         [(COOK, "cook"), ("a pilot", None)]),
        ("data.json", '{"data": [{"caption": "a photo of a cook"}]}', [(COOK, None)]),
        ("lines.jsonl", '{"prompt": "a photo of a cook"}\n\n{"text": "a pilot"}\n', [(COOK, None), ("a pilot", None)]),
        ("lines.json", '{"prompt": "a photo of a cook"}\n{"prompt": "a pilot"}', [(COOK, None), ("a pilot", None)]),
        ("long.txt", "x" * 2**18 + '"', [("x" * 2**18 + '"', None)]),
        ("text.txt", "Text\na photo of a cook\n", [(COOK, None)]),
        ("tags.jsonl", '{"prompt": "a photo of a cook", "tags": ["x"]}', [(COOK, None)]),
        ("one.jsonl", '{"prompt": "a photo of a cook"}\n', [(COOK, None)]),
        ("json.txt", '["a photo of a cook"]', [(COOK, None)]),
        ("csv.json", "prompt\na photo of a cook\n", [(COOK, None)]),
        ("unknown.lst", "prompt\na photo of a cook\n", [(COOK, None)]),
        ("jobs2.json", '{"art": ["actor"], "law": ["judge"]}', [("a photo of an actor", "actor"), (JUDGE, "judge")]),
        ("ffd.json", json.dumps(FFD), [("A photo of the face of a cook, a person", "cook")]),
        ("ffd2.json", '{"train_prompts": ["x"], "test_prompts": ["a face"]}', [("a face", None)]),
    ],
)  # fmt: skip
def test_prompt_lists_of_the_field_are_read(tmp_path: Path, name: str, content: str, rows: list):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read(tmp_path / name) == rows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str):
    (tmp_path / "p.tsv").write_bytes("prompt\toccupation\r\nein Bäcker\tBäcker\r\n".encode(encoding))
    assert read(tmp_path / "p.tsv") == [("ein Bäcker", "Bäcker")]


def test_lists_of_two_kinds_are_joined_or_one_is_chosen(tmp_path: Path):
    path = tmp_path / "occupation.json"
    path.write_text(json.dumps(TWO_KINDS))
    assert read(path) == [
        ("a photo of a maid", "maid"),
        ("a photo of a crane and tower operator", "crane and tower operator"),
        ("a photo of a doctor", "doctor"),
        ("a photo of a pundit", "pundit"),
        ("A photo of a Software Engineer", None),
    ]
    bare, twice = read_prompts(path).attrs["notes"]
    assert "4 of 9 entries are bare occupations; 'maid' becomes 'a photo of a maid'" in bare
    assert "4 of 9 entries repeat a prompt" in twice and "'A photo of a doctor'" in twice
    assert read(f"{path}:train_prompts") == [("A photo of a doctor", None), ("A photo of a pundit", None)]
    assert not read_prompts(f"{path}:train_prompts").attrs["notes"]
    with pytest.raises(UserError, match="has no list 'x': choose one of 'jobs', 'jobs1', 'train_prompts'"):
        read_prompts(f"{path}:x")


def test_text_read_as_a_table_is_said(tmp_path: Path):
    (tmp_path / "p.txt").write_text("Prompt;id\na photo of a cook;1\n")
    assert read(tmp_path / "p.txt") == [(COOK, None)]
    assert "names the columns 'Prompt', 'id'" in read_prompts(tmp_path / "p.txt").attrs["notes"][0]


def test_what_is_left_out_of_ffds_file_is_said(tmp_path: Path):
    path = tmp_path / "ffd.json"
    path.write_text(json.dumps(FFD))
    (note,) = read_prompts(path).attrs["notes"]
    assert "only 'prompt_templates_test', 'occupations_test_set' is read, not 'occupations_train_set'" in note
    assert read(f"{path}:occupations_train_set") == [("a photo of a tailor", "tailor")]
    with pytest.raises(UserError, match="holds the template 'A photo of the face of a {occupation}"):
        read_prompts(f"{path}:prompt_templates_test")


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("prompt\na photo of a cook \na photo of a cook\n", [(COOK, None)]),
        ("prompt,occupation\na photo of a usher,\nA Photo of an  usher,usher\n", [("a photo of a usher", "usher")]),
        ("prompt,occupation\nthe cook,cook\nA cook,Cook\n", [("the cook", "cook")]),
    ],
)
def test_a_prompt_that_occurs_twice_is_kept_once_and_said(tmp_path: Path, content: str, rows: list):
    (tmp_path / "p.csv").write_text(content)
    assert read(tmp_path / "p.csv") == rows
    (note,) = read_prompts(tmp_path / "p.csv").attrs["notes"]
    assert "1 of 2 entries repeat a prompt" in note


@pytest.mark.parametrize(
    ("texts", "bare"),
    [
        (["cook", "crane and tower operator", "Software Engineer", "director of photography", "Ärztin"], True),
        (["first-line supervisor of food workers", "IT specialist", "portrait painter", "set/exhibit designer"], True),
        (["a photo of an usher", "An usher", "portrait of a cook", "two cooks", "my doctor", "ein Koch"], False),
        (["doctor, 4k", "医師", "😀", "", "cook (old):1.2", "CEO in 1990", "cook " * 7, "photos of cooks"], False),
    ],
)
def test_a_bare_occupation_is_told_from_a_prompt(texts: list[str], bare: bool):
    assert {text: is_occupation(text) for text in texts} == dict.fromkeys(texts, bare)


@pytest.mark.parametrize("name", ["mini", "sd15", "sd15-large"])
def test_the_occupations_of_our_own_sets_are_recognised(name: str):
    words = load_prompt_set(root() / "data" / "prompts" / f"{name}.json")
    prompts = [prompt for splits in words.kinds.values() for some in splits.values() for prompt in some]
    assert all(map(is_occupation, words.all())) and not any(map(is_occupation, prompts))


def test_our_own_prompt_set_is_read_whole_or_by_split():
    path = root() / "data" / "prompts" / "mini.json"
    words = load_prompt_set(path)
    expected = prompt_rows(words, "train", "validation", "test")
    pd.testing.assert_frame_equal(read_prompts(path), expected, check_dtype=False)
    assert read_prompts(f"{path}:validation").occupation.tolist() == words.split("validation")
    with pytest.raises(UserError, match="has no list 'x': choose one of 'train', 'validation', 'test'"):
        read_prompts(f"{path}:x")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.txt", "# mine\na pilot\n", "line 1 of .* is '# mine': leave only the prompt"),
        ("a.txt", "a pilot\n2. a nurse\n", "line 2 of .* is '2. a nurse'"),
        ("a.txt", '"a pilot",\n', "leave only the prompt"),
        ("a.txt", "<!DOCTYPE html>\n", "leave only the prompt"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\n", "leave only the prompt"),
        ("a.txt", "a photo of a cook\tcook\n", "line 1 of .* has a tab"),
        ("a.txt", "a photo of a {job}\n", "holds the template 'a photo of a {job}'"),
        ("a.txt", "a pilot\x07\n", "is not a prompt"),
        ("a.csv", "prompt\nnan\n", "holds 'nan', which is not a prompt"),
        ("a.txt", b"ein B\xe4cker\n", "is not text in UTF-8: save it as .txt or .csv"),
        ("a.txt", "a pilot".encode("utf-16-le"), "is not text in UTF-8"),
        ("a.xlsx", b"PK\x03\x04\x00\xff", "is not text in UTF-8"),
        ("a.parquet", b"PAR1\x15\x00", "is not text in UTF-8"),
        ("a.csv", ",".join(f"c{number}" for number in range(2**15)), "has the columns 'c0', .* 'c11', ...: name"),
        ("a.csv", f"prompt\n{'x' * 2**18}\n", "is not a table: field larger"),
        ("a.md", "a pilot\n", "is not recognised by its content or its suffix '.md'"),
        ("a.yaml", "- a pilot\n", "is not recognised by its content or its suffix '.yaml'"),
        ("a", "a pilot\n", "is not recognised"),
        ("a.json", "[1]", "holds '1', which is not a prompt"),
        ("a.json", '[["x"]]', "which is not a prompt"),
        ("a.json", '["\\ud800"]', "which is not a prompt"),
        ("a.json", "3", "a list of prompts or a dict of such lists"),
        ("a.json", "{}", "holds no prompt"),
        ("a.json", '{"a": ["b", 2]}', "holds '2', which is not a prompt"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 10**5, "is not JSON"),
        ("a.json", '{"jobs": ["cook"], "jobs": ["judge"]}', "the key 'jobs' occurs twice"),
        ("a.json", '{"info": {}, "images": ["x"]}', "holds 'info', which is not a list: .* one of 'images'"),
        ("a.json", '[{"title": "x"}]', "has the columns 'title': name just one of them .* 'prompt'"),
        ("a.json", '[{"prompt": "a pilot", "occupation": 3}]', "holds '3', which is not a prompt"),
        ("a.jsonl", '{"prompt": "a pilot"}\n{"prompt"\n', "is not JSON in line 2"),
        ("a.csv", "title\nx\n", "has the columns 'title'"),
        ("a.csv", "text,caption\nx,y\n", "has the columns 'text', 'caption'"),
        ("a.csv", "prompt,Prompt\nx,y\n", "has the columns 'prompt', 'Prompt'"),
        ("a.csv", "a photo of a cook;cook\n", "has the columns 'a photo of a cook', 'cook'"),
        ("a.csv", "prompt\n\"", "is not a table"),
        ("a.csv", "prompt,b\nx,1,2,3\n", "more fields than columns in line 2"),
        ("a.csv", "id,prompt\n1,a pilot\n2\n", "has no prompt in line 3"),
        ("a.csv", "prompt,occupation\n,cook\n", "holds '', which is not a prompt"),
        ("a.csv", "prompt,occupation\na cook,cook\nthe cook,chef\n", "'the cook' twice, for 'cook' and 'chef'"),
    ],
)  # fmt: skip
def test_bad_prompt_lists_are_named(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says) as caught:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.txt", ".", "none.json:jobs", f"{'x' * 300}:y"])
def test_no_file_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name[-9:]} cannot be read"):
        read_prompts(f"{tmp_path}/{name}" if name != "." else tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_list_is_chosen_only_where_there_are_lists(tmp_path: Path) -> None:
    for name, content in (("a.txt", "a pilot"), ("a.json", '["a pilot"]'), ("odd:name.txt", "a pilot")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="has no list|so it has no list"):
            read_prompts(f"{tmp_path / name}:train")
    assert read(tmp_path / "odd:name.txt") == [("a pilot", None)]
