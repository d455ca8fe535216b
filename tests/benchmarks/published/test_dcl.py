"""`sefe prepare dcl` on small files in each published shape."""

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from published_files import (
    DCL_QUESTIONS,
    dcl_records,
    pack,
    shard_rows,
    write_dcl,
    write_json,
    write_shard,
    write_shards,
)

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.dcl import DCL_TABLE, FIN_LETTER_ENDING, FIN_YES_NO_ENDING, MED_ENDING
from sefe_plugin.benchmarks.published.convert import MANIFEST_FILE, Choice, prepare
from sefe_plugin.benchmarks.published.layout import DONE


def rows_of(out: Path, task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (out / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def image_folder(out: Path) -> Path:
    return Path(json.loads((out / MANIFEST_FILE).read_text())["images"])


def require_whole(out: Path) -> None:
    for task in DCL_QUESTIONS:
        records = dcl_records(task)
        for split, own in records.items():
            rows = rows_of(out, task, split)
            key = "id" if split == "train" else "question_id"
            assert sorted(str(row[key]) for row in rows) == sorted(str(record[key]) for record in own)
            names = {str(record[key]): Path(record["image"]).name for record in own}
            assert all(Path(row["image"]).name == names[str(row[key])] for row in rows)
            assert all((image_folder(out) / row["image"]).is_file() for row in rows)
    arguments = {"dataset_dir": str(out)}
    assert load_benchmark("dcl").errors(arguments) == []


@pytest.mark.parametrize("below", ["", "Domain_data"])
def test_folders_of_domains(tmp_path, below):
    write_dcl(tmp_path / "in" / below)
    prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
    require_whole(tmp_path / "out")
    assert image_folder(tmp_path / "out") in (tmp_path / "in" / below, tmp_path / "in")


@pytest.mark.parametrize("inside", ["RS", "Domain_data/RS", "."])
@pytest.mark.parametrize("ending", [".tar.gz", ".tar"])
def test_archives_are_unpacked_wherever_their_members_start(tmp_path, inside, ending):
    source = tmp_path / "in"
    write_dcl(source)
    pack(source / "RS", source / f"RS{ending}", inside)
    before = sorted(source.rglob("*"))
    said = []
    prepare(DCL_TABLE, source, tmp_path / "out", say=said.append)
    assert f"unpacked RS{ending}: 11 files" in said
    require_whole(tmp_path / "out")
    assert sorted(source.rglob("*")) == before
    said.clear()
    prepare(DCL_TABLE, source, tmp_path / "out", say=said.append)
    assert not any("unpacked" in line for line in said)


def test_parquet_shards_become_records_and_pictures_of_their_own_names(tmp_path):
    source = tmp_path / "in"
    write_dcl(source, [task for task in DCL_QUESTIONS if task != "Sci"])
    write_shards(source, "Sci")
    prepare(DCL_TABLE, source, tmp_path / "out")
    require_whole(tmp_path / "out")
    kinds = {Path(row["image"]).name.split("_")[0] for row in rows_of(tmp_path / "out", "Sci", "test")}
    assert kinds == {"AI2D", "MapQA"}


def test_all_domains_from_parquet(tmp_path):
    for task in DCL_QUESTIONS:
        write_shards(tmp_path / "in", task, shards=3)
    prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
    require_whole(tmp_path / "out")


def test_shards_that_are_missing_are_named(tmp_path):
    for task in DCL_QUESTIONS:
        write_shards(tmp_path / "in", task, shards=3)
    for task, name in (("Sci", "train-00000"), ("Sci", "train-00002"), ("RS", "test-00001")):
        (tmp_path / "in" / task / f"{name}-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="are missing") as error:
        prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
    assert [line for line in str(error.value).splitlines() if line.startswith("  - ")] == [
        "  - RS: test-00001-of-00003.parquet",
        "  - Sci: train-00000-of-00003.parquet, train-00002-of-00003.parquet",
    ]
    assert not (tmp_path / "out" / MANIFEST_FILE).exists()


def test_pictures_of_one_name_are_all_kept(tmp_path):
    source = tmp_path / "in"
    write_dcl(source, [task for task in DCL_QUESTIONS if task != "Sci"])
    write_shards(source, "Sci", shards=1)
    rows = shard_rows(source / "Sci" / "test-00000-of-00001.parquet")
    pictures = [row["images"][0]["bytes"] for row in rows]
    for row in rows:
        row["images"][0]["path"] = "AI2D_1.jpg"
    write_shard(source / "Sci" / "test-00000-of-00001.parquet", rows)
    prepare(DCL_TABLE, source, tmp_path / "out")
    paths = [row["image"] for row in rows_of(tmp_path / "out", "Sci", "test")]
    assert [(image_folder(tmp_path / "out") / path).read_bytes() for path in paths] == pictures
    assert {Path(path).name for path in paths} == {"AI2D_1.jpg"}


def test_a_record_of_several_pictures_is_named(tmp_path):
    write_dcl(tmp_path / "in", [task for task in DCL_QUESTIONS if task != "Sci"])
    write_shards(tmp_path / "in", "Sci", shards=1)
    file = tmp_path / "in" / "Sci" / "test-00000-of-00001.parquet"
    rows = shard_rows(file)
    rows[1]["images"] *= 2
    write_shard(file, rows)
    with pytest.raises(ValueError, match="cannot be unpacked: record 2 has 2 images, where one is published"):
        prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("shape", ["messages", "conversations"])
def test_parquet_of_conversations(tmp_path, shape):
    """Where a shard has its test set as conversations, too, the last turn is the gold answer."""
    source = tmp_path / "in"
    write_dcl(source, [task for task in DCL_QUESTIONS if task != "Med"])
    write_shards(source, "Med", shards=1)
    names = {"messages": ("role", "content", "user", "assistant"), "conversations": ("from", "value", "human", "gpt")}
    role, text, user, assistant = names[shape]
    for split in ("train", "test"):
        file = source / "Med" / f"{split}-00000-of-00001.parquet"
        rows = shard_rows(file)
        for row in rows:
            if split == "test":
                question, answer = row.pop("text"), row.pop("answer")
            else:
                question, answer = (turn["value"] for turn in row.pop("conversations"))
            row[shape] = [{role: user, text: question}, {role: assistant, text: answer}]
        write_shard(file, rows)
    prepare(DCL_TABLE, source, tmp_path / "out")
    require_whole(tmp_path / "out")
    assert [row["answer"] for row in rows_of(tmp_path / "out", "Med", "test")] == ["yes", "no", "liver"]


def test_an_image_of_sci_without_a_name_is_refused(tmp_path):
    write_dcl(tmp_path / "in", [task for task in DCL_QUESTIONS if task != "Sci"])
    write_shards(tmp_path / "in", "Sci", shards=1)
    file = tmp_path / "in" / "Sci" / "test-00000-of-00001.parquet"
    rows = shard_rows(file)
    rows[1]["images"][0]["path"] = None
    write_shard(file, rows)
    with pytest.raises(ValueError, match=r"record 2: needs an image with a name of its own"):
        prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("roles", [["user", "assistant", "user"], ["assistant"], ["assistant", "user"]])
def test_a_test_conversation_that_does_not_end_with_an_answer_is_named(tmp_path, roles):
    write_dcl(tmp_path / "in")
    records = dcl_records("RS")["test"]
    question, answer = records[1].pop("text"), records[1].pop("answer")
    texts = {"user": question, "assistant": answer}
    records[1]["messages"] = [{"role": role, "content": texts[role]} for role in roles]
    write_json(tmp_path / "in" / "RS" / "test.json", records)
    with pytest.raises(ValueError, match=r"test\.json: record 2: needs a question from 'human' and its answer from"):
        prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")


def test_the_answer_of_a_record_goes_before_that_of_its_conversation(tmp_path):
    write_dcl(tmp_path / "in")
    records = dcl_records("RS")["test"]
    for record, own in zip(records, ("maybe", None, ["no", "none"]), strict=True):
        question = record.pop("text")
        record |= {"answer": own, "conversations": [{"from": "human", "value": question}]}
        record["conversations"].append({"from": "gpt", "value": "yes"})
    write_json(tmp_path / "in" / "RS" / "test.json", records)
    prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
    assert [row["answer"] for row in rows_of(tmp_path / "out", "RS", "test")] == ["maybe", "yes", "no"]


def test_the_endings_of_the_official_scripts_stand_in_test_questions_once(tmp_path):
    source = tmp_path / "in"
    write_dcl(source)
    records = dcl_records("Med")["test"]
    records[0]["text"] += f" {MED_ENDING}"
    write_json(source / "Med" / "test.json", records)
    said = []
    manifest = prepare(DCL_TABLE, source, tmp_path / "out", say=said.append)
    question = DCL_QUESTIONS["Med"][0]
    texts = {row["text"] for row in rows_of(tmp_path / "out", "Med", "test")}
    assert texts == {f"<image>\n{question} {MED_ENDING}"}
    endings = {row["answer"]: row["text"] for row in rows_of(tmp_path / "out", "Fin", "test")}
    assert endings["A"].endswith(f"B. down {FIN_LETTER_ENDING}")
    assert endings["Yes"].endswith(f"B. down {FIN_YES_NO_ENDING}")
    trained = rows_of(tmp_path / "out", "Fin", "train")
    assert {row["conversations"][0]["value"] for row in trained} == {f"<image>\n{DCL_QUESTIONS['Fin'][0]}"}
    assert any("depends on the gold answer" in line for line in said)
    assert manifest["notes"] == list(DCL_TABLE.notes)


def test_what_is_missing_is_said_at_once_with_source_size_and_licence(tmp_path):
    source = tmp_path / "in"
    write_dcl(source, ["RS", "AD"])
    for file in (source / "AD" / "images").iterdir():
        file.unlink()
    (source / "AD" / "images").rmdir()
    with pytest.raises(ValueError, match="are missing") as error:
        prepare(DCL_TABLE, source, tmp_path / "out")
    said = str(error.value)
    for words in (
        "  - Med: train.json",
        "  - Fin: test.json or test.sjon",
        "67.9 GB",
        "apache-2.0",
        "  - AD, such as images/1_te0.jpg: DriveLM, CC BY-NC-SA 4.0",
    ):
        assert words in said
    assert "  - RS" not in said


class TestInterrupted:
    def test_a_broken_archive_is_named_and_unpacked_again_when_it_is_whole(self, tmp_path):
        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        pack(source / "RS", source / "RS.tar.gz", "RS")
        whole = (source / "RS.tar.gz").read_bytes()
        (source / "RS.tar.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"RS\.tar\.gz cannot be unpacked.*Download it again"):
            prepare(DCL_TABLE, source, out)
        (source / "RS.tar.gz").write_bytes(whole)
        prepare(DCL_TABLE, source, out)
        require_whole(out)

    @pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
    @pytest.mark.parametrize(
        ("harm", "fault"),
        [
            ("cut behind a member", "it ends too early"),
            ("cut in a header", "it ends too early"),
            ("cut in a member", "unexpected end of data"),
            ("cut behind a block of zeros", "it ends too early"),
            ("a bad header", "header is damaged"),
            ("zeros for a header", "something behind its end"),
            ("another archive behind", "something behind its end"),
        ],
    )
    def test_an_archive_that_is_cut_or_damaged_is_named(self, tmp_path, ending, harm, fault):
        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        pack(source / "RS", source / "RS.tar", "RS")
        whole = (source / "RS.tar").read_bytes()
        with tarfile.open(source / "RS.tar") as archive:
            members = archive.getmembers()
        (source / "RS.tar").unlink()
        middle, last = members[len(members) // 2], members[-1]
        end = last.offset_data + -(-last.size // 512) * 512
        broken = {
            "cut behind a member": whole[: middle.offset],
            "cut in a header": whole[: middle.offset + 100],
            "cut in a member": whole[: last.offset_data + 10],
            "cut behind a block of zeros": whole[: end + 512],
            "a bad header": whole[: middle.offset] + b"x" * 512 + whole[middle.offset + 512 :],
            "zeros for a header": whole[: middle.offset] + bytes(512) + whole[middle.offset + 512 :],
            "another archive behind": whole + whole,
        }[harm]
        file = source / f"RS{ending}"
        file.write_bytes(gzip.compress(broken) if ending == ".tar.gz" else broken)
        with pytest.raises(ValueError, match=rf"RS{ending} cannot be unpacked: .*{fault}.*Download it again"):
            prepare(DCL_TABLE, source, out)
        # two blocks of zeros are enough, and more do not matter
        file.write_bytes(gzip.compress(whole[: end + 1024]) if ending == ".tar.gz" else whole + bytes(40_000))
        prepare(DCL_TABLE, source, out)
        require_whole(out)

    @pytest.mark.parametrize("removed", ["unpacked/RS", "unpacked/Sci", "unpacked/Sci/test-00000-of-00001.jsonl"])
    def test_what_was_unpacked_and_removed_is_unpacked_again(self, tmp_path, removed):
        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source, [task for task in DCL_QUESTIONS if task != "Sci"])
        pack(source / "RS", source / "RS.tar", "RS")
        write_shards(source, "Sci", shards=1)
        prepare(DCL_TABLE, source, out)
        path = out / removed
        path.unlink() if path.is_file() else shutil.rmtree(path)
        prepare(DCL_TABLE, source, out)
        require_whole(out)

    def test_a_member_outside_of_the_folder_is_refused(self, tmp_path):
        source = tmp_path / "in"
        write_dcl(source)
        pack(source / "RS", source / "RS.tar", "RS")
        with tarfile.open(source / "RS.tar", "a") as archive:
            archive.add(source / "Med" / "train.json", "RS/../../evil.json")
        with pytest.raises(ValueError, match="would be written outside"):
            prepare(DCL_TABLE, source, tmp_path / "out")
        assert not list(tmp_path.rglob("evil.json"))

    def test_a_second_run_goes_on_behind_what_is_whole(self, tmp_path, monkeypatch):
        from sefe_plugin.benchmarks.published import convert

        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        real, written = convert._write_rows, []

        def write(file, rows, part):
            if len(written) == 3:
                raise KeyboardInterrupt
            written.append(file)
            real(file, rows, part)

        monkeypatch.setattr(convert, "_write_rows", write)
        with pytest.raises(KeyboardInterrupt):
            prepare(DCL_TABLE, source, out)
        assert load_benchmark("dcl").errors({"dataset_dir": str(out)}) != []
        first = written.copy()
        # one whose bytes have changed since is not whole any more
        first[0].write_text("{}\n")
        written.clear()
        monkeypatch.setattr(convert, "_write_rows", lambda *args: (written.append(args[0]), real(*args)))
        manifest = prepare(DCL_TABLE, source, out)
        assert set(first) & set(written) == {first[0]}
        assert len(written) == 8
        require_whole(out)
        assert manifest["tasks"]["RS"]["train"]["written"] == 6
        assert {file.name for file in out.iterdir()} == {*DCL_QUESTIONS, MANIFEST_FILE, "dataset_info.json"}

    @pytest.mark.parametrize("left", ["done", "no record of it"])
    def test_no_recipe_starts_on_datasets_without_a_manifest(self, tmp_path, left):
        """A prepare that was stopped just before its end: every dataset is there."""
        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        prepare(DCL_TABLE, source, out)
        (out / MANIFEST_FILE).unlink()
        if left == "done":
            (out / DONE).mkdir()
        (error,) = load_benchmark("dcl").errors({"dataset_dir": str(out)})
        assert f"{out} is not complete: it has no manifest.json" in error
        prepare(DCL_TABLE, source, out)
        require_whole(out)

    def test_another_test_set_makes_another_training_set(self, tmp_path, monkeypatch):
        """Its images decide what --drop-shared leaves out."""
        from sefe_plugin.benchmarks.published import convert

        source, out, choice = tmp_path / "in", tmp_path / "out", Choice(drop_shared=True)
        write_dcl(source)
        with monkeypatch.context() as patch:
            patch.setattr(convert, "_require_sound", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare(DCL_TABLE, source, out, choice=choice)
        records = dcl_records("RS")
        records["test"][0]["image"] = shared = records["train"][2]["image"]
        write_json(source / "RS" / "test.json", records["test"])
        manifest = prepare(DCL_TABLE, source, out, choice=choice)
        assert not any(row["image"].endswith(shared) for row in rows_of(out, "RS", "train"))
        assert manifest["shared_images"]["RS"] == 1

    def test_datasets_that_the_user_has_declared_stay(self, tmp_path):
        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        prepare(DCL_TABLE, source, out)
        info = out / "dataset_info.json"
        own = json.loads(info.read_text())
        write_json(info, {"rs_x20": {"file_name": "rs_x20.jsonl"}, **own, "dcl_rs_train": {"file_name": "old.json"}})
        prepare(DCL_TABLE, source, out)
        assert json.loads(info.read_text()) == {"rs_x20": {"file_name": "rs_x20.jsonl"}, **own}

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            ("[]", "must map names of datasets"),
            ("{", "cannot be read"),
            ('{"a": {}, "a": {}}', "dataset_info.json holds the dataset 'a' more than once"),
        ],
    )
    def test_a_damaged_dataset_info_is_named_and_kept(self, tmp_path, content, fault):
        write_dcl(tmp_path / "in")
        info = tmp_path / "out" / "dataset_info.json"
        info.parent.mkdir()
        info.write_text(content)
        with pytest.raises(ValueError, match=fault):
            prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
        assert info.read_text() == content

    def test_other_options_start_anew(self, tmp_path, monkeypatch):
        from sefe_plugin.benchmarks.published import convert

        source, out = tmp_path / "in", tmp_path / "out"
        write_dcl(source)
        with monkeypatch.context() as patch:
            patch.setattr(convert, "_require_sound", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare(DCL_TABLE, source, out)
        prepare(DCL_TABLE, source, out, choice=Choice(max_test=1))
        assert len(rows_of(out, "RS", "test")) == 1


def test_the_folder_of_another_benchmark_is_named(tmp_path):
    write_dcl(tmp_path / "in")
    prepare(DCL_TABLE, tmp_path / "in", tmp_path / "out")
    (error,) = load_benchmark("ucit").errors({"dataset_dir": str(tmp_path / "out")})
    assert "holds dcl, and the recipe names `benchmark: ucit`" in error
