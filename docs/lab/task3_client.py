# Task 3, the client: it sends sentences, one after the other, to "stop".
import socket
import sys

# Step 1a: get the IP address and port number of the server.
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
server = ("127.0.0.1", port)
# Step 1b: create a TCP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
# Step 1c: send a connection request to the server.
sock.connect(server)

# The client requires input from the user: lines, with their line ends.
print("Type sentences, and stop at the end:")
for line in sys.stdin:
    # Step 1c.i: send and receive data with the server.
    sock.send(line.encode())
    data = sock.recv(1024)
    if not data:
        break  # the server sends no more
    echo = data.decode().strip()
    print("echo:", echo)
    if line.strip() == "stop":
        break

# Step 1c.ii: close the socket.
sock.close()
