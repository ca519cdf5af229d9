"""The checkpoint file of `watch`: it says the same when it is read again, is whole or not there, and harms no other."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cardprod import AdaptiveSchedule, Card, Checkpoint, ProductionStatus, UsageError
from cardprod.cli.saving import CheckpointFile, Saved, pause_after
from cardprod.cli.tally import Fate

ENDS = (
    ProductionStatus("PRODUCED"),
    ProductionStatus("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM"),
    ProductionStatus("REQUEST_ERROR", error_code="NOT_KNOWN_YET"),
)


def saved_of(*, pending: int, ended: int) -> Saved:
    return Saved(
        base_url="https://api.wise.com",
        checkpoint=Checkpoint.for_cards(((1, f"pending-{number}") for number in range(pending)), timeout=60),
        ended={Card(2, f"ended-{number}"): Fate.of(ENDS[number % len(ENDS)]) for number in range(ended)},
        learned=AdaptiveSchedule().to_json(),
    )


def write(path: Path, saved: Saved) -> None:
    """Write a file, as a run that then ended."""
    with CheckpointFile(str(path)) as file:
        file.read()
        file.write(saved, 1)


def read(path: Path) -> Saved | None:
    """Read a file, as a run that then ended."""
    with CheckpointFile(str(path)) as file:
        return file.read()


@pytest.mark.parametrize(("pending", "ended"), [(0, 0), (1, 0), (0, 1), (1203, 777)])
def test_written_and_read(tmp_path: Path, pending: int, ended: int) -> None:
    """What is written is read again, however many cards there are, and each line is JSON."""
    saved = saved_of(pending=pending, ended=ended)
    assert read(tmp_path / "state") is None
    write(tmp_path / "state", saved)
    again = read(tmp_path / "state")
    assert again is not None
    assert (again.checkpoint.pending, again.ended) == (saved.checkpoint.pending, saved.ended)
    assert (again.base_url, again.learned) == (saved.base_url, saved.learned)
    if pending:
        assert again.checkpoint == saved.checkpoint
    for line in (tmp_path / "state").read_text().splitlines():
        json.loads(line)


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The file can be read by nobody else, nothing lies beside it, and what a killed run left beside it is no harm."""
    (tmp_path / ".state.new").write_text("half a li")
    write(tmp_path / "state", saved_of(pending=1, ended=1))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "state"]


def test_a_link_leads_to_the_file(tmp_path: Path) -> None:
    """Where the name is a link, what it leads to is written, and the link stays."""
    (tmp_path / "link").symlink_to(tmp_path / "state")
    write(tmp_path / "link", saved_of(pending=1, ended=0))
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "state") is not None


def test_the_newest_stays(tmp_path: Path) -> None:
    """What was taken earlier never replaces what was taken later, in whatever order threads get to write."""
    with CheckpointFile(str(tmp_path / "state")) as file:
        file.write(saved_of(pending=2, ended=0), 2)
        file.write(saved_of(pending=1, ended=0), 1)
    file.write(saved_of(pending=1, ended=0), 3)  # a thread that is late
    again = read(tmp_path / "state")
    assert again is not None
    assert len(again.checkpoint.pending) == 2


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """While one run has the file, another is refused, whether it was there when that one began or not."""
    with CheckpointFile(str(tmp_path / "state")) as first, CheckpointFile(str(tmp_path / "state")) as late:
        assert late.read() is first.read() is None
        first.write(saved_of(pending=1, ended=0), 1)
        first.write(saved_of(pending=2, ended=0), 2)
        with pytest.raises(UsageError, match=r"another run goes on with .*state"):
            read(tmp_path / "state")
        with pytest.raises(UsageError, match=r"another run goes on with .*state"):
            late.write(saved_of(pending=9, ended=0), 1)
    with CheckpointFile(str(tmp_path / "state")) as second:
        assert second.read() is not None
        with pytest.raises(UsageError, match="another run goes on with"):
            read(tmp_path / "state")
        second.write(saved_of(pending=3, ended=0), 1)
    again = read(tmp_path / "state")
    assert again is not None
    assert len(again.checkpoint.pending) == 3


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """If it cannot be written, that is said, and the file is as before."""
    write(tmp_path / "state", saved_of(pending=1, ended=0))
    before = (tmp_path / "state").read_bytes()
    (tmp_path / ".state.new").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "state", saved_of(pending=5, ended=0))
    assert (tmp_path / "state").read_bytes() == before
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write(tmp_path / "nowhere" / "state", saved_of(pending=1, ended=0))


def _with_head(**fields: Any) -> str:
    head, *rest = saved_of(pending=1, ended=1).to_lines()
    return "\n".join([json.dumps(json.loads(head) | fields), *rest])


def _with_ended(**fields: Any) -> str:
    *rest, ended = saved_of(pending=1, ended=1).to_lines()
    [one] = json.loads(ended)["ended"]
    return "\n".join([*rest, json.dumps({"version": 1, "ended": [one | fields]}, separators=(",", ":"))])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON object"),
        ("profile_id,card_token\n1,a\n", "it is no JSON object"),
        ('{"profile_id": 1, "card_token": "a"}', "it has no version"),
        ("[1]", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON object"),
        (_with_head(format="cardprod"), "@ format"),
        (_with_head(version=2), "in version 2; known is version 1"),
        (_with_head(pending=2), "it does not hold the cards"),
        (_with_head(learned=None), "expected a string @ learned"),
        (_with_head(learned="{}"), "AdaptiveSchedule.to_json"),
        (_with_ended(status="READY"), "it has a card as ended that is not"),
        (_with_ended(card={"profile_id": 1, "card_token": "a/b"}), "card_token must be"),
        (_with_ended(card={"profile_id": 1, "card_token": "pending-0"}), "it does not hold the cards"),
        (_with_ended(status=["PRODUCED"]), "expected a string @ ended[0].status"),
        (_with_head() + '\n{"version":1,"ended":1}', "expected an array @ ended"),
        (_with_head() + '\n{"version":1,"ended":[1]}', "expected an object @ ended[0]"),
        ("\n".join(list(saved_of(pending=1, ended=1).to_lines())[:2]), "it does not hold the cards"),
        (_with_head() + "\n{}", "Checkpoint.to_json"),
        ("\ud800", "it is not UTF-8"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """A file that is not one of these, whole and of this version, is refused with why, and stays as it is."""
    path = tmp_path / "state"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(
        UsageError, match=r"is no checkpoint of `cardprod watch` to go on from: .*it was left as it is"
    ) as caught:
        read(path)
    assert why in str(caught.value)
    assert path.read_bytes() == text.encode(errors="surrogatepass")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A directory or a device is no place for a checkpoint: it would be replaced."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UsageError, match="it is no file"):
            read(path)


@pytest.mark.parametrize(
    ("cost", "is_idle", "pause"), [(0.0, False, 2), (0.01, False, 2), (1, False, 20), (0.01, True, 60), (30, True, 600)]
)
def test_writing_takes_little_of_the_time(*, cost: float, is_idle: bool, pause: float) -> None:
    """The file is written every two seconds, rarer without news, and never for a larger part of the time."""
    assert pause_after(cost, is_idle=is_idle) == pytest.approx(pause)
