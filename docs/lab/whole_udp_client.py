# The whole UDP client: it checks who answers what, and sends again.
import socket
import sys
import time

STOP_WORDS = [b"stop", b"exit"]
MAX_DATAGRAM = 65507  # bytes: 65,535 less the IP and UDP headers
TRIES = 4
FIRST_WAIT = 0.2  # seconds; doubled at each try

# Step 1a: get the IP address and port number of the server.
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
server = ("127.0.0.1", port)
# Step 1b: create a UDP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# Step 1c: none. No connection is required.


def comes_back(sentence, wait):
    """Whether the server sends this sentence back within `wait` seconds."""
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data, address = sock.recvfrom(MAX_DATAGRAM)
        except TimeoutError:
            return False
        if address == server and data == sentence:
            return True
        # A stranger's reply, or a late copy of an earlier echo: wait on.
    return False


def request(sentence):
    """Step 1c.i: send, and send again. Returns whether the echo came."""
    for i in range(TRIES):
        try:
            sock.sendto(sentence, server)
            if comes_back(sentence, FIRST_WAIT * 2**i):
                return True
        except OSError as error:
            print(f"{server[0]}:{port}: {error}", file=sys.stderr)
    return False


print("Type sentences, and stop at the end:", file=sys.stderr)
lost = 0
while line := sys.stdin.buffer.readline(MAX_DATAGRAM + 2):
    sentence = line.removesuffix(b"\n").removesuffix(b"\r")
    if request(sentence):
        print(sentence.decode(errors="replace"), flush=True)
        if sentence.strip() in STOP_WORDS:
            break
    else:
        lost += 1
        print(f"no echo of a sentence after {TRIES} tries", file=sys.stderr)

# Step 1c.ii: close the socket.
sock.close()
sys.exit(1 if lost else 0)
