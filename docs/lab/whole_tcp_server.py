# The whole TCP server: whole sentences, several clients, an orderly end.
import io
import socket
import sys
import threading
import time

STOP_WORDS = [b"stop", b"exit"]
MAX_BYTES = 1000  # of a sentence are kept; more is echoed, but not printed
SILENCE = 0.5  # seconds; then a sentence without a line end is over, too
GRACE = 5  # seconds for a client to close, once we have
places = threading.Semaphore(500)  # for so many clients at once


def is_stop(line, name):
    """Prints a sentence. Returns whether it is a stop word."""
    sentence = line.rstrip(b"\r\n")
    text = sentence[:MAX_BYTES].decode(errors="replace")
    print(f"[{name}] {text}\n", end="", flush=True)
    return len(sentence) <= MAX_BYTES and sentence.strip() in STOP_WORDS


def echo(conn, name):
    """Step 5: receive and send, until a stop word or the end of the input."""
    line = b""  # what has come of the sentence at hand
    was_silent = False  # a line end that comes now ends no new sentence
    while True:
        conn.settimeout(SILENCE if line else None)
        try:
            data = conn.recv(4096)
        except TimeoutError:
            if is_stop(line, name):
                return
            line, was_silent = b"", True
            continue
        conn.settimeout(None)
        if not data:  # the client sends no more
            if line:
                is_stop(line, name)
            return
        for piece in io.BytesIO(data):  # cut behind each line end
            conn.sendall(piece)  # send() may take a part, sendall() does not
            line = (line + piece)[: MAX_BYTES + 2]
            if not piece.endswith(b"\n"):
                break
            if (line.strip(b"\r\n") or not was_silent) and is_stop(line, name):
                return
            line, was_silent = b"", False


def serve(conn, name):
    """Steps 5 and 6 for one client. What goes wrong stays with this client."""
    try:
        with conn:  # at its end comes close()
            echo(conn, name)
            conn.shutdown(socket.SHUT_WR)  # a FIN, behind the last echo
            conn.settimeout(GRACE)
            deadline = time.monotonic() + GRACE
            while conn.recv(4096) and time.monotonic() < deadline:
                pass  # close() would send a reset if bytes were unread
    except OSError as error:
        print(f"[{name}] is lost: {error}\n", end="", flush=True)
    finally:
        places.release()


port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
# Steps 1 to 3: socket(), with SO_REUSEADDR, bind(), listen().
listener = socket.create_server(("127.0.0.1", port))
print("listening on port", port, flush=True)
while True:
    try:
        # Step 4: a request is received; create a new socket for this client.
        conn, (host, number) = listener.accept()
        args = (conn, f"{host}:{number}")
        places.acquire()
        threading.Thread(target=serve, args=args, daemon=True).start()
    except OSError as error:  # this client has gone, or no descriptor is free
        print("cannot accept:", error, flush=True)
        time.sleep(0.01)
