# The whole TCP client: it reads while it writes, and counts what comes back.
import os
import socket
import sys
import threading

STOP_WORDS = [b"stop", b"exit"]
owed = bytearray()  # what was sent and is not echoed yet
last = b""  # the last line that was sent
input_ended = False


def send_input(sock):
    """Step 1c.i: send what the user types, then a FIN."""
    global last, input_ended
    try:
        while line := sys.stdin.buffer.readline(65536):
            last = line
            owed.extend(line)
            sock.sendall(line)  # all of it, where send() may take a part
        input_ended = True
        sock.shutdown(socket.SHUT_WR)  # no more to send; echoes may still come
    except OSError:
        pass  # the connection is gone: recv() will end, too


def receive_echo(sock):
    """Step 1c.i: print what comes, to the end. Returns what is wrong."""
    is_same = True
    while data := sock.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        is_same = is_same and owed.startswith(data)
        del owed[: len(data)]
    if not is_same:
        return "the echo differs from what was sent"
    if owed:
        return f"the server closed: {len(owed)} bytes are not echoed"
    if not input_ended and last.strip() not in STOP_WORDS:
        return "the server closed before the end of the input"
    return None


# Step 1a: get the IP address and port number of the server.
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
server = ("127.0.0.1", port)
try:
    # Steps 1b and 1c: socket(), and connect() within 5 seconds.
    sock = socket.create_connection(server, timeout=5)
    sock.settimeout(None)
    print("Type sentences, and stop at the end:", file=sys.stderr)
    threading.Thread(target=send_input, args=(sock,), daemon=True).start()
    wrong = receive_echo(sock)
    # Step 1c.ii: close the socket.
    sock.close()
except OSError as error:
    wrong = f"{server[0]}:{port}: {error}"
if wrong:
    print(wrong, file=sys.stderr)
sys.stderr.flush()
os._exit(1 if wrong else 0)  # the thread may still wait at the keyboard
