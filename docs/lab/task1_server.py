# Task 1, the server: it prints the sentence upon receiving it.
import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000

# Step 1: create a TCP socket.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
# Step 2: choose a port number and IP address, and attach the socket to them.
listener.bind(("127.0.0.1", port))
# Step 3: listen for an incoming connection request.
listener.listen()
print("listening on port", port)

# Step 4: a request is received; create a new socket for this client.
conn, address = listener.accept()
print("connection from", address)

# Step 5: receive data from the client.
data = conn.recv(1024)
sentence = data.decode().strip()
print("received:", sentence)

# Step 6: close all the sockets.
conn.close()
listener.close()
