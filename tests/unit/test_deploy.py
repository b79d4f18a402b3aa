"""What stands in deploy/: the example configuration says nothing untrue."""

import re
import tomllib
from pathlib import Path

from zmqgame_bus.config import load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
EXAMPLE = DEPLOY / "config" / "zmqgame.toml"


def test_the_example_configuration_loads():
    config = load(EXAMPLE, environ={})
    assert config.settings["security.curve"].value is True


def test_what_it_comments_out_are_the_defaults(tmp_path):
    bare = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.M)
    file = tmp_path / "bare.toml"
    file.write_text(bare)
    config = load(file, environ={})
    for name, values in tomllib.loads(bare).items():
        for key in set(values) - {"curve"}:
            setting = config.settings[f"{name}.{key}"]
            assert setting.value == setting.key.default, f"{name}.{key}"
    written = {path for path, each in config.settings.items() if each.source != "default"}
    assert len(written) >= 12
