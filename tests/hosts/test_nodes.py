"""Several nodes: the first tells each command, the others run it, and all of them end."""

import os
import socket
import subprocess
import sys
import time

import pytest

from sefe_plugin.hosts.llamafactory.nodes import environment_errors


LEAD = """
import sys
from sefe_plugin.hosts.llamafactory.nodes import lead
with lead() as announce:
    for word in ("one", "two"):
        announce([sys.executable, "-c", f"open('seen', 'a').write('{word} ')"])
    if "fail" in sys.argv:
        raise SystemExit(3)
"""
FOLLOW = "from sefe_plugin.hosts.llamafactory.nodes import follow; follow()"


@pytest.fixture
def start(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] - 1
    environment = os.environ | {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def start(code: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment)

    return start


@pytest.mark.parametrize("failing", [False, True])
def test_other_nodes_run_every_command_in_order_and_end_with_the_first(start, tmp_path, failing):
    follower = start(FOLLOW)  # a node may be there before the first one
    time.sleep(1)
    leader = start(LEAD, *["fail"] * failing)
    assert leader.wait(120) == (3 if failing else 0)
    assert follower.wait(60) == 0
    assert (tmp_path / "seen").read_text() == "one two "


def test_absent_variables_are_named(monkeypatch):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("MASTER_ADDR", "somewhere")
    (error,) = environment_errors()
    assert "NODE_RANK and MASTER_PORT is not set" in error
