# It thinks for a second about each answer.
import socket
import sys
import threading
import time


def serve(conn):
    with conn:
        while data := conn.recv(65536):
            time.sleep(1)
            print("got", data.decode(errors="replace"))
            conn.sendall(data)
            if data.strip() in (b"stop", b"exit"):
                return


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
