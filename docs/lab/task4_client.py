# Task 4, the client: UDP.
import socket
import sys

# Step 1a: get the IP address and port number of the server.
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
server = ("127.0.0.1", port)
# Step 1b: create a UDP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# Step 1c: none. No connection is required.

# The client requires input from the user: lines, each without its line end.
print("Type sentences, and stop at the end:")
for line in sys.stdin:
    # Step 1c.i: send and receive data with the server.
    sock.sendto(line.strip().encode(), server)
    data, address = sock.recvfrom(1024)
    echo = data.decode().strip()
    print("echo:", echo)
    if line.strip() == "stop":
        break

# Step 1c.ii: close the socket.
sock.close()
