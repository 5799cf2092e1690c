"""What options of the command line take, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from gcnrec.console.arguments import count, integer, number, place_to_write


@pytest.mark.parametrize("text", ["", "1_0", "\u0661", "1.0", "0x1", " 1", "1" * 20])
def test_whole_numbers_are_plain_digits(text):
    with pytest.raises(typer.BadParameter, match="expected a whole number in the digits 0 to 9"):
        integer(text)


def test_numbers_are_what_they_say():
    assert (integer("-12"), count("12"), number("1.5e-3"), number(".5"), number("7")) == (-12, 12, 0.0015, 0.5, 7.0)


@pytest.mark.parametrize(("parse", "text"), [(count, "0"), (count, "-1"), (number, "nan"), (number, "inf"), (number, "1e999")])
def test_numbers_out_of_bounds_are_refused(parse, text):
    with pytest.raises(typer.BadParameter, match="expected"):
        parse(text)


@pytest.mark.parametrize("text", ["s3://bucket/x", "file:///x", "HTTP://host/x"])
def test_outputs_are_on_this_machine(text):
    with pytest.raises(typer.BadParameter, match="expected a path of this machine, got the address"):
        place_to_write(text)


def test_no_folder_is_made_on_the_way_up(tmp_path):
    (tmp_path / "there").mkdir()
    for text in ("there/../x", "..", "../x", "absent/x", "12:30/x", "c:/x"):
        assert place_to_write(tmp_path / text) == tmp_path / text
    for text in ("absent/..", "absent/../x", "there/../absent/x/../y"):
        with pytest.raises(typer.BadParameter, match=r"goes up from .*absent.*, which is no folder; write the path without \.\."):
            place_to_write(str(tmp_path / text))
    assert place_to_write("x") == Path("x")
