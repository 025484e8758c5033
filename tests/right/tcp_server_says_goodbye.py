# At the stop word it sends a goodbye in place of the word, and closes.
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = listener.accept()
    while True:
        data = conn.recv(1024)
        if not data:
            break
        print(data.decode(errors="replace"), flush=True)
        if data.decode(errors="replace").strip().lower() == "stop":
            conn.sendall(b"Goodbye!\n")
            break
        conn.sendall(data)
    conn.close()
