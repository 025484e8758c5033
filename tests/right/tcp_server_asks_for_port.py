# grade: --type {port}
# It asks for its port.
import socket

port = int(input("Which port shall I listen on? "))
listener = socket.create_server(("127.0.0.1", port))
print("listening on", port)
while True:
    conn, _ = listener.accept()
    while data := conn.recv(1024):
        print("message:", data.decode(errors="replace"))
        conn.sendall(data)
        if data.strip() == b"stop":
            break
    conn.close()
