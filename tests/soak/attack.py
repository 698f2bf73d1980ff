"""What the rounds have in common: clients work, and the server is killed among them."""

import http.client
import time

# What a client meets when the server is gone.
GONE = (OSError, http.client.HTTPException)


def attack(clients, begin, instance, seconds):
    """Starts the clients, which wait at `begin`, kills the server `seconds` after all are there, and raises what went wrong in one."""
    for client in clients:
        client.start()
    begin.wait()
    time.sleep(seconds)
    instance.kill()
    join(clients)
    for client in clients:
        if client.wrong:
            raise client.wrong


def join(threads):
    """The server is gone: nobody may wait for it."""
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a client hangs although the server is gone"
