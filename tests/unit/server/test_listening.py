"""The port is taken first; one that can't be had is a mistake in the settings, in one sentence."""

import socket
import threading

import pytest

from server.core.errors import ConfigurationError
from server.listening import listen


def test_clients_connect_before_anybody_accepts() -> None:
    [one] = listen("127.0.0.1", 0)
    with one, socket.create_connection(one.getsockname(), timeout=60):
        pass


def test_a_busy_port_is_named_with_the_remedy() -> None:
    [one] = listen("127.0.0.1", 0)
    port = one.getsockname()[1]
    with one, pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 already.*--port"):
        listen("127.0.0.1", port)
    [again] = listen("127.0.0.1", port)
    again.close()


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_an_address_that_this_machine_lacks_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match=host):
        listen(host, 0)


def test_of_two_that_want_one_port_one_gets_it() -> None:
    [probe] = listen("127.0.0.1", 0)
    port = probe.getsockname()[1]
    probe.close()
    got: list[socket.socket] = []
    refused: list[ConfigurationError] = []

    def take() -> None:
        try:
            got.extend(listen("127.0.0.1", port))
        except ConfigurationError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 1)
    got[0].close()
