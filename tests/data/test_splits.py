import hashlib
import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_unlearn.data import ForgetSpec, ForgetSplit, make_split
from lit_unlearn.errors import UsageError

TRAIN = torch.arange(40) % 4
TEST = torch.arange(20) % 4
NAMES = ["cat", "dog", "frog", "hare"]
IMAGES = [f"{NAMES[index % 4]}/{index:03d}.png" for index in range(40)]


def split(spec: ForgetSpec | None, seed: int = 0, images: list[str] | None = None) -> ForgetSplit:
    return make_split(TRAIN, TEST, spec, seed, NAMES, images)


def write(folder: Path, text: str) -> ForgetSpec:
    path = folder / "forget.txt"
    path.write_text(text)
    return ForgetSpec(index_file=path)


@pytest.mark.parametrize(
    "spec",
    [None, ForgetSpec(classes=[1]), ForgetSpec(fraction=0.3), ForgetSpec(classes=["cat"], fraction=0.5)],
)
def test_forget_and_retain_are_sorted_and_cut_the_training_set_in_two(spec: ForgetSpec | None) -> None:
    made = split(spec)
    for indices in (made.forget, made.retain, made.test_forget, made.test_retain):
        assert indices.dtype == torch.int64
        assert torch.equal(indices, indices.sort().values)
    assert torch.equal(torch.cat([made.forget, made.retain]).sort().values, torch.arange(40))
    assert torch.equal(torch.cat([made.test_forget, made.test_retain]).sort().values, torch.arange(20))


def test_whole_classes_leave_training_and_test_set() -> None:
    made = split(ForgetSpec(classes=["hare", 1]))
    assert set(TRAIN[made.forget].tolist()) == {1, 3}
    assert set(TRAIN[made.retain].tolist()) == {0, 2}
    assert set(TEST[made.test_forget].tolist()) == {1, 3}
    assert set(TEST[made.test_retain].tolist()) == {0, 2}
    assert made.forgotten_classes == (1, 3)


def test_a_share_is_random_over_the_training_set_and_leaves_the_test_set_whole() -> None:
    made = split(ForgetSpec(fraction=0.3))
    assert made.counts() == {"forget": 12, "retain": 28, "test_forget": 0, "test_retain": 20}
    assert made.forgotten_classes == ()
    assert not torch.equal(made.forget, torch.arange(12))
    assert torch.equal(made.forget, split(ForgetSpec(fraction=0.3)).forget)
    assert not torch.equal(made.forget, split(ForgetSpec(fraction=0.3), seed=1).forget)


def test_a_share_of_classes_is_drawn_from_those_classes_alone() -> None:
    made = split(ForgetSpec(classes=["dog", "frog"], fraction=0.25))
    assert len(made.forget) == 5
    assert set(TRAIN[made.forget].tolist()) <= {1, 2}
    assert made.counts()["test_forget"] == 0


def test_nothing_to_forget() -> None:
    assert split(None).counts() == {"forget": 0, "retain": 40, "test_forget": 0, "test_retain": 20}


def test_an_index_file_holds_indices_comments_and_blank_lines(tmp_path: Path) -> None:
    made = split(write(tmp_path, "# header\n3\n\n 17  # why\n0\n"))
    assert made.forget.tolist() == [0, 3, 17]
    assert made.counts()["test_forget"] == 0


def test_an_index_file_holds_image_names_with_and_without_the_train_folder(tmp_path: Path) -> None:
    made = split(write(tmp_path, f"{IMAGES[5]}\ntrain/{IMAGES[2]}\n./{IMAGES[9]}\n7\n"), images=IMAGES)
    assert made.forget.tolist() == [2, 5, 7, 9]


@pytest.mark.parametrize(("of_files", "of_user"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_form_of_unicode_is_the_same_name(of_files: str, of_user: str, tmp_path: Path) -> None:
    normal = unicodedata.normalize
    names = [normal(of_files, f"Käse/{index:03d}.png") for index in range(40)]
    inside = normal(of_user, str(tmp_path / "Bücher/Käse/004.png"))
    given = [normal(of_user, f"{prefix}Käse/00{index}.png") for index, prefix in enumerate(["", "./", "train/"])]
    for spec in (write(tmp_path, "\n".join([*given, inside])), ForgetSpec(images=[*given, inside])):
        made = make_split(TRAIN, TEST, spec, 0, NAMES, names, folder=normal(of_files, str(tmp_path / "Bücher")))
        assert made.forget.tolist() == [0, 1, 2, 4]
    made = make_split(TRAIN, TEST, ForgetSpec(classes=[normal(of_user, "Käse")]), 0, [normal(of_files, "Käse"), *"abc"])
    assert made.forgotten_classes == (0,)


def test_two_files_whose_names_are_forms_of_one_are_told_apart() -> None:
    names = [unicodedata.normalize(form, "Käse.png") for form in ("NFC", "NFD")]
    for index, name in enumerate(names):
        assert make_split(TRAIN[:2], TEST, ForgetSpec(images=[name]), 0, NAMES, names).forget.tolist() == [index]


def test_a_hash_sign_in_a_name_is_part_of_it_and_else_starts_a_comment(tmp_path: Path) -> None:
    names = ["a #1.png", "a", "#2.png", "b.png"]
    spec = write(tmp_path, "a #1.png\n#2.png\n  b.png # a\n# b.png\n#\n")
    assert make_split(TRAIN[:4], TEST, spec, 0, NAMES, names).forget.tolist() == [0, 2, 3]


def test_a_name_that_looks_like_a_number_is_a_name(tmp_path: Path) -> None:
    made = make_split(TRAIN[:3], TEST, write(tmp_path, "0\n"), 0, NAMES, ["2", "1", "0"])
    assert made.forget.tolist() == [2]


def test_text_is_a_class_name_first_and_an_index_second() -> None:
    assert split(ForgetSpec(classes=["1"])).forgotten_classes == (1,)
    assert make_split(TRAIN, TEST, ForgetSpec(classes=["1"]), 0, ["1", "2", "3", "4"]).forgotten_classes == (0,)


def test_the_hash_names_forget_indices_and_training_labels() -> None:
    made = split(ForgetSpec(classes=[1]))
    data = np.arange(1, 40, 4, dtype="<i8").tobytes() + (40).to_bytes(8, "little") + TRAIN.numpy().tobytes()
    assert made.hash == hashlib.sha256(data).hexdigest()[:16]
    assert made.hash == split(ForgetSpec(classes=["dog"]), seed=7).hash
    assert made.hash != split(ForgetSpec(classes=[2])).hash
    assert made.hash != make_split(TRAIN.flip(0).sort().values, TEST, ForgetSpec(classes=[1]), 0, NAMES).hash


def test_description_is_plain_json_and_one_line(tmp_path: Path) -> None:
    made = split(write(tmp_path, "3\n"), seed=5)
    described = json.loads(json.dumps(made.describe()))
    assert described["hash"] == made.hash
    assert described["seed"] == 5
    assert described["spec"] == {"index_file": str(tmp_path / "forget.txt")}
    assert described["counts"] == {"forget": 1, "retain": 39, "test_forget": 0, "test_retain": 20}
    assert "\n" not in str(made)
    assert "forget 1, retain 39" in str(made)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ForgetSpec(), "nothing is named"),
        (ForgetSpec(classes=[]), "nothing is named"),
        (ForgetSpec(classes=["Dgo"]), "unknown class 'Dgo'; did you mean 'dog'"),
        (ForgetSpec(classes=[4]), r"class index 4 is out of range \(allowed: 0 to 3\)"),
        (ForgetSpec(classes=[-1]), "class index -1 is out of range"),
        (ForgetSpec(classes=[1, "dog"]), "class 'dog' is named twice"),
        (ForgetSpec(fraction=0.0), "fraction is 0.0"),
        (ForgetSpec(fraction=1.0), "fraction is 1.0"),
        (ForgetSpec(fraction=float("nan")), "fraction is nan"),
        (ForgetSpec(fraction=1e-3), "selects none of the 40"),
        (ForgetSpec(fraction=0.999), "selects all 40"),
        (ForgetSpec(classes=[0, 1, 2, 3]), "selects all 40"),
        (ForgetSpec(fraction=0.5, index_file="x"), "index_file 'x' cannot be combined"),
        (ForgetSpec(classes=[0], index_file="x"), "index_file 'x' cannot be combined"),
        (ForgetSpec(index_file="nowhere.txt"), "cannot read index_file 'nowhere.txt'"),
    ],
)
def test_impossible_wishes_are_refused(spec: ForgetSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(spec)


def test_a_number_that_is_also_the_name_of_another_class_is_refused() -> None:
    with pytest.raises(UsageError, match="class 1 may mean the index or the name '1'"):
        make_split(TRAIN, TEST, ForgetSpec(classes=[1]), 0, ["1", "2", "3", "4"])


def test_a_number_where_names_have_leading_zeros_is_refused() -> None:
    """YAML takes 002 for the number 2, which is the index of another class."""
    names = ["001", "002", "010", "hare"]
    with pytest.raises(UsageError, match=r"class 2 may mean .* leading zeros, such as '002'.* in quotes"):
        make_split(TRAIN, TEST, ForgetSpec(classes=[2]), 0, names)
    assert make_split(TRAIN, TEST, ForgetSpec(classes=[3]), 0, names).forgotten_class_names == ("hare",)
    assert make_split(TRAIN, TEST, ForgetSpec(classes=[1]), 0, ["0", "1", "2", "007"]).forgotten_classes == (1,)
    found = make_split(TRAIN, TEST, ForgetSpec(classes=["010", "002"]), 0, names)
    assert (found.forgotten_classes, found.forgotten_class_names) == ((1, 2), ("002", "010"))


def test_the_names_of_forgotten_classes_are_said_and_kept() -> None:
    found = split(ForgetSpec(classes=["frog", 0]))
    assert "forgets classes 'cat', 'frog': forget" in str(found)
    assert found.describe()["forgotten_class_names"] == ["cat", "frog"]
    assert "forgotten_class_names" not in split(ForgetSpec(fraction=0.5)).describe()


def test_a_class_without_training_images_is_refused() -> None:
    with pytest.raises(UsageError, match="selects none"):
        make_split(TRAIN, TEST, ForgetSpec(classes=[4]), 0, [*NAMES, "owl"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n1\n", "line 3 .*'1' was already named in line 1"),
        ("40\n", "line 1 .*index 40 is out of range .*0 to 39"),
        ("-1\n", "index -1 is out of range"),
        ("1\n1.5\n", "line 2 .*'1.5' is no index of a training image"),
        ("# nothing\n", "selects none"),
        ("\n".join(map(str, range(40))), "selects all 40"),
    ],
)
def test_bad_index_files_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(write(tmp_path, text))


def test_an_unknown_image_name_gets_near_matches(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"line 1 .*unknown training image 'cat/004\.pgn'; did you mean .*cat/004\.png"
    ):
        split(write(tmp_path, "cat/004.pgn\n"), images=IMAGES)


def test_the_same_image_by_name_and_by_index_is_a_duplicate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2 .*already named in line 1"):
        split(write(tmp_path, f"{IMAGES[4]}\n4\n"), images=IMAGES)


def test_a_binary_index_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forget.txt"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="cannot read index_file"):
        split(ForgetSpec(index_file=path))


def three_requests(tmp_path: Path) -> list[ForgetSpec]:
    return [ForgetSpec(classes=["dog"]), ForgetSpec(fraction=0.2), write(tmp_path, "4\n5\n1\n")]


def requested(specs: list[ForgetSpec], **settings: object) -> ForgetSplit:
    return make_split(TRAIN, TEST, specs[-1], 0, NAMES, None, specs[:-1], **settings)  # type: ignore[arg-type]


def test_earlier_requests_stay_out_of_retain_and_are_splits_of_their_own(tmp_path: Path) -> None:
    specs = three_requests(tmp_path)
    made = [requested(specs[:count]) for count in (1, 2, 3)]
    for before, after in itertools.pairwise(made):
        gone = torch.cat([before.forget, before.forgotten_before]).sort().values
        assert torch.equal(after.forgotten_before, gone)
        assert not torch.isin(after.forget, gone).any()
        assert not torch.isin(after.retain, torch.cat([gone, after.forget])).any()
        assert torch.equal(torch.cat([after.forget, after.retain, gone]).sort().values, torch.arange(40))
    assert made[1].test_forgotten_before.tolist() == [1, 5, 9, 13, 17]
    assert torch.equal(made[1].test_retain, made[0].test_retain)
    assert made[2].forget.tolist() == sorted({4, 5, 1} - set(made[2].forgotten_before.tolist()))
    assert made[2].counts()["forgotten_before"] == 10 + 6
    gone = made[2].forgotten_before
    single = gone[TRAIN[gone] != NAMES.index("dog")]
    assert torch.equal(made[2].images_before, single), "of the classes that are retained"
    assert len(single) == 6
    assert not len(made[1].images_before)
    now = make_split(
        TRAIN, TEST, ForgetSpec(classes=["cat"]), 0, NAMES, None, [ForgetSpec(classes=["cat"], fraction=0.5)]
    )
    assert not len(now.images_before), "whose class is forgotten now"


def test_each_request_has_one_name_whenever_it_is_asked_for(tmp_path: Path) -> None:
    specs = three_requests(tmp_path)
    first, second, third = (requested(specs[:count]) for count in (1, 2, 3))
    assert [each["request"] for each in third.requests()] == [first.request, second.request, third.request]
    assert (first.hash, first.left_out) == (first.request, first.request)
    assert len({first.hash, second.hash, third.hash, second.request, third.left_out}) == 5


def test_what_is_left_out_has_one_name_however_it_is_asked_for() -> None:
    twice = requested([ForgetSpec(classes=[1]), ForgetSpec(classes=[2])])
    once = split(ForgetSpec(classes=[2, 1]))
    assert twice.left_out == once.left_out == once.hash != twice.hash
    assert torch.equal(twice.retain, once.retain)


def test_a_request_that_is_over_or_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"forget: all images that classes \[1\] selects were forgotten before"):
        requested([ForgetSpec(classes=[1, 2]), ForgetSpec(classes=[1])])
    with pytest.raises(UsageError, match="nothing is left to retain"):
        requested([ForgetSpec(classes=[0, 1, 2]), ForgetSpec(classes=[3])])
    with pytest.raises(UsageError, match=r"forgotten_before: request 2: fraction is 2\.0"):
        requested([ForgetSpec(classes=[0]), ForgetSpec(fraction=2.0), ForgetSpec(classes=[3])])


def test_validation_is_a_share_of_each_retained_class_and_changes_the_name() -> None:
    made = requested([ForgetSpec(classes=[1])], validation=0.2)
    assert torch.bincount(TRAIN[made.validation], minlength=4).tolist() == [2, 0, 2, 2]
    assert torch.equal(torch.cat([made.validation, made.retain]).sort().values, split(ForgetSpec(classes=[1])).retain)
    assert made.hash != split(ForgetSpec(classes=[1])).hash
    assert made.left_out == split(ForgetSpec(classes=[1])).left_out
    with pytest.raises(UsageError, match=r"val_from_train 0\.01 of 30 retained images"):
        requested([ForgetSpec(classes=[1])], validation=0.01)


def test_a_list_that_names_a_whole_class_is_said_to(tmp_path: Path) -> None:
    whole = "".join(f"{index}\n" for index in range(1, 40, 4))
    (warning,) = split(write(tmp_path, whole + "3\n")).warnings
    assert "every training image of class 'dog'" in warning
    assert "give forget.classes [dog]" in warning
    assert split(write(tmp_path, whole[2:])).warnings == ()
    assert split(ForgetSpec(classes=["dog"])).warnings == ()


def test_a_class_without_test_images_is_named() -> None:
    made = make_split(TRAIN, TEST[TEST != 2], ForgetSpec(classes=["cat"]), 0, NAMES)
    assert made.warnings == ("no test image of class 'frog': nothing is known of unseen images of it",)


@pytest.mark.parametrize(
    "images",
    [
        [17, 3],
        (17, 3),
        range(3, 18, 14),
        np.array([3, 17]),
        torch.tensor([17, 3]),
        [np.int64(3), torch.tensor(17)],
        torch.isin(torch.arange(40), torch.tensor([3, 17])),
        np.isin(np.arange(40), [3, 17]),
        ["hare/003.png", "./dog/017.png"],
        [Path("train/hare/003.png"), Path("dog/017.png")],
    ],
)
def test_a_list_of_images_is_what_the_file_with_its_lines_is(images: object, tmp_path: Path) -> None:
    made, file = (split(spec, images=IMAGES) for spec in (ForgetSpec(images=images), write(tmp_path, "3\n17\n")))
    assert made.forget.tolist() == [3, 17]
    assert (made.hash, made.request, made.left_out) == (file.hash, file.request, file.left_out)
    assert made.describe()["spec"] == {"images": 2}, "a row does not name them"
    assert json.loads(json.dumps(made.requests())) == made.requests()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([40], r"forget: images: index 40 is out of range \(allowed: 0 to 39\)"),
        (torch.tensor([-1]), r"forget: images: index -1 is out of range \(allowed: 0 to 39\)"),
        ([True] * 39, "images is a mask of 39 values, but there are 40 training images"),
        ([False] * 40, "a list of 0 images selects none of the 40 training images"),
        (range(40), "a list of 40 images selects all 40 training images"),
        ([5, 5], r"images names '5' twice \(index 5\)"),
        ([Path("cat/01.png")], "unknown training image 'cat/01.png'; did you mean"),
        ([], "images is empty, but must be a list"),
        ([1.5], r"images has 1.5 \(a float\), but must be a list, range, array or tensor of indices"),
        ((torch.arange(40) < 3).to(torch.uint8), r"images has 40 numbers, all 0 or 1: a mask .*\.bool\(\) of torch"),
        ((np.arange(40) < 3).astype(int), r"images has 40 numbers, all 0 or 1: a mask .*\.astype\(bool\) of numpy"),
        (torch.zeros(2, 2).bool(), r"images has \[False, False\] \(a list\)"),
        ([True, 3], r"images has True \(a bool\)"),
        (torch.tensor(3), "images is 3, but must be a list"),
        ({3}, r"images is \{3\}, but must be a list"),
    ],
)
def test_a_wrong_list_is_refused_and_the_value_named(images: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split(ForgetSpec(images=images), images=IMAGES)


def test_numbers_of_numpy_are_numbers() -> None:
    made = split(ForgetSpec(classes=[np.int64(1), np.uint8(2), "cat"], fraction=np.float32(0.5)))
    assert made.hash == split(ForgetSpec(classes=[1, 2, "cat"], fraction=0.5)).hash
    assert json.loads(json.dumps(made.describe()))["spec"] == {"classes": [1, 2, "cat"], "fraction": 0.5}
    for wrong in (np.True_, True, np.float64(1.0), None):
        with pytest.raises(UsageError, match="but must be a list of names or indices"):
            ForgetSpec(classes=[wrong])
    with pytest.raises(UsageError, match=r"fraction is .*True.*, but must be a number"):
        ForgetSpec(fraction=np.True_)
    assert split(ForgetSpec(images=[0, 1])).forget.tolist() == [0, 1], "no mask"


def test_a_list_goes_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images cannot be combined with classes or fraction"):
        split(ForgetSpec(classes=[1], images=[1]))
    with pytest.raises(UsageError, match=r"forget.txt' cannot be combined with images"):
        split(ForgetSpec(index_file=write(tmp_path, "3").index_file, images=[1]))
    (warning,) = split(ForgetSpec(images=range(1, 40, 4))).warnings
    assert "the list of images names every training image of class 'dog'" in warning
