# Task 3, the server: it closes a connection only upon receiving "stop".
import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 12000

# Step 1: create a TCP socket.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# Step 2: choose a port number and IP address, and attach the socket to them.
listener.bind(("127.0.0.1", port))
# Step 3: listen for an incoming connection request.
listener.listen()
print("listening on port", port)

while True:
    # Step 4: a request is received; create a new socket for this client.
    conn, address = listener.accept()
    print("connection from", address)

    # Step 5: receive data from the client, and send it back.
    while data := conn.recv(1024):  # b'': the client sends no more
        sentence = data.decode().strip()
        print("received:", sentence)
        conn.send(data)
        if sentence == "stop":
            break

    # Step 6: close the client's socket; the listener waits for the next one.
    conn.close()
