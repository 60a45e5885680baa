"""The scripts in benchmarks/: what they count is repeatable, and what they compare is comparable."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from project.project_files import ROOT

FOLDER = ROOT / "benchmarks"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def functions_of(script: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / script))


# -- instructions ---------------------------------------------------------------------------------


def recorded(file: Path) -> dict[str, float]:
    [counts] = json.loads(file.read_text()).values()
    found: dict[str, float] = counts
    return found


def test_counts_are_the_same_in_every_process(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for seed, file in enumerate(files):
        done = run("instructions.py", "--record", "--baseline", str(file), PYTHONHASHSEED=str(seed))
        assert done.returncode == 0, done.stderr
    assert recorded(files[0]) == recorded(files[1])
    assert min(recorded(files[0]).values()) > 10


def test_a_count_that_has_grown_fails_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline = ["--baseline", str(file)]
    assert run("instructions.py", "--record", *baseline).returncode == 0
    assert run("instructions.py", "--tolerance", "0", *baseline).returncode == 0
    counts = recorded(file)
    counts["decode_frame"] *= 0.9
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    file.write_text(json.dumps({version: counts}))
    done = run("instructions.py", *baseline)
    assert done.returncode == 1
    assert "grown by more than 5%: decode_frame;" in done.stderr
    assert run("instructions.py", "--tolerance", "0.2", *baseline).returncode == 0


def test_another_version_of_python_is_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({"2.7": {"decode_frame": 1}}))
    done = run("instructions.py", "--baseline", str(file))
    assert done.returncode == 0
    assert "nothing is judged" in done.stdout


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read"),
        ("no json", "is no JSON"),
        ("[1]", "holds no counts"),
        ('{"3.11": {"decode_frame": "many"}}', "holds no counts"),
    ],
)
def test_without_counts_to_compare_with_nothing_passes(
    tmp_path: Path, content: str | None, told: str
) -> None:
    file = tmp_path / "baseline.json"
    if content is not None:
        file.write_text(content)
    done = run("instructions.py", "--baseline", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-0.1"])
def test_a_tolerance_that_judges_nothing_is_a_mistake(tolerance: str) -> None:
    done = run("instructions.py", "--tolerance", tolerance)
    assert done.returncode == 2
    assert "--tolerance must be" in done.stderr


def test_the_recorded_counts_name_what_is_counted() -> None:
    counted = set(functions_of("instructions.py")["works"]())
    baselines = json.loads((FOLDER / "instructions.json").read_text())
    assert baselines
    assert [version for version, counts in baselines.items() if counts.keys() != counted] == []


# -- media_codecs ---------------------------------------------------------------------------------


def test_every_codec_is_measured() -> None:
    done = run("media_codecs.py", "--seconds", "1", "--width", "64", "--height", "64")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert {"opus_encode", "opus_decode", "vp8_encode", "vp8_decode", "jitter_buffer"} <= figures.keys()
    assert [name for name, each in figures.items() if each["wall_us"] <= 0] == []


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--width", "1"], ["--height", "x"]])
def test_what_cannot_be_measured_is_refused(arguments: list[str]) -> None:
    done = run("media_codecs.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# -- compare --------------------------------------------------------------------------------------


def test_only_what_was_measured_is_compared() -> None:
    numbers_of = functions_of("compare.py")["numbers_of"]
    figures = {"scenario": "relay", "messages": 5, "msg_per_s": 7, "kill": True, "lost": 0, "range": {}}
    assert numbers_of(figures, ["relay", "--messages", "5"]) == {"msg_per_s": 7.0}


def test_the_table_has_medians_and_their_ratio() -> None:
    first = [{"speed": 10.0, "window": 5.0}, {"speed": 30.0, "window": 5.0}, {"speed": 20.0, "window": 5.0}]
    second = [{"speed": 40.0, "window": 5.0, "new": 1.0}]
    lines = functions_of("compare.py")["table"](("A", "B"), (first, second)).splitlines()
    assert [line.split() for line in lines] == [["A", "B", "ratio"], ["speed", "20.00", "40.00", "2.000"]]


def test_this_directory_is_compared_with_itself() -> None:
    options = ["--messages", "50", "--warmup", "0", "--window", "10"]
    done = run("compare.py", ".", ".", "--rounds", "1", "--", "relay", *options)
    assert done.returncode == 0, done.stderr
    assert "msg_per_s" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["."], 2),
        ([".", ".", "--rounds", "0"], 2),
        ([".", ".", "--", "all"], 2),
        (["no-such-commit", "."], 1),
        ([".", ".", "--", "sideways"], 1),
    ],
)
def test_mistakes_are_told_without_a_traceback(arguments: list[str], status: int) -> None:
    done = run("compare.py", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("compare")


# -- rest -----------------------------------------------------------------------------------------


def test_what_a_pause_costs_is_measured_of_disk_and_interpreter(tmp_path: Path) -> None:
    done = run("rest.py", "--folder", str(tmp_path), "--times", "3")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) == {"fdatasync_us", "python_us"}
    for found in figures.values():
        assert list(found) == ["0", "1", "2", "5", "10", "20"]
        assert all(0 < each["p50"] <= each["p99"] for each in found.values())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = run("rest.py", "--folder", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr == f"error: cannot write in {tmp_path / 'nowhere'}: No such file or directory\n"
    assert run("rest.py", "--times", "0").returncode == 2
