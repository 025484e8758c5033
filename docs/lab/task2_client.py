# Task 2, the client: it prints the echo of its sentence.
import socket
import sys

# Step 1a: get the IP address and port number of the server.
port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000
server = ("127.0.0.1", port)
# Step 1b: create a TCP socket.
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
# Step 1c: send a connection request to the server.
sock.connect(server)

# The client requires input from the user: a line, with its line end.
print("Type a sentence:")
line = sys.stdin.readline()

# Step 1c.i: send and receive data with the server.
sock.send(line.encode())
echo = sock.recv(1024).decode().strip()
print("echo:", echo)

# Step 1c.ii: close the socket.
sock.close()
