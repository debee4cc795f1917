"""Fixtures of the tests of tasks."""

import socket

import pytest


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Cuts the network, and lists what was asked of it: who asked may swallow the error."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked
