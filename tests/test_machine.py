"""What the machine has, each finding with its remedy."""

import http.server
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
from huggingface_hub import constants

import sefe_plugin.machine as machine
from sefe_plugin.machine import disk_checks, hub_checks, memory_checks


def test_little_room_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=19e9))
    (check,) = disk_checks(tmp_path)
    assert check.level == "warning"
    assert check.text.startswith(f"19.0 GB free at {tmp_path}. A 7B model")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=21e9))
    assert [check.level for check in disk_checks(tmp_path)] == ["ok"]


def test_little_memory_is_a_warning(monkeypatch):
    for available, level in ((3e9, "warning"), (5e9, "ok")):
        memory = SimpleNamespace(available=available, total=8e9)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        (check,) = memory_checks()
        assert check.level == level
        assert check.text.startswith(f"{available / 1e9:.1f} of 8.0 GB free")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's settings, with a cache folder that does not exist yet."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_offline_asks_nobody(hub):
    hub.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.setattr(machine, "_unreachable", None)
    assert [check.level for check in hub_checks()] == ["ok", "ok"]


@pytest.mark.parametrize("status", [200, 404])
def test_any_answer_is_one(hub, status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert [check.level for check in hub_checks()] == ["ok", "ok"]
        server.shutdown()


def test_silence_ends_after_its_time(hub):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hub.setattr(machine, "_HUB_TIME", 0.3)
        started = time.monotonic()
        _, check = hub_checks()
        assert time.monotonic() - started < 2
    assert check.level == "warning"
    assert "set HF_HUB_OFFLINE=1" in check.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "no address", "http://"])
def test_a_hub_that_is_not_there(hub, address):
    hub.setattr(constants, "ENDPOINT", address)
    _, check = hub_checks()
    assert check.level == "warning"
    assert check.text.startswith(f"{address} does not answer: ")


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "cache").touch()
    hub.setattr(constants, "HF_HUB_OFFLINE", True)
    cache, _ = hub_checks()
    assert cache.level == "warning"
    assert "cannot be written: Not a directory. Set HF_HOME" in cache.text
