# Task 4, the server: UDP.
import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000

# Step 1: create a UDP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# Step 2: choose a port number and IP address, and attach the socket to them.
sock.bind(("127.0.0.1", port))
print("ready on port", port)

# Steps 3 and 4: none. No connection is required.

while True:
    # Step 5: receive data, and send it back to where it came from.
    data, client = sock.recvfrom(1024)
    sentence = data.decode().strip()
    print("received:", sentence, "from", client)
    sock.sendto(data, client)

# Step 6: none. There is one socket, for all clients; Ctrl-C closes it.
