"""The folder of a backend."""

import pytest
from zmqgame.cli.stage import Stage, free_addresses
from zmqgame_bus.errors import FolderNotUsable


def test_a_folder_that_can_not_be_used_names_the_flag_that_chose_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderNotUsable) as caught:
        Stage(tmp_path / "file", free_addresses(["game-1"]), option="--keep")
    assert caught.value.hint.endswith("use --keep")
