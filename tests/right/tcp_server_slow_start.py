# It takes ten seconds to start, as if it were compiled first.
import socket
import sys
import time

print("starting ...")
time.sleep(10)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        conn, _ = listener.accept()
        with conn:
            while data := conn.recv(2048):
                print(data.decode(errors="replace"), end="")
                conn.sendall(data)
                if data.strip() == b"stop":
                    break
