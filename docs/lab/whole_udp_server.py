# The whole UDP server: any datagram, any peer, and no error ends it.
import socket
import sys

STOP_WORDS = [b"stop", b"exit"]
MAX_DATAGRAM = 65507  # bytes: 65,535 less the IP and UDP headers

port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000

# Step 1: create a UDP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# Step 2: choose a port number and IP address, and attach the socket to them.
sock.bind(("127.0.0.1", port))
print("ready on port", port, flush=True)

# Steps 3 and 4: none. No connection is required.

while True:
    try:
        # Step 5: receive data, and send it back to where it came from.
        data, client = sock.recvfrom(MAX_DATAGRAM)
        name = f"{client[0]}:{client[1]}"
        if client[1] < 1024 or client[1] == port:
            continue  # another server: the two would answer each other for ever
        sentence = data.rstrip(b"\r\n").decode(errors="replace")
        print(f"[{name}] {sentence}", flush=True)
        sock.sendto(data, client)
        if data.strip() in STOP_WORDS:
            print(f"[{name}] has stopped", flush=True)  # nothing to close
    except OSError as error:  # of one peer; the others go on
        print("not answered:", error, flush=True)

# Step 6: none. There is one socket, for all clients; Ctrl-C closes it.
