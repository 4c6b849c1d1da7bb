from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.contract.errors import ProfileError, SpecError, TraindeckError
from engine.contract.spec import DataSpec, RunSpec
from engine.contract.specfile import read_spec
from engine.runs import profiles
from engine.runs.storage import open_registry

SPEC = RunSpec(name="whatever", seed=7)


def _own() -> dict[str, profiles.Profile]:
    return {profile.name: profile for profile in profiles.list_profiles() if profile.origin == "own"}


def test_shipped_profiles_are_listed_and_load() -> None:
    shipped = [profile for profile in profiles.list_profiles() if profile.origin == "shipped"]
    assert shipped[0].name == "quickstart"
    assert [profile.problem for profile in shipped] == [None] * len(shipped)
    assert profiles.load_profile("quickstart") == shipped[0].spec


def test_save_load_clone_rename_delete() -> None:
    profiles.save_profile("mine", SPEC)
    assert profiles.load_profile("mine") == msgspec.structs.replace(SPEC, name="mine")
    profiles.clone_profile("mine", "copy of it")
    profiles.rename_profile("mine", "Mine")
    profiles.rename_profile("Mine", "ours")
    profiles.delete_profile("copy of it")
    assert list(_own()) == ["ours"]
    assert profiles.load_profile("ours").name == "ours"
    assert profiles.load_profile("ours").seed == 7


def test_clone_of_a_shipped_profile_is_one_s_own() -> None:
    profiles.clone_profile("quickstart", "fast")
    assert _own()["fast"].spec == msgspec.structs.replace(profiles.load_profile("quickstart"), name="fast")


def test_one_name_is_one_profile() -> None:
    profiles.save_profile("mine", SPEC)
    profiles.save_profile("other", SPEC)
    for attempt in (
        lambda: profiles.save_profile("mine", SPEC),
        lambda: profiles.save_profile("MINE", SPEC),
        lambda: profiles.save_profile("quickstart", SPEC, overwrite=True),
        lambda: profiles.clone_profile("mine", "other"),
        lambda: profiles.rename_profile("mine", "other"),
        lambda: profiles.rename_profile("mine", "quickstart"),
    ):
        with pytest.raises(ProfileError, match="taken"):
            attempt()
    profiles.save_profile("mine", msgspec.structs.replace(SPEC, seed=8), overwrite=True)
    assert profiles.load_profile("mine").seed == 8
    assert profiles.load_profile("other").seed == 7


@pytest.mark.parametrize("name", ["", " ", "../out", "a/b", ".hidden", "-x", "x" * 81, "bell\x07"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ProfileError, match="name"):
        profiles.save_profile(name, SPEC)
    assert _own() == {}


def test_shipped_profiles_are_read_only() -> None:
    for attempt in (
        lambda: profiles.delete_profile("quickstart"),
        lambda: profiles.rename_profile("quickstart", "fast"),
    ):
        with pytest.raises(ProfileError, match="Clone it"):
            attempt()


def test_unknown_profile_names_the_nearest() -> None:
    for attempt in (profiles.load_profile, profiles.delete_profile):
        profiles.save_profile("quicker", SPEC, overwrite=True)
        with pytest.raises(ProfileError, match="did you mean 'quick"):
            attempt("quikker")


def test_broken_profile_is_listed_with_its_problem() -> None:
    profiles.save_profile("good", SPEC)
    with open_registry() as registry:
        registry.profiles.insert({"name": "bad", "toml": "[model]\nlayer = 3\n"})
        registry.profiles.insert({"name": "worse", "toml": "not toml ["})
        registry.profiles.insert({"neither": 1})
    own = _own()
    assert own["good"].problem is None
    assert "model.layers" in (own["bad"].problem or "")
    assert "not TOML" in (own["worse"].problem or "")
    assert own["unnamed"].spec is not None or own["unnamed"].problem
    with pytest.raises(ProfileError, match=r"model\.layers"):
        profiles.load_profile("bad")
    profiles.rename_profile("bad", "still bad")
    profiles.delete_profile("still bad")
    assert "bad" not in _own()


def test_two_profiles_of_one_name_are_shown_and_told_apart_by_renaming() -> None:
    with open_registry() as registry:
        for _ in range(2):
            registry.profiles.insert({"name": "twin", "toml": "seed = 1\n"})
        registry.profiles.insert({"name": "quickstart", "toml": "seed = 2\n"})
    problems = [profile.problem for profile in profiles.list_profiles() if profile.name == "twin"]
    assert len([problem for problem in problems if problem]) == 1
    for name in ("twin", "quickstart"):
        with pytest.raises(ProfileError, match="profiles rename"):
            profiles.load_profile(name)
        profiles.rename_profile(name, f"{name} 2")
        profiles.load_profile(name)
    assert profiles.load_profile("quickstart 2").seed == 2


def test_export_writes_a_file_and_overwrites_none(tmp_path: Path) -> None:
    profiles.save_profile("mine", SPEC)
    target = profiles.export_profile("mine", tmp_path)
    assert target == tmp_path / "mine.toml"
    assert read_spec(target) == profiles.load_profile("mine")
    target.write_text("precious")
    with pytest.raises(ProfileError, match="exists"):
        profiles.export_profile("mine", target)
    assert target.read_text() == "precious"
    profiles.export_profile("mine", target, overwrite=True)
    assert read_spec(target).seed == 7
    with pytest.raises(ProfileError, match="not exported"):
        profiles.export_profile("mine", tmp_path / "no" / "folder.toml")


def test_relative_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("some text")
    monkeypatch.chdir(tmp_path)
    profiles.save_profile("mine", RunSpec(data=DataSpec(source="text.txt")))
    assert profiles.load_profile("mine").data.source == str(tmp_path / "text.txt")


def test_find_spec_takes_profiles_files_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("seed = 3\n[optim]\nlr = 0.5\n")
    assert profiles.find_spec(str(tmp_path / "a.toml"), ["lr=0.25"]).optim.lr == 0.25
    assert profiles.find_spec("quickstart", ["seed=9"]).seed == 9
    with pytest.raises(SpecError, match=r"optim\.lr"):
        profiles.find_spec("quickstart", ["optim.lrr=9"])
    with pytest.raises(ProfileError, match="no such profile"):
        profiles.find_spec("nothing-of-that-name")
    with pytest.raises(SpecError, match=r"missing\.toml"):
        profiles.find_spec("missing.toml")


def test_what_cannot_run_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing says when to stop"):
        profiles.save_checked("mine", SPEC)
    (tmp_path / "bad.toml").write_text("[optim]\nlr = -1\n")
    with pytest.raises(SpecError, match=r"bad\.toml"):
        profiles.import_profile(tmp_path / "bad.toml")
    assert _own() == {}


def test_an_imported_profile_is_called_as_asked_or_as_the_file_says(tmp_path: Path) -> None:
    budget = "[budget]\nmax_steps = 5\n"
    (tmp_path / "file.toml").write_text('name = "inside"\n' + budget)
    (tmp_path / "plain.toml").write_text(budget)
    assert profiles.import_profile(tmp_path / "file.toml") == "inside"
    assert profiles.import_profile(tmp_path / "file.toml", "asked") == "asked"
    assert profiles.import_profile(tmp_path / "plain.toml") == "plain"
    assert profiles.load_profile("asked").budget.max_steps == 5
    with pytest.raises(ProfileError, match="taken"):
        profiles.import_profile(tmp_path / "plain.toml")
    assert profiles.import_profile(tmp_path / "plain.toml", overwrite=True) == "plain"


def test_a_damaged_registry_does_not_block_the_shipped_profiles(home: Path) -> None:
    profiles.save_profile("mine", RunSpec(name="mine"))
    for file in home.glob("registry.json*"):
        if file.suffix != ".lock":
            file.write_bytes(b"{")
    assert profiles.load_profile("quickstart").name == "quickstart"
    with pytest.raises(TraindeckError):
        profiles.load_profile("mine")
